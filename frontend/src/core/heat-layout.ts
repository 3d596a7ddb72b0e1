/**
 * Geometry of a heatmap: where cells, ticks and labels go. Pure arithmetic, shared by the canvas painter and the SVG
 * export. Row 0 is at the bottom unless flipped, because the residual stream flows up.
 */
import type { Rect } from './tiles';
import { glyph, isTokenAxis, short } from './tokens';
import type { Axis, Tick } from './types';

export interface Cell {
  row: number;
  column: number;
}

export type LabelMode = 'flat' | 'steep';

export interface ColumnLabel {
  column: number;
  clean: string;
  chip: boolean;
  /** Printed under the clean token where the two prompts differ. */
  corrupted: string | null;
  differs: boolean;
  varies: boolean;
}

export interface Geometry {
  /** CSS pixels of the visible canvas. */
  width: number;
  height: number;
  /** The window cells are seen through. */
  plot: { x: number; y: number; w: number; h: number };
  /** Width of all visible columns together; more than `plot.w` where the figure scrolls sideways. */
  contentWidth: number;
  cellW: number;
  cellH: number;
  view: Rect;
  flip: boolean;
  labelMode: LabelMode;
  labels: ColumnLabel[];
  rowTicks: number[];
  /** Two lines under the axis where any visible column differs between the prompts. */
  twoLines: boolean;
}

export interface LayoutInput {
  rows: Axis;
  columns: Axis;
  view: Rect;
  width: number;
  maxPlotHeight: number;
  flip: boolean;
  /** Width in CSS pixels of a label in the axis font. */
  measure: (text: string) => number;
}

export const TOP = 26;
export const RIGHT = 14;
const AXIS_GAP = 6;
const LINE = 15;
/** Narrower cells hold no token; columns that are no tokens (readers of edges, heads) only need to be pointed at. */
const MIN_READABLE = 24;
const MIN_POINTED = 8;
const MAX_CELL_W = 112;
const MAX_CELL_H = 56;
/** Up to this many columns keep a width at which tokens can be read, and scroll; more are fitted as an overview. */
const SCROLLED_COLUMNS = 64;
const LABEL_LIMIT = 14;
/** Labels at 45° need this much room side by side. */
const MIN_LABEL_STEP = 17;
/** More differing columns than this say nothing as labels of an overview. */
const MAX_DIFFERING = 24;
/** Between a clean token and the corrupted one behind it, in a steep label. */
export const PAIR_GAP = 10;

/** A row's label as it is printed: tokens with what is invisible in them, and with their number. */
export function rowLabel(rows: Axis, row: number): string {
  const label = rows.ticks[row]?.label;
  if (label === undefined) return String(row);
  return isTokenAxis(rows) ? `${row} ${short(label, LABEL_LIMIT)}` : short(label, 24);
}

export function fullView(rows: number, columns: number): Rect {
  return { r0: 0, c0: 0, r1: rows, c1: columns };
}

export function layout(input: LayoutInput): Geometry {
  const { rows, columns, view, width, maxPlotHeight, flip, measure } = input;
  const nr = view.r1 - view.r0;
  const nc = view.c1 - view.c0;
  const gutter = gutterWidth(rows, measure);
  const plotW = Math.max(60, width - gutter - RIGHT);
  const fitted = plotW / nc;
  const narrowest = isTokenAxis(columns) ? MIN_READABLE : MIN_POINTED;
  const cellW = nc <= SCROLLED_COLUMNS ? Math.min(MAX_CELL_W, Math.max(narrowest, fitted)) : fitted;
  const cellH = Math.min(MAX_CELL_H, Math.max(maxPlotHeight / nr, nr <= 48 ? 13 : 0.5));
  const widest = widestLabel(columns.ticks, view, measure);
  const labelMode: LabelMode = widest.flat + 6 <= cellW ? 'flat' : 'steep';
  const labels = chooseLabels(columns.ticks, view, cellW, labelMode);
  const twoLines = labels.some((label) => label.corrupted !== null);
  const h = cellH * nr;
  const contentWidth = cellW * nc;
  return {
    width,
    height: Math.ceil(TOP + h + axisHeight(labelMode, twoLines, widest.steep, columns)),
    plot: { x: gutter, y: TOP, w: Math.min(plotW, contentWidth), h },
    contentWidth,
    cellW,
    cellH,
    view,
    flip,
    labelMode,
    labels,
    rowTicks: chooseRows(view, cellH),
    twoLines,
  };
}

function gutterWidth(rows: Axis, measure: (text: string) => number): number {
  const widest = Math.max(...rows.ticks.map((_, i) => measure(rowLabel(rows, i))), measure('00'));
  return Math.ceil(Math.max(40, widest + 24));
}

