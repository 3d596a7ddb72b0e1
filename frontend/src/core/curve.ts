/** Lines over x: scales, bands, lines at 0 and 1, and a marker that reads every series at one x. */
import { number, tick as tickText, words } from './format';
import type { CurveResult, CurveSeries, Numbers } from './results';
import { extent, scale, type Scale } from './scale';
import { round, type Scene, seriesPaint, type Shape } from './scene';

export interface CurveDrawing extends Scene {
  x: Scale;
  y: Scale;
}

const LEFT = 56;
const RIGHT = 16;
const TOP = 22;
const BOTTOM = 44;
/** Dashes as well as colours tell series apart. */
const DASHES = ['', '7 3', '2 3', '9 3 2 3', '5 2', '1 2'];

export interface CurveInput {
  curve: CurveResult;
  shown: ReadonlySet<string>;
  width: number;
  height: number;
  /** Index of the marked x, or null. */
  marked: number | null;
}

export function dashOf(index: number): string {
  return DASHES[index % DASHES.length] ?? '';
}

/** Values that stick out of the fixed domain widen it; a domain far wider than the values does not squash them. */
export function curveDomain(curve: CurveResult, shown: ReadonlySet<string>): [number, number] {
  const lines = curve.series.filter((line) => shown.has(line.key)).flatMap((line) => [line.y, line.low, line.high]);
  const [low, high] = extent(lines, [Infinity, -Infinity]);
  const [from, to] = curve.quantity.domain;
  if (!(low <= high)) return [from, to];
  const named = Object.keys(curve.quantity.anchors).map(Number).filter(Number.isFinite);
  // Zero belongs into the frame where the values are near it; a far zero would only press them flat.
  const near = low <= (high - low) * 1.5 && high >= -(high - low) * 1.5;
  const [a, b] = extent([named, near ? [0] : [], curve.quantity.scale === 'sequential' && high > 0.25 * to ? [from, to] : []], [low, high]);
  const pad = (b - a || 1) * 0.04;
  return [a === 0 ? 0 : a - pad, b + pad];
}

export function drawCurve({ curve, shown, width, height, marked }: CurveInput): CurveDrawing {
  const [first, last] = extent([curve.x], [Infinity, -Infinity]);
  const spanX: [number, number] = first < last ? [first, last] : curve.logX ? [first / 2, first * 2] : [first - 1, first + 1];
  const x = scale(spanX, [LEFT, width - RIGHT], curve.logX, width < 480 ? 4 : 8);
  const y = scale(curveDomain(curve, shown), [height - BOTTOM, TOP], false, 5);
  const shapes = [...frame(curve, x, y, width, height)];
  curve.series.forEach((line, i) => {
    if (shown.has(line.key)) shapes.push(...drawLine(curve.x, line, i, x, y));
  });
  if (marked !== null && marked < curve.x.length) shapes.push(...marker(curve, shown, marked, x, y, height));
  return { width, height, shapes, x, y };
}

function* frame(curve: CurveResult, x: Scale, y: Scale, width: number, height: number): Generator<Shape> {
  for (const value of y.ticks) {
    const at = round(y.at(value));
    yield { kind: 'line', x1: LEFT, x2: width - RIGHT, y1: at, y2: at, stroke: 'line' };
    yield { kind: 'text', x: LEFT - 8, y: at + 4, text: tickText(value), anchor: 'end', size: 11, fill: 'muted' };
  }
  for (const value of x.ticks) {
    const at = round(x.at(value));
    yield { kind: 'line', x1: at, x2: at, y1: height - BOTTOM, y2: height - BOTTOM + 5, stroke: 'line-strong' };
    yield { kind: 'text', x: at, y: height - BOTTOM + 18, text: tickText(value), anchor: 'middle', size: 11, fill: 'muted' };
  }
  for (const value of [0, 1]) {
    if (value < y.domain[0] || value > y.domain[1] || (value === 1 && !('1' in curve.quantity.anchors) && y.domain[1] > 3)) continue;
    const at = round(y.at(value));
    yield { kind: 'line', x1: LEFT, x2: width - RIGHT, y1: at, y2: at, stroke: 'line-strong', dash: value === 1 ? '4 3' : '' };
  }
  const { quantity } = curve;
  const unit = (title: string, name: string): string => (name ? `${title} (${name})` : title);
  yield { kind: 'text', x: 2, y: 13, text: unit(quantity.title, quantity.unit), bold: true, fill: 'muted' };
  const log = curve.logX ? ', log scale' : '';
  yield { kind: 'text', x: width - RIGHT, y: height - 6, text: `${unit(words(curve.xTitle), curve.xUnit)}${log} →`, anchor: 'end', bold: true, fill: 'muted' };
}

