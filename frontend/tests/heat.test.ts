import { describe, expect, it } from 'vitest';

import { lut } from '../src/core/colour';
import { chooseColumns, fullView, hit, layout, type LayoutInput, spanned, xOf, yOf } from '../src/core/heat-layout';
import { rasterise, type RasterInput } from '../src/core/heat-raster';
import type { Axis } from '../src/core/types';

const axis = (name: string, n: number, label = (i: number): string => String(i)): Axis => ({
  name,
  title: name,
  ticks: Array.from({ length: n }, (_, i) => ({ label: label(i), corrupted: null, differs: false, varies: false })),
});

const input = (rows: number, columns: number, change: Partial<LayoutInput> = {}): LayoutInput => ({
  rows: axis('layer', rows),
  columns: axis('position', columns, () => ' token'),
  view: fullView(rows, columns),
  width: 900,
  maxPlotHeight: 480,
  flip: false,
  measure: (text) => text.length * 7,
  ...change,
});

const raster = (rows: number, columns: number, values: number[], change: Partial<RasterInput> = {}) =>
  rasterise({
    values: Float32Array.from(values),
    known: new Uint8Array(rows * columns).fill(1),
    columns,
    view: fullView(rows, columns),
    flip: false,
    maxWidth: 1e4,
    maxHeight: 1e4,
    lut: lut('vik'),
    domain: [-1, 1],
    rest: 0,
    notNumber: 0xff123456,
    ...change,
  }); // prettier-ignore

describe('the layout', () => {
  it('puts layer 0 at the bottom, and at the top when flipped', () => {
    const g = layout(input(12, 15));
    expect(yOf(g, 0)).toBeGreaterThan(yOf(g, 11));
    const flipped = layout(input(12, 15, { flip: true }));
    expect(yOf(flipped, 0)).toBeLessThan(yOf(flipped, 11));
  });

  it('finds the cell under the middle of every cell, scrolled or not', () => {
    const g = layout(input(12, 60, { width: 390 }));
    for (const scroll of [0, 120]) {
      for (let c = 10; c < 14; c += 1) {
        const x = xOf(g, c, scroll) + g.cellW / 2;
        expect(hit(g, x, yOf(g, 3) + g.cellH / 2, scroll)).toEqual({ row: 3, column: c });
      }
    }
    expect(hit(g, 3, 60)).toBeNull();
  });

  it('keeps cells of a readable width on a phone and scrolls, instead of squeezing tokens', () => {
    const g = layout(input(12, 30, { width: 358 }));
    expect(g.cellW).toBeGreaterThanOrEqual(24);
    expect(g.contentWidth).toBeGreaterThan(g.plot.w);
  });

  it('fits columns that are no tokens, as the readers of edges, while a cell can be pointed at', () => {
    const readers = { name: 'reader', title: 'Reader', ticks: input(2, 53).columns.ticks };
    const fits = layout(input(50, 53, { width: 900, columns: readers }));
    expect(fits.contentWidth).toBeLessThanOrEqual(fits.plot.w + 1e-6);
    expect(layout(input(50, 53, { width: 358, columns: readers })).cellW).toBe(8);
  });

  it('fits thousands of columns into the window as an overview', () => {
    const g = layout(input(80, 2000));
    expect(g.contentWidth).toBeCloseTo(g.plot.w);
    expect(g.labels.length).toBeLessThan(80);
  });

  it('labels first, last and differing columns even where labels are thinned', () => {
    const differs = Array.from({ length: 300 }, (_, i) => i === 137);
    const chosen = chooseColumns(differs, 3);
    expect(chosen).toEqual(expect.arrayContaining([0, 137, 299]));
    const gaps = chosen.slice(1).map((c, i) => c - chosen[i]!);
    expect(Math.min(...gaps) * 3).toBeGreaterThanOrEqual(17);
  });

  it('shows the corrupted token only where it differs', () => {
    const columns = axis('position', 3, () => 'a');
    columns.ticks[1] = { label: ' John', corrupted: ' Mary', differs: true, varies: false };
    columns.ticks[2] = { label: ' to', corrupted: ' to', differs: false, varies: false };
    expect(layout(input(2, 3, { columns })).labels.map((label) => label.corrupted)).toEqual([null, '·Mary', null]);
  });

  it('spans a region from any two corners', () => {
    expect(spanned({ row: 5, column: 1 }, { row: 2, column: 4 })).toEqual({ r0: 2, c0: 1, r1: 6, c1: 5 });
  });
});

describe('the raster', () => {
  it('has one pixel a cell, the last layer first', () => {
    const { width, height, words } = raster(2, 2, [-1, -1, 1, 1]);
    expect([width, height]).toEqual([2, 2]);
    expect(words[0]).toBe(lut('vik').words[255]);
    expect(words[2]).toBe(lut('vik').words[0]);
  });

  it('leaves unknown cells transparent and marks what is not a number', () => {
    const { words } = raster(1, 3, [0, Number.NaN, 0], { known: Uint8Array.of(1, 1, 0) });
    expect([words[1], words[2]]).toEqual([0xff123456, 0]);
  });

  it('never loses a single hot cell when cells are smaller than pixels', () => {
    const values = new Array<number>(4000).fill(0.01);
    values[1733] = -0.95;
    const { words } = raster(1, 4000, values, { maxWidth: 500 });
    const cold = lut('vik').words[Math.floor(((0.01 + 1) / 2) * 256)]!;
    const hot = lut('vik').words[Math.floor(((-0.95 + 1) / 2) * 256)]!;
    expect(words.filter((w) => w === hot).length).toBe(1);
    expect(words.filter((w) => w === cold).length).toBe(499);
  });

  it('prefers a value to NaN, and NaN to unknown, within one pixel', () => {
    const known = Uint8Array.of(1, 1, 1, 0, 0, 0);
    const { words } = raster(1, 6, [Number.NaN, 0, Number.NaN, 0, 0, 0], { known, maxWidth: 3 });
    expect([words[0] === lut('vik').words[128], words[1], words[2]]).toEqual([true, 0xff123456, 0]);
  });

  it('makes the image of 160,000 cells well within 50 ms', () => {
    const values = Array.from({ length: 160_000 }, (_, i) => Math.sin(i));
    const store = Float32Array.from(values);
    const known = new Uint8Array(160_000).fill(1);
    const times = Array.from({ length: 7 }, () => {
      const began = performance.now();
      raster(80, 2000, [], { values: store, known, maxWidth: 1000 });
      return performance.now() - began;
    });
    expect(Math.min(...times)).toBeLessThan(50);
  });
});
