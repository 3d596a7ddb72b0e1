/**
 * Cells to pixels: one pixel a cell, or fewer where cells are smaller than a device pixel. Then each pixel shows the
 * value farthest from rest among its cells, so that a single hot cell never disappears. Unknown cells stay transparent.
 */
import { LUT_SIZE, type Lut } from './colour';
import type { Rect } from './tiles';

export interface RasterInput {
  values: Float32Array;
  known: Uint8Array;
  columns: number;
  /** Nothing is computed yet: there is nothing to look for. */
  empty?: boolean;
  view: Rect;
  flip: boolean;
  /** Largest size of the result in pixels. */
  maxWidth: number;
  maxHeight: number;
  lut: Lut;
  domain: readonly [number, number];
  /** The value that carries no information: 0 of a diverging scale, the low end of a sequential one. */
  rest: number;
  /** RGBA word of a computed cell that is not a number. */
  notNumber: number;
}

export interface Raster {
  width: number;
  height: number;
  words: Uint32Array<ArrayBuffer>;
}

export function rasterise(input: RasterInput): Raster {
  const { view } = input;
  const nr = view.r1 - view.r0;
  const nc = view.c1 - view.c0;
  const width = Math.max(1, Math.min(nc, Math.floor(input.maxWidth)));
  const height = Math.max(1, Math.min(nr, Math.floor(input.maxHeight)));
  const words = new Uint32Array(width * height);
  if (input.empty) return { width, height, words };
  if (width === nc && height === nr) direct(input, words, nr, nc);
  else decimated(input, words, { width, height, nr, nc });
  return { width, height, words };
}

function direct(input: RasterInput, words: Uint32Array, nr: number, nc: number): void {
  const { values, known, columns, view, flip, lut, domain, notNumber } = input;
  const low = domain[0];
  const factor = LUT_SIZE / (domain[1] - low || 1);
  for (let y = 0; y < nr; y += 1) {
    const row = flip ? view.r0 + y : view.r1 - 1 - y;
    let from = row * columns + view.c0;
    for (let at = y * nc; at < (y + 1) * nc; at += 1, from += 1) {
      if (known[from] === 0) continue;
      words[at] = word(values[from]!, low, factor, lut, notNumber);
    }
  }
}

function word(value: number, low: number, factor: number, lut: Lut, notNumber: number): number {
  if (Number.isNaN(value)) return notNumber;
  const i = Math.floor((value - low) * factor);
  return lut.words[i < 0 ? 0 : i >= LUT_SIZE ? LUT_SIZE - 1 : i]!;
}

interface Size {
  width: number;
  height: number;
  nr: number;
  nc: number;
}

function decimated(input: RasterInput, words: Uint32Array, { width, height, nr, nc }: Size): void {
  const { values, known, columns, view, flip, lut, domain, rest, notNumber } = input;
  const best = new Float32Array(width * height);
  const state = new Uint8Array(width * height); // 0 unknown, 1 only NaN so far, 2 has a value
  const size = new Float32Array(width * height).fill(-1); // |best − rest|
  const across = Uint32Array.from({ length: nc }, (_, c) => Math.floor((c * width) / nc));
  for (let r = 0; r < nr; r += 1) {
    const row = flip ? view.r0 + r : view.r1 - 1 - r;
    const line = Math.floor((r * height) / nr) * width;
    let from = row * columns + view.c0;
    for (let c = 0; c < nc; c += 1, from += 1) {
      if (known[from] === 0) continue;
      const at = line + across[c]!;
      const value = values[from]!;
      const away = Math.abs(value - rest);
      if (away > size[at]!) {
        best[at] = value;
        size[at] = away;
        state[at] = 2;
      } else if (state[at] === 0) state[at] = 1;
    }
  }
  const factor = LUT_SIZE / (domain[1] - domain[0] || 1);
  for (let at = 0; at < words.length; at += 1) {
    if (state[at] === 0) continue;
    words[at] = word(state[at] === 1 ? Number.NaN : best[at]!, domain[0], factor, lut, notNumber);
  }
}
