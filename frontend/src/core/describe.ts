/** Cells and maps in words: tooltips, live text for screen readers and summaries all come from here. */
import { number } from './format';
import type { Cell } from './heat-layout';
import type { PanelState } from './run-state';
import { isTokenAxis, quoted } from './tokens';
import type { Axis } from './types';

/** `layer 9` / `head 3`. */
export function rowName(panel: PanelState, row: number): string {
  return placeName(panel.payload.rows, row);
}

/** `position 14 ‘·Mary’ (corrupted ‘·John’)` / `head 3`. */
export function columnName(panel: PanelState, column: number): string {
  return placeName(panel.payload.columns, column);
}

function placeName(axis: Axis, index: number): string {
  const tick = axis.ticks[index];
  if (!isTokenAxis(axis) || !tick) return `${axis.name.replaceAll('.', ' · ')} ${tick?.label ?? index}`;
  const other = tick.differs && tick.corrupted !== null ? ` (corrupted ${quoted(tick.corrupted)})` : '';
  return `${axis.name} ${index} ${quoted(tick.label)}${other}`;
}

/** Units longer than this are a sentence: the legend says them once. */
const SHORT_UNIT = 12;

const UNFINISHED = 'not computed yet';

export function valueText(value: number | undefined, unit: string, blank = UNFINISHED): string {
  if (value === undefined) return blank;
  if (Number.isNaN(value)) return blank === UNFINISHED ? 'not a number' : blank;
  return unit && unit.length <= SHORT_UNIT ? `${number(value)} ${unit}` : number(value);
}

/** `layer 9, position 14 ‘·Mary’, recovery 0.82`: what a screen reader says of the focused cell. */
export function cellText(panel: PanelState, plane: number, cell: Cell): string {
  const quantity = panel.payload.quantities[plane];
  const value = panel.store.read(plane, cell.row, cell.column);
  const title = quantity?.title ?? 'value';
  return `${rowName(panel, cell.row)}, ${columnName(panel, cell.column)}, ${title} ${valueText(value, quantity?.unit ?? '', panel.payload.blank)}`;
}

/** `Recovery` → `recovery`, but `KL divergence` stays. */
function inSentence(title: string): string {
  return /^[A-Z][a-z]/u.test(title) ? title.charAt(0).toLowerCase() + title.slice(1) : title;
}

/** `layers`, `queries`. */
function many(axis: string): string {
  const name = axis.replaceAll('.', '·');
  return /[^aeiou]y$/u.test(name) ? `${name.slice(0, -1)}ies` : `${name}s`;
}

/** One or two sentences that stand for the figure where it cannot be seen. */
export function summary(panel: PanelState, plane: number): string {
  const { store, payload } = panel;
  const quantity = payload.quantities[plane];
  const size = `${payload.title}: ${payload.rows.ticks.length} ${many(payload.rows.name)} by ${payload.columns.ticks.length} ${many(payload.columns.name)}, ${store.done} of ${store.cells} cells ${payload.blank ? 'with a value' : 'computed'}.`;
  const [best] = store.strongest(plane, 1);
  if (!best || !quantity) return size;
  return `${size} Strongest ${inSentence(quantity.title)}: ${valueText(best.value, quantity.unit)} at ${rowName(panel, best.row)}, ${columnName(panel, best.column)}.`;
}
