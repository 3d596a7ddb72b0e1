/** Maps made from results: the heatmap draws them as it draws the panels of a run. */
import { extent } from './scale';
import type { AttentionResult, EdgesResult, GridResult, Numbers } from './results';
import { panelOf } from './results';
import type { PanelState } from './run-state';
import { TileStore } from './tiles';
import type { Axis, Quantity, Tick } from './types';

export function plainTick(label: string): Tick {
  return { label, corrupted: null, differs: false, varies: false };
}

/** Planes as float32 in a store. Cells of which `exists` is 0 stay unknown; without it, NaN everywhere means unknown. */
function stored(planes: ArrayLike<number>[], rows: number, columns: number, exists?: ArrayLike<number>): TileStore {
  const store = new TileStore(planes.length, rows, columns);
  planes.forEach((plane, p) => store.plane(p).set(plane));
  for (let i = 0; i < store.cells; i += 1) {
    const known = exists ? exists[i] === 1 : planes.some((plane) => !Number.isNaN(plane[i]));
    if (!known) continue;
    store.known[i] = 1;
    store.done += 1;
  }
  store.version += 1;
  return store;
}

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

/** One head, query × key. Keys a mask forbids are NaN in every plane and stay blank. */
export function headPanel(result: AttentionResult, layer: number, head: number): PanelState {
  const size = result.tokens.length;
  const from = (layer * result.heads + head) * size * size;
  const planes = result.planes.map((plane) => plane.subarray(from, from + size * size));
  const ticks = result.tokens.map(plainTick);
  const payload = {
    index: 0,
    name: `${result.name}-L${layer}H${head}`,
    title: `${result.title}: layer ${layer}, head ${head}`,
    rows: { name: 'query', title: 'Query', ticks },
    columns: { name: 'key', title: 'Key', ticks },
    quantities: result.quantities,
    facts: { ...result.facts, layer, head },
    blank: 'no attention: masked',
  };
  return { payload, store: stored(planes, size, size) };
}

export const WHOLE = -1;

/** Sources × readers of the scores, of all positions or of one span. Pairs without an edge stay blank. */
export function adjacencyPanel(result: EdgesResult, span = WHOLE): PanelState {
  const scores = scoresOf(result, span);
  const axis = (name: string, title: string, names: string[]): Axis => ({ name, title, ticks: names.map(plainTick) });
  const quantity = scoreQuantity(result, scores);
  const payload = {
    index: 0,
    name: `${result.name}-map`,
    title: span === WHOLE ? result.title : `${result.title}, span ${result.spans[span] ?? span}`,
    rows: axis('source', 'Source', result.sources),
    columns: axis('reader', 'Reader', result.readers),
    quantities: [quantity],
    facts: result.facts,
    blank: 'no such edge',
  };
  return { payload, store: stored([scores], result.sources.length, result.readers.length, result.real) };
}

export function scoresOf(result: EdgesResult, span: number): Numbers {
  if (span === WHOLE || !result.spanScores) return result.scores;
  const size = result.scores.length;
  return result.spanScores.subarray(span * size, (span + 1) * size);
}

/** Scores have no domain of their own: symmetric about zero, to the largest of the edges there are. */
function scoreQuantity(result: EdgesResult, scores: Numbers): Quantity {
  let size = 0;
  for (let i = 0; i < scores.length; i += 1) if (result.real[i] === 1) size = Math.max(size, Math.abs(scores[i]!) || 0);
  const unit = typeof result.facts.unit === 'string' ? result.facts.unit : '';
  return { key: 'score', title: 'Score', unit, scale: 'diverging', domain: [-(size || 1), size || 1], anchors: {} };
}
