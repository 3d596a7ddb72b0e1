/** Cells and maps in words: tooltips, live text for screen readers and summaries all come from here. */
import { number } from './format';
import type { Cell } from './heat-layout';
import type { PanelState } from './run-state';
import { quoted } from './tokens';

/** `layer 9` / `head 3`. */
export function rowName(panel: PanelState, row: number): string {
  const axis = panel.payload.rows;
  return `${axis.name} ${axis.ticks[row]?.label ?? row}`;
}

/** `position 14 ‘·Mary’ (corrupted ‘·John’)` / `head 3`. */
export function columnName(panel: PanelState, column: number): string {
  const axis = panel.payload.columns;
  const tick = axis.ticks[column];
  if (axis.name !== 'position' || !tick) return `${axis.name} ${tick?.label ?? column}`;
  const other = tick.differs && tick.corrupted !== null ? ` (corrupted ${quoted(tick.corrupted)})` : '';
  return `position ${column} ${quoted(tick.label)}${other}`;
}

/** Units longer than this are a sentence: the legend says them once. */
const SHORT_UNIT = 12;

export function valueText(value: number | undefined, unit: string): string {
  if (value === undefined) return 'not computed yet';
  if (Number.isNaN(value)) return 'not a number';
  return unit && unit.length <= SHORT_UNIT ? `${number(value)} ${unit}` : number(value);
}

/** `layer 9, position 14 ‘·Mary’, recovery 0.82`: what a screen reader says of the focused cell. */
export function cellText(panel: PanelState, plane: number, cell: Cell): string {
  const quantity = panel.payload.quantities[plane];
  const value = panel.store.read(plane, cell.row, cell.column);
  const title = quantity?.title ?? 'value';
  return `${rowName(panel, cell.row)}, ${columnName(panel, cell.column)}, ${title} ${valueText(value, quantity?.unit ?? '')}`;
}

/** `Recovery` → `recovery`, but `KL divergence` stays. */
function inSentence(title: string): string {
  return /^[A-Z][a-z]/u.test(title) ? title.charAt(0).toLowerCase() + title.slice(1) : title;
}

/** One or two sentences that stand for the figure where it cannot be seen. */
export function summary(panel: PanelState, plane: number): string {
  const { store, payload } = panel;
  const quantity = payload.quantities[plane];
  const size = `${payload.title}: ${payload.rows.ticks.length} ${payload.rows.name}s by ${payload.columns.ticks.length} ${payload.columns.name}s, ${store.done} of ${store.cells} cells computed.`;
  const [best] = store.strongest(plane, 1);
  if (!best || !quantity) return size;
  return `${size} Strongest ${inSentence(quantity.title)}: ${valueText(best.value, quantity.unit)} at ${rowName(panel, best.row)}, ${columnName(panel, best.column)}.`;
}