function* drawLine(xs: Numbers, line: CurveSeries, index: number, x: Scale, y: Scale): Generator<Shape> {
  const paint = seriesPaint(index);
  if (line.low && line.high) yield { kind: 'path', d: bandPath(xs, line.low, line.high, x, y), fill: paint, opacity: 0.18 };
  yield { kind: 'path', d: linePath(xs, line.y, x, y), stroke: paint, width: 2, dash: dashOf(index), data: { series: line.key } };
  if (xs.length > 40) return;
  for (let i = 0; i < xs.length; i += 1) {
    if (!Number.isFinite(line.y[i])) continue;
    const [a, b] = [x.at(xs[i]!), y.at(line.y[i]!)];
    yield { kind: 'rect', x: a - 2.5, y: b - 2.5, w: 5, h: 5, r: 2.5, fill: paint };
  }
}

function marker(curve: CurveResult, shown: ReadonlySet<string>, index: number, x: Scale, y: Scale, height: number): Shape[] {
  const at = round(x.at(curve.x[index]!));
  const shapes: Shape[] = [{ kind: 'line', x1: at, x2: at, y1: TOP, y2: height - BOTTOM, stroke: 'text', opacity: 0.5 }];
  curve.series.forEach((line, i) => {
    const value = line.y[index]!;
    if (!shown.has(line.key) || !Number.isFinite(value)) return;
    shapes.push({ kind: 'rect', x: at - 4, y: y.at(value) - 4, w: 8, h: 8, r: 4, fill: seriesPaint(i), stroke: 'bg' });
  });
  return shapes;
}

/** A gap in the numbers is a gap in the line: nothing is drawn across it. */
export function linePath(xs: Numbers, ys: Numbers, x: Scale, y: Scale): string {
  let pen = false;
  let d = '';
  for (let i = 0; i < xs.length; i += 1) {
    if (!Number.isFinite(ys[i])) {
      pen = false;
      continue;
    }
    d += `${pen ? 'L' : 'M'}${round(x.at(xs[i]!))} ${round(y.at(ys[i]!))}`;
    pen = true;
  }
  return d;
}

export function bandPath(xs: Numbers, low: Numbers, high: Numbers, x: Scale, y: Scale): string {
  const points = Array.from(xs, (value, i) => ({ at: round(x.at(value)), low: low[i]!, high: high[i]! })).filter(
    (point) => Number.isFinite(point.low) && Number.isFinite(point.high),
  );
  if (points.length === 0) return '';
  const upper = points.map((point) => `${point.at} ${round(y.at(point.high))}`);
  const lower = points.reverse().map((point) => `${point.at} ${round(y.at(point.low))}`);
  return `M${[...upper, ...lower].join('L')}Z`;
}

/** Index of the x nearest to a place. */
export function nearest(curve: CurveResult, x: Scale, place: number): number {
  let best = 0;
  let distance = Infinity;
  for (let i = 0; i < curve.x.length; i += 1) {
    const away = Math.abs(x.at(curve.x[i]!) - place);
    if (away < distance) [best, distance] = [i, away];
  }
  return best;
}

/** Every shown series at one x, in words. */
export function pointText(curve: CurveResult, index: number, shown: ReadonlySet<string>): string {
  const unit = curve.xUnit ? ` ${curve.xUnit}` : '';
  const values = curve.series.filter((line) => shown.has(line.key)).map((line) => `${line.title} ${pointValue(line, index)}`);
  return `${curve.xTitle} ${number(curve.x[index] ?? Number.NaN)}${unit}: ${values.join(', ')}`;
}

export function pointValue(line: CurveSeries, index: number): string {
  const range = line.low && line.high ? ` (${number(line.low[index]!)} to ${number(line.high[index]!)})` : '';
  return `${number(line.y[index]!)}${range}`;
}

export function curveSummary(curve: CurveResult): string {
  const n = curve.x.length;
  const head = `${curve.title}: ${curve.quantity.title} over ${curve.xTitle}, ${curve.series.length === 1 ? 'one line' : `${curve.series.length} lines`} of ${n} points.`;
  const ends = curve.series.map((line) => `${line.title} goes from ${number(line.y[0]!)} to ${number(line.y[n - 1]!)}`);
  return n === 0 ? head : `${head} ${ends.slice(0, 4).join('; ')}.`;
}
