/**
 * The canvas painter of a heatmap. Order: hatch (unknown) → cells (one drawImage, smoothing off) → marks of NaN and
 * clipped values → crosshair, selection, pins → axes. The cell image is made anew only when values, map or view change.
 */
import { inkOn, indexOf, type Lut, outside } from './colour';
import { paintAxes } from './heat-axes';
import { type Cell, type Geometry, xOf, yOf } from './heat-layout';
import { type Raster, rasterise } from './heat-raster';
import type { Rect, TileStore } from './tiles';
import { inCell } from './format';
import type { Axis } from './types';

/** Colours of the current theme, read from the page's CSS so that a canvas and its page always agree. */
export interface Ink {
  background: string;
  surface: string;
  line: string;
  text: string;
  muted: string;
  accent: string;
  hatch: string;
  notNumber: string;
  pins: string[];
  sans: string;
  mono: string;
}

export interface Pin extends Cell {
  letter: string;
}

export interface HeatFigure {
  rows: Axis;
  columns: Axis;
  store: TileStore;
  plane: number;
  lut: Lut;
  domain: readonly [number, number];
  diverging: boolean;
  geometry: Geometry;
  scroll: number;
  hover: Cell | null;
  focus: Cell | null;
  selection: Rect | null;
  pins: Pin[];
  showValues: boolean;
  /** What is not a number is no cell at all: hatched as the background, without a mark. */
  blank: boolean;
}

const MARK_SIZE = 8;
const GRID_SIZE = 9;

export class HeatPainter {
  private readonly context: CanvasRenderingContext2D;
  private readonly image: HTMLCanvasElement;
  private imageKey = '';
  private hatch: CanvasPattern | null = null;
  private hatchKey = '';

  constructor(private readonly canvas: HTMLCanvasElement) {
    const context = canvas.getContext('2d');
    if (!context) throw new Error('This browser gives no 2D canvas.');
    this.context = context;
    this.image = document.createElement('canvas');
  }

  paint(figure: HeatFigure, ink: Ink): void {
    const { geometry: g } = figure;
    const ratio = window.devicePixelRatio || 1;
    this.resize(g.width, g.height, ratio);
    const ctx = this.context;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.fillStyle = ink.background;
    ctx.fillRect(0, 0, g.width, g.height);
    ctx.save();
    ctx.beginPath();
    ctx.rect(g.plot.x, g.plot.y, g.plot.w, g.plot.h);
    ctx.clip();
    this.paintHatch(g, ink, ratio);
    this.paintCells(figure, ink, ratio);
    this.paintGrid(figure, ink, ratio);
    this.paintMarks(figure, ink);
    this.paintOverlay(figure, ink);
    ctx.restore();
    paintAxes(ctx, figure, ink);
  }

  private resize(width: number, height: number, ratio: number): void {
    const w = Math.round(width * ratio);
    const h = Math.round(height * ratio);
    if (this.canvas.width !== w) this.canvas.width = w;
    if (this.canvas.height !== h) this.canvas.height = h;
    const style = this.canvas.style;
    if (style.width !== `${width}px`) style.width = `${width}px`;
    if (style.height !== `${height}px`) style.height = `${height}px`;
  }

  private paintHatch(g: Geometry, ink: Ink, ratio: number): void {
    const key = `${ink.hatch}|${ink.surface}|${ratio}`;
    if (this.hatchKey !== key) {
      this.hatch = hatchPattern(this.context, ink, ratio);
      this.hatchKey = key;
    }
    if (!this.hatch) return;
    const ctx = this.context;
    ctx.save();
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.fillStyle = this.hatch;
    ctx.fillRect(g.plot.x * ratio, g.plot.y * ratio, g.plot.w * ratio, g.plot.h * ratio);
    ctx.restore();
  }

  private paintCells(figure: HeatFigure, ink: Ink, ratio: number): void {
    const { geometry: g, store, domain } = figure;
    const key = [store.id, store.version, figure.plane, figure.lut.name, ...domain, ...Object.values(g.view), g.flip, ink.notNumber, ratio,
      g.contentWidth, g.plot.h].join('|'); // prettier-ignore
    if (this.imageKey !== key) {
      this.makeImage(figure, ink, ratio);
      this.imageKey = key;
    }
    const ctx = this.context;
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(this.image, g.plot.x - figure.scroll, g.plot.y, g.contentWidth, g.plot.h);
  }

