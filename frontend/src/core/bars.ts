/** Horizontal bars: order, geometry and drawing. Lengths start at zero; whatever sticks out of the domain widens it. */
import { number, tick as tickText, words } from './format';
import type { BarsResult, Numbers } from './results';
import { extent, scale, type Scale } from './scale';
import { round, type Scene, type Shape } from './scene';
import { isTokenAxis, quoted, short } from './tokens';
import type { Axis, Quantity } from './types';

export interface Bar {
  index: number;
  label: string;
  value: number;
  low: number | null;
  high: number | null;
}

export type BarOrder = 'axis' | 'size';

export function barLabel(axis: Axis, index: number): string {
  const label = axis.ticks[index]?.label ?? String(index);
  return isTokenAxis(axis) ? `${index} ${short(label, 14)}` : short(label, 24);
}

/** `position 3 ‘·Mary’` / `head L0H3`: one bar in words. */
export function barName(axis: Axis, index: number): string {
  const label = axis.ticks[index]?.label ?? String(index);
  return isTokenAxis(axis) ? `${axis.name} ${index} ${quoted(label)}` : `${axis.name} ${label}`;
}

export function barsOf(result: BarsResult, key: string): Bar[] {
  const values: Numbers | undefined = result.values[key];
  if (!values) return [];
  const at = (list: Numbers | undefined, i: number): number | null => (list && Number.isFinite(list[i]) ? list[i]! : null);
  return Array.from(values, (value, index) => ({
    index,
    label: barLabel(result.axis, index),
    value,
    low: at(result.low[key], index),
    high: at(result.high[key], index),
  }));
}

/** Largest |value| first, values that are no numbers last; ties stay in the order of the axis. */
export function ordered(bars: Bar[], by: BarOrder): Bar[] {
  if (by === 'axis') return bars;
  const size = (bar: Bar): number => (Number.isFinite(bar.value) ? Math.abs(bar.value) : -1);
  return [...bars].sort((a, b) => size(b) - size(a) || a.index - b.index);
}

const ROW = 20;
const BAR = 12;
const TOP = 30;
const BOTTOM = 26;
const VALUE = 62;

export interface BarsDrawing extends Scene {
  scale: Scale;
  rows: { bar: Bar; y: number }[];
  rowHeight: number;
}

export interface BarsInput {
  axis: Axis;
  quantity: Quantity;
  bars: Bar[];
  /** Every bar, so that the scale stays when only some are shown. */
  all: Bar[];
  width: number;
  measure: (text: string) => number;
}

export function barDomain(quantity: Quantity, bars: Bar[]): [number, number] {
  const [low, high] = extent(
    [bars.map((bar) => bar.value), bars.map((bar) => bar.low ?? bar.value), bars.map((bar) => bar.high ?? bar.value)],
    [0, 0],
  );
  const [from, to] = quantity.domain;
  // A fixed domain much wider than the numbers would make every bar a hairline: it counts only as a frame of the same size.
  const wide = Math.max(Math.abs(low), Math.abs(high)) < 0.25 * Math.max(Math.abs(from), Math.abs(to));
  if (wide && (low !== 0 || high !== 0)) return low < 0 && high > 0 ? [low, high] : [Math.min(0, low), Math.max(0, high)];
  return [Math.min(from, low, 0), Math.max(to, high, 0)];
}

export function drawBars({ axis, quantity, bars, all, width, measure }: BarsInput): BarsDrawing {
  const gutter = Math.min(width * 0.4, Math.max(48, ...bars.map((bar) => measure(bar.label) + 14)));
  const plot = { from: gutter, to: Math.max(gutter + 60, width - VALUE) };
  const x = scale(barDomain(quantity, all), [plot.from, plot.to], false, plot.to - plot.from < 260 ? 3 : 6);
  const height = TOP + bars.length * ROW + BOTTOM;
  const shapes: Shape[] = [
    { kind: 'text', x: 2, y: 14, text: words(axis.title), bold: true, fill: 'muted' },
    { kind: 'text', x: width - 2, y: 14, text: quantity.unit ? `${quantity.title} (${quantity.unit})` : quantity.title, anchor: 'end', bold: true, fill: 'muted' },
  ]; // prettier-ignore
  for (const value of x.ticks) {
    const at = round(x.at(value));
    shapes.push({ kind: 'line', x1: at, x2: at, y1: TOP - 4, y2: height - BOTTOM, stroke: 'line' });
    shapes.push({ kind: 'text', x: at, y: height - 8, text: tickText(value), anchor: 'middle', size: 11, fill: 'muted' });
  }
  const rows = bars.map((bar, i) => ({ bar, y: TOP + i * ROW }));
  for (const { bar, y } of rows) shapes.push(...drawBar(bar, y, x, gutter, width));
  const zero = round(x.at(0));
  shapes.push({ kind: 'line', x1: zero, x2: zero, y1: TOP - 4, y2: height - BOTTOM, stroke: 'line-strong' });
  return { width, height, shapes, scale: x, rows, rowHeight: ROW };
}

function drawBar(bar: Bar, y: number, x: Scale, gutter: number, width: number): Shape[] {
  const middle = y + ROW / 2;
  const data = { index: bar.index, value: String(bar.value) };
  const label: Shape = { kind: 'text', x: gutter - 8, y: middle + 4, text: bar.label, anchor: 'end', mono: true };
  if (!Number.isFinite(bar.value)) {
    return [label, { kind: 'text', x: x.at(0) + 4, y: middle + 4, text: '× not a number', size: 11, fill: 'muted', data }];
  }
  const [from, to] = [x.at(0), x.at(bar.value)].sort((a, b) => a - b) as [number, number];
  const paint = bar.value < 0 ? 'fig-negative' : 'fig-positive';
  const shapes: Shape[] = [
    label,
    { kind: 'rect', x: from, y: middle - BAR / 2, w: Math.max(to - from, 1), h: BAR, fill: paint, data },
  ];
  let end = to;
  if (bar.low !== null && bar.high !== null) {
    const [low, high] = [x.at(bar.low), x.at(bar.high)];
    end = Math.max(end, high);
    shapes.push({ kind: 'line', x1: low, x2: high, y1: middle, y2: middle, stroke: 'text', width: 1.25 });
    for (const at of [low, high]) shapes.push({ kind: 'line', x1: at, x2: at, y1: middle - 4, y2: middle + 4, stroke: 'text', width: 1.25 });
  }
  const at = Math.min(end + 6, width - VALUE + 8);
  return [...shapes, { kind: 'text', x: at, y: middle + 4, text: number(bar.value), size: 11, fill: 'muted' }];
}

/** The figure in a sentence or two. */
export function barsSummary(result: BarsResult, quantity: Quantity): string {
  const bars = barsOf(result, quantity.key);
  const [best] = ordered(bars, 'size');
  const head = `${result.title}: ${bars.length} ${result.axis.name}s.`;
  if (!best || !Number.isFinite(best.value)) return head;
  const range = best.low !== null && best.high !== null ? `, interval ${number(best.low)} to ${number(best.high)}` : '';
  return `${head} Largest ${quantity.title}: ${number(best.value)}${range} at ${barName(result.axis, best.index)}.`;
}
