/** Tables of tokens: cells of the logit lens with their best tokens, and prompts whose tokens carry a number each. */
import { colourOf, indexOf, inkOn, type Lut } from './colour';
import { number, words } from './format';
import type { TokenTableResult } from './results';
import { round, type Scene, type Shape } from './scene';
import { glyph, isTokenAxis, quoted, short } from './tokens';
import type { Axis } from './types';

export interface Choice {
  token: string;
  value: number;
}

/** The tokens of a cell, best first; none where there is no cell. */
export function choices(table: TokenTableResult, row: number, column: number): Choice[] {
  const tokens = table.tokens[row]?.[column] ?? [];
  const from = (row * table.columns.ticks.length + column) * table.k;
  return tokens.map((token, i) => ({ token, value: table.values[from + i]! })).filter((one, i) => one.token !== '' || (i === 0 && !Number.isNaN(one.value)));
}

/** One token a cell and no token axis across: prompts written out, coloured by their tokens' numbers (saliency). */
export function isText(table: TokenTableResult): boolean {
  return table.k === 1 && !['layer', 'site', 'component'].includes(table.rows.name);
}

/** `layer 3` / `position 4 ‘·Mary’`. */
export function tickName(axis: Axis, index: number): string {
  const tick = axis.ticks[index];
  if (isTokenAxis(axis) && tick && tick.label !== String(index)) return `${axis.name} ${index} ${quoted(tick.label)}`;
  return `${axis.name} ${tick?.label ?? index}`;
}

/** `layer 3, position 4 ‘·Mary’: ‘·John’ 0.41, ‘·her’ 0.12`. */
export function cellWords(table: TokenTableResult, row: number, column: number): string {
  const found = choices(table, row, column);
  const list = found.map((one) => `${quoted(one.token)} ${number(one.value)}`).join(', ');
  return `${tickName(table.rows, row)}, ${tickName(table.columns, column)}: ${list || 'no cell'}`;
}

export function tableSummary(table: TokenTableResult): string {
  const [nr, nc] = [table.rows.ticks.length, table.columns.ticks.length];
  const head = isText(table)
    ? `${table.title}: ${nr} ${nr === 1 ? 'prompt' : 'prompts'}, each token with its ${table.quantity.title}.`
    : `${table.title}: ${nr} ${table.rows.name}s by ${nc} ${table.columns.name}s, the best ${table.k === 1 ? 'token' : `${table.k} tokens`} each.`;
  const best = strongest(table);
  return best ? `${head} Largest ${table.quantity.title}: ${cellWords(table, best.row, best.column)}.` : head;
}

export function strongest(table: TokenTableResult): { row: number; column: number } | null {
  let best: { row: number; column: number } | null = null;
  let size = -1;
  table.tokens.forEach((cells, row) =>
    cells.forEach((_, column) => {
      const [first] = choices(table, row, column);
      if (!first || !(Math.abs(first.value) > size)) return;
      size = Math.abs(first.value);
      best = { row, column };
    }),
  );
  return best;
}

const CELL_W = 74;
const CELL_H = 20;
const LEFT = 96;
const TOP = 8;
const MAX_COLUMNS = 200;

/** The table as a drawing: for files, where a page's table cannot go. Rows from the bottom, as on screen. */
export function drawTable(table: TokenTableResult, lut: Lut, domain: readonly [number, number], up: boolean): Scene {
  const nr = table.rows.ticks.length;
  const nc = Math.min(MAX_COLUMNS, table.columns.ticks.length);
  const shapes: Shape[] = [];
  for (let i = 0; i < nr; i += 1) {
    const row = up ? nr - 1 - i : i;
    const y = TOP + i * CELL_H;
    shapes.push({ kind: 'text', x: LEFT - 8, y: y + 14, text: short(table.rows.ticks[row]?.label ?? String(row), 14), anchor: 'end', size: 11, fill: 'muted' });
    for (let c = 0; c < nc; c += 1) shapes.push(...drawCell(table, row, c, { x: LEFT + c * CELL_W, y }, lut, domain));
  }
  const base = TOP + nr * CELL_H;
  for (let c = 0; c < nc && !isText(table); c += 1) {
    const x = LEFT + c * CELL_W + CELL_W / 2;
    shapes.push({ kind: 'text', x, y: base + 15, text: short(table.columns.ticks[c]?.label ?? '', 9), anchor: 'middle', mono: true, size: 11 });
    shapes.push({ kind: 'text', x, y: base + 29, text: String(c), anchor: 'middle', size: 10, fill: 'muted' });
  }
  shapes.push({ kind: 'text', x: 2, y: base + 15, text: words(table.rows.title), bold: true, size: 11, fill: 'muted' });
  const unit = table.quantity.unit ? ` (${table.quantity.unit})` : '';
  shapes.push({ kind: 'text', x: 2, y: base + 46, text: `Colour: ${table.quantity.title}${unit}, ${number(domain[0])} to ${number(domain[1])}`, size: 11, fill: 'muted' });
  return { width: LEFT + nc * CELL_W + 16, height: base + 54, shapes };
}

function drawCell(
  table: TokenTableResult, row: number, column: number, at: { x: number; y: number }, lut: Lut,
  domain: readonly [number, number],
): Shape[] {
  const [best] = choices(table, row, column);
  if (!best) return [];
  const known = Number.isFinite(best.value);
  const fill = known ? colourOf(lut, best.value, domain) : '#e2e7ee';
  const ink = known ? inkOn(lut, indexOf(best.value, domain)) : '#000000';
  return [
    { kind: 'rect', x: round(at.x), y: at.y, w: CELL_W - 1, h: CELL_H - 1, fill },
    { kind: 'text', x: at.x + CELL_W / 2, y: at.y + 14, text: short(best.token, 9), anchor: 'middle', mono: true, size: 11, fill: ink },
  ];
}

/** Background and ink of a value; nothing for what is no number. */
export function paintOf(value: number, lut: Lut, domain: readonly [number, number]): { background: string; color: string } | null {
  if (!Number.isFinite(value)) return null;
  return { background: colourOf(lut, value, domain), color: inkOn(lut, indexOf(value, domain)) };
}

/** Is a special token: such a chip keeps its outline on any colour. */
export function isChip(token: string): boolean {
  return glyph(token).chip;
}