  private makeImage(figure: HeatFigure, ink: Ink, ratio: number): void {
    const { geometry: g, store, domain } = figure;
    const raster: Raster = rasterise({
      values: store.plane(figure.plane),
      known: store.known,
      columns: store.columns,
      empty: store.done === 0,
      view: g.view,
      flip: g.flip,
      maxWidth: g.contentWidth * ratio,
      maxHeight: g.plot.h * ratio,
      lut: figure.lut,
      domain,
      rest: figure.diverging ? (domain[0] + domain[1]) / 2 : domain[0],
      notNumber: figure.blank ? 0 : wordOf(ink.notNumber),
    });
    this.image.width = raster.width;
    this.image.height = raster.height;
    const pixels = new ImageData(new Uint8ClampedArray(raster.words.buffer), raster.width, raster.height);
    this.image.getContext('2d')?.putImageData(pixels, 0, 0);
  }

  /** Hairlines between cells that are large enough to be looked at one by one. */
  private paintGrid(figure: HeatFigure, ink: Ink, ratio: number): void {
    const { geometry: g, scroll } = figure;
    if (g.cellW < GRID_SIZE || g.cellH < GRID_SIZE) return;
    const ctx = this.context;
    ctx.fillStyle = ink.background;
    const hair = 1 / ratio;
    for (let c = g.view.c0 + 1; c < g.view.c1; c += 1) ctx.fillRect(snap(xOf(g, c, scroll), ratio), g.plot.y, hair, g.plot.h);
    for (let r = 1; r < g.view.r1 - g.view.r0; r += 1) {
      ctx.fillRect(g.plot.x, snap(g.plot.y + r * g.cellH, ratio), g.plot.w, hair);
    }
  }

  private paintMarks(figure: HeatFigure, ink: Ink): void {
    const { geometry: g, store, scroll, plane } = figure;
    if (g.cellW < MARK_SIZE || g.cellH < MARK_SIZE) return;
    const ctx = this.context;
    const first = Math.max(g.view.c0, g.view.c0 + Math.floor(scroll / g.cellW));
    const last = Math.min(g.view.c1, g.view.c0 + Math.ceil((scroll + g.plot.w) / g.cellW));
    const values = figure.showValues && g.cellW >= 38 && g.cellH >= 16;
    ctx.textAlign = 'center';
    ctx.textBaseline = 'middle';
    for (let r = g.view.r0; r < g.view.r1; r += 1) {
      for (let c = first; c < last; c += 1) {
        const value = store.read(plane, r, c);
        if (value === undefined) continue;
        const x = xOf(g, c, scroll) + g.cellW / 2;
        const y = yOf(g, r) + g.cellH / 2;
        if (Number.isNaN(value)) {
          if (!figure.blank) this.cross(x, y, Math.min(g.cellW, g.cellH) * 0.22, ink.text);
        } else this.markValue(figure, value, { x, y, values }, ink);
      }
    }
  }

  private markValue(figure: HeatFigure, value: number, at: { x: number; y: number; values: boolean }, ink: Ink): void {
    const { geometry: g, domain, lut } = figure;
    const side = outside(value, domain);
    const [over, under] = [side > 0, side < 0];
    if (!at.values && !over && !under) return;
    const ctx = this.context;
    const i = indexOf(value, domain);
    ctx.fillStyle = inkOn(lut, i);
    if (at.values) {
      ctx.font = `11px ${ink.sans}`;
      ctx.fillText(inCell(value, Math.max(Math.abs(domain[0]), Math.abs(domain[1]))), at.x, at.y + 0.5);
    }
    if (!over && !under) return;
    const size = Math.min(g.cellW, g.cellH) * 0.16;
    const y = at.values ? at.y - g.cellH / 2 + size + 2 : at.y;
    const tip = over ? -size : size;
    ctx.beginPath();
    ctx.moveTo(at.x, y + tip);
    ctx.lineTo(at.x - size, y - tip * 0.7);
    ctx.lineTo(at.x + size, y - tip * 0.7);
    ctx.fill();
  }

  private cross(x: number, y: number, size: number, colour: string): void {
    const ctx = this.context;
    ctx.strokeStyle = colour;
    ctx.lineWidth = 1.25;
    ctx.beginPath();
    ctx.moveTo(x - size, y - size);
    ctx.lineTo(x + size, y + size);
    ctx.moveTo(x + size, y - size);
    ctx.lineTo(x - size, y + size);
    ctx.stroke();
  }

