/** Finished grids as maps: the mean over the pairs, and each pair alone. */
import type { GridResult } from './results';
import type { PanelState } from './run-state';
import { extent } from './scale';
import { stored } from './stored';
import type { PanelPayload, Quantity } from './types';

export function gridPanel(grid: GridResult): PanelState {
  const [nr, nc] = [grid.rows.ticks.length, grid.columns.ticks.length];
  return { payload: panelOf(grid), store: stored(grid.planes, nr, nc) };
}

/** The raw metric of one pair. Its scale spans all pairs', so that pairs can be compared. */
export function examplePanel(grid: GridResult, pair: number): PanelState | null {
  const { examples, rows, columns } = grid;
  if (!examples) return null;
  const cells = rows.ticks.length * columns.ticks.length;
  const raw = grid.quantities.find((q) => q.key === 'raw') ?? grid.quantities[0];
  if (!raw) return null;
  const [low, high] = extent([examples], [0, 0]);
  const domain: [number, number] = raw.scale === 'sequential' ? [Math.min(0, low), Math.max(high, 1e-9)] : symmetric(low, high);
  const quantity: Quantity = { ...raw, title: `${raw.title}, pair ${pair + 1}`, domain, anchors: anchorsOf(grid, pair) };
  const payload = { ...panelOf(grid), title: `${grid.title}, pair ${pair + 1}`, quantities: [quantity] };
  const plane = examples.subarray(pair * cells, (pair + 1) * cells);
  return { payload, store: stored([plane], rows.ticks.length, columns.ticks.length) };
}

export function exampleCount(grid: GridResult): number {
  const cells = grid.rows.ticks.length * grid.columns.ticks.length;
  return grid.examples && cells > 0 ? grid.examples.length / cells : 0;
}

function anchorsOf({ clean, corrupted }: GridResult, pair: number): Record<string, string> {
  const found: Record<string, string> = {};
  if (corrupted) found[String(corrupted[pair])] = 'this pair’s corrupted run';
  if (clean) found[String(clean[pair])] = 'this pair’s clean run';
  return found;
}

function symmetric(low: number, high: number): [number, number] {
  const size = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return [-size, size];
}

/** The panel a grid would have been announced as. */
function panelOf(grid: GridResult): PanelPayload {
  const { name, title, rows, columns, quantities, facts } = grid;
  return { index: 0, name, title, rows, columns, quantities, facts, blank: 'no value', whole: true };
}