/** Width of the widest label with both tokens on two lines (flat) and on one (steep). */
function widestLabel(ticks: Tick[], view: Rect, measure: (text: string) => number): { flat: number; steep: number } {
  let flat = 0;
  let steep = 0;
  const step = Math.max(1, Math.floor((view.c1 - view.c0) / 400));
  for (let c = view.c0; c < view.c1; c += step) {
    const tick = ticks[c];
    if (!tick) continue;
    const clean = measure(short(tick.label, LABEL_LIMIT)) + (glyph(tick.label).chip ? 6 : 0);
    const corrupted = tick.differs && tick.corrupted !== null ? measure(short(tick.corrupted, LABEL_LIMIT)) : 0;
    flat = Math.max(flat, clean, corrupted);
    steep = Math.max(steep, clean + (corrupted > 0 ? PAIR_GAP + corrupted : 0));
  }
  return { flat, steep };
}

function axisHeight(mode: LabelMode, twoLines: boolean, widest: number, columns: Axis): number {
  const indexLine = isTokenAxis(columns) ? LINE : 0;
  if (mode === 'flat') return AXIS_GAP + LINE * (twoLines ? 2 : 1) + indexLine + LINE + 6;
  return AXIS_GAP + widest * Math.SQRT1_2 + LINE * Math.SQRT1_2 + indexLine + LINE + 8;
}

/** Columns to label: all where they fit; else first, last and differing ones, then every k-th that has room. */
export function chooseColumns(differs: boolean[], cellW: number): number[] {
  const count = differs.length;
  if (cellW >= MIN_LABEL_STEP) return differs.map((_, i) => i);
  const taken: number[] = [];
  const room = (i: number): boolean => taken.every((other) => Math.abs(other - i) * cellW >= MIN_LABEL_STEP);
  const add = (i: number): void => {
    if (i >= 0 && i < count && room(i)) taken.push(i);
  };
  add(0);
  add(count - 1);
  if (differs.filter(Boolean).length <= MAX_DIFFERING) {
    differs.forEach((differ, i) => {
      if (differ) add(i);
    });
  }
  const step = niceStep(MIN_LABEL_STEP / cellW);
  for (let i = 0; i < count; i += step) add(i);
  return taken.sort((a, b) => a - b);
}

function niceStep(least: number): number {
  for (let power = 1; ; power *= 10) {
    for (const factor of [1, 2, 5]) if (factor * power >= least) return factor * power;
  }
}

function chooseLabels(ticks: Tick[], view: Rect, cellW: number, mode: LabelMode): ColumnLabel[] {
  const window = ticks.slice(view.c0, view.c1);
  const chosen = mode === 'flat' ? window.map((_, i) => i) : chooseColumns(window.map((t) => t.differs), cellW);
  return chosen.map((i) => {
    const tick = window[i]!;
    return {
      column: view.c0 + i,
      clean: short(tick.label, LABEL_LIMIT),
      chip: glyph(tick.label).chip,
      corrupted: tick.differs && tick.corrupted !== null ? short(tick.corrupted, LABEL_LIMIT) : null,
      differs: tick.differs,
      varies: tick.varies,
    };
  });
}

function chooseRows(view: Rect, cellH: number): number[] {
  const step = cellH >= 13 ? 1 : niceStep(13 / cellH);
  const rows: number[] = [];
  for (let r = view.r0; r < view.r1; r += 1) if (r % step === 0 || (r === view.r1 - 1 && r % step >= step / 2)) rows.push(r);
  return rows;
}

/** Left edge of a column in canvas pixels. */
export function xOf(g: Geometry, column: number, scroll = 0): number {
  return g.plot.x + (column - g.view.c0) * g.cellW - scroll;
}

/** Top edge of a row. */
export function yOf(g: Geometry, row: number): number {
  return g.plot.y + (g.flip ? row - g.view.r0 : g.view.r1 - 1 - row) * g.cellH;
}

/** The cell under a point of the canvas. */
export function hit(g: Geometry, x: number, y: number, scroll = 0): Cell | null {
  const { plot, view } = g;
  if (x < plot.x || x >= plot.x + plot.w || y < plot.y || y >= plot.y + plot.h) return null;
  const column = view.c0 + Math.floor((x - plot.x + scroll) / g.cellW);
  const step = Math.floor((y - plot.y) / g.cellH);
  const row = g.flip ? view.r0 + step : view.r1 - 1 - step;
  if (column < view.c0 || column >= view.c1 || row < view.r0 || row >= view.r1) return null;
  return { row, column };
}

/** The rectangle with these two cells as corners. */
export function spanned(a: Cell, b: Cell): Rect {
  return {
    r0: Math.min(a.row, b.row),
    c0: Math.min(a.column, b.column),
    r1: Math.max(a.row, b.row) + 1,
    c1: Math.max(a.column, b.column) + 1,
  };
}