  private paintOverlay(figure: HeatFigure, ink: Ink): void {
    const { geometry: g, scroll, hover, focus, selection, pins } = figure;
    const ctx = this.context;
    const cell = hover ?? focus;
    if (cell) this.crosshair(g, scroll, cell, ink);
    if (selection) {
      const [x, y, w, h] = box(g, selection, scroll);
      ctx.fillStyle = ink.accent;
      ctx.globalAlpha = 0.12;
      ctx.fillRect(x, y, w, h);
      ctx.globalAlpha = 1;
      this.outline(x, y, w, h, ink.accent, ink.background, [5, 3]);
    }
    for (const pin of pins) this.paintPin(g, scroll, pin, ink);
    if (focus) {
      const [x, y, w, h] = box(g, one(focus), scroll);
      this.outline(x, y, w, h, ink.accent, ink.background);
    }
    if (hover) {
      const [x, y, w, h] = box(g, one(hover), scroll);
      this.outline(x, y, w, h, ink.text, ink.background);
    }
  }

  private crosshair(g: Geometry, scroll: number, cell: Cell, ink: Ink): void {
    const ctx = this.context;
    const x = xOf(g, cell.column, scroll);
    const y = yOf(g, cell.row);
    ctx.strokeStyle = ink.text;
    ctx.globalAlpha = 0.35;
    ctx.lineWidth = 1;
    ctx.beginPath();
    for (const line of [y, y + g.cellH]) {
      ctx.moveTo(g.plot.x, line);
      ctx.lineTo(g.plot.x + g.plot.w, line);
    }
    for (const line of [x, x + g.cellW]) {
      ctx.moveTo(line, g.plot.y);
      ctx.lineTo(line, g.plot.y + g.plot.h);
    }
    ctx.stroke();
    ctx.globalAlpha = 1;
  }

  private paintPin(g: Geometry, scroll: number, pin: Pin, ink: Ink): void {
    const ctx = this.context;
    const [x, y, w, h] = box(g, one(pin), scroll);
    const colour = ink.pins[pin.letter.charCodeAt(0) - 65] ?? ink.accent;
    this.outline(x, y, w, h, colour, ink.background);
    const beside = w >= 22 && h >= 14 ? x + 1 : x + w + 2;
    ctx.fillStyle = colour;
    ctx.fillRect(beside, y + 1, 12, 13);
    ctx.fillStyle = ink.background;
    ctx.font = `600 11px ${ink.sans}`;
    ctx.textAlign = 'center';
    ctx.textBaseline = 'middle';
    ctx.fillText(pin.letter, beside + 6, y + 8);
  }

  /** A line that is seen on any colour: the colour itself inside a rim of the background. */
  private outline(x: number, y: number, w: number, h: number, colour: string, rim: string, dash: number[] = []): void {
    const ctx = this.context;
    ctx.lineWidth = 4;
    ctx.strokeStyle = rim;
    ctx.strokeRect(x, y, w, h);
    ctx.setLineDash(dash);
    ctx.lineWidth = 2;
    ctx.strokeStyle = colour;
    ctx.strokeRect(x, y, w, h);
    ctx.setLineDash([]);
  }
}

function one(cell: Cell): Rect {
  return { r0: cell.row, c0: cell.column, r1: cell.row + 1, c1: cell.column + 1 };
}

function box(g: Geometry, rect: Rect, scroll: number): [number, number, number, number] {
  const top = Math.min(yOf(g, rect.r0), yOf(g, rect.r1 - 1));
  return [xOf(g, rect.c0, scroll), top, (rect.c1 - rect.c0) * g.cellW, (rect.r1 - rect.r0) * g.cellH];
}

function snap(value: number, ratio: number): number {
  return Math.round(value * ratio) / ratio;
}

/** `#rrggbb` as an opaque little-endian RGBA word. */
function wordOf(hex: string): number {
  const value = Number.parseInt(hex.slice(1), 16);
  const [r, g, b] = [(value >> 16) & 255, (value >> 8) & 255, value & 255];
  return new Uint32Array(new Uint8ClampedArray([r, g, b, 255]).buffer)[0]!;
}

/** Thin diagonal lines on the surface colour: "not computed", which white could not say because white is a value. */
function hatchPattern(context: CanvasRenderingContext2D, ink: Ink, ratio: number): CanvasPattern | null {
  const size = Math.round(6 * ratio);
  const tile = document.createElement('canvas');
  tile.width = size;
  tile.height = size;
  const ctx = tile.getContext('2d');
  if (!ctx) return null;
  ctx.fillStyle = ink.surface;
  ctx.fillRect(0, 0, size, size);
  ctx.strokeStyle = ink.hatch;
  ctx.lineWidth = ratio;
  ctx.beginPath();
  for (const shift of [-size, 0, size]) {
    ctx.moveTo(shift, size);
    ctx.lineTo(shift + size, 0);
  }
  ctx.stroke();
  return context.createPattern(tile, 'repeat');
}
