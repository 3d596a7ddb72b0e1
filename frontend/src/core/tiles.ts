/**
 * The values of one panel as they arrive: `planes × rows × columns` in one Float32Array, plus one byte a cell saying
 * whether it was computed. A computed cell may hold NaN ("not a number"), which is not the same as unknown.
 * Tiles are idempotent: writing one twice, or in any order, gives the same store.
 */

import { outside } from './colour';

/** Bit pattern of a cell that is not computed in a snapshot; any other NaN is a value that is not a number. */
export const UNKNOWN_BITS = 0x7fc00000;

export interface Tile {
  r0: number;
  c0: number;
  nr: number;
  nc: number;
  planes: number;
  /** `[planes, nr, nc]`, row-major. */
  values: Float32Array;
}

export interface Rect {
  r0: number;
  c0: number;
  r1: number;
  c1: number;
}

export interface Stats {
  count: number;
  notNumbers: number;
  min: number;
  max: number;
  mean: number;
  below: number;
  above: number;
}

let stores = 0;

export class TileStore {
  /** Tells stores apart: two of them may be at the same version. */
  readonly id = (stores += 1);
  readonly values: Float32Array;
  readonly known: Uint8Array;
  /** Number of computed cells. */
  done = 0;
  /** Grows with every write: a cheap "has this changed since I last painted". */
  version = 0;

  constructor(
    readonly planes: number,
    readonly rows: number,
    readonly columns: number,
  ) {
    this.values = new Float32Array(planes * rows * columns).fill(Number.NaN);
    this.known = new Uint8Array(rows * columns);
  }

  get cells(): number {
    return this.rows * this.columns;
  }

  /** Write a tile; throws `RangeError` where it does not fit, so that a wrong frame is never drawn in part. */
  write(tile: Tile): void {
    const { r0, c0, nr, nc, planes, values } = tile;
    if (planes !== this.planes || r0 + nr > this.rows || c0 + nc > this.columns || values.length !== planes * nr * nc) {
      throw new RangeError(`Tile ${planes}×${nr}×${nc} at ${r0},${c0} does not fit ${this.planes}×${this.rows}×${this.columns}.`);
    }
    for (let p = 0; p < planes; p += 1) {
      for (let r = 0; r < nr; r += 1) {
        const from = (p * nr + r) * nc;
        this.values.set(values.subarray(from, from + nc), p * this.cells + (r0 + r) * this.columns + c0);
      }
    }
    for (let r = r0; r < r0 + nr; r += 1) {
      for (let i = r * this.columns + c0; i < r * this.columns + c0 + nc; i += 1) {
        if (this.known[i] === 0) {
          this.known[i] = 1;
          this.done += 1;
        }
      }
    }
    this.version += 1;
  }

  /** Merge a whole panel: cells it knows are taken, cells it does not know keep what is here already. */
  merge(values: Float32Array): void {
    if (values.length !== this.values.length) {
      throw new RangeError(`A snapshot of ${values.length} values does not fit ${this.values.length}.`);
    }
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    const { cells, planes, known } = this;
    for (let i = 0; i < cells; i += 1) {
      let p = 0;
      while (p < planes && bits[p * cells + i] === UNKNOWN_BITS) p += 1;
      if (p === planes) continue;
      for (p = 0; p < planes; p += 1) this.values[p * cells + i] = values[p * cells + i]!;
      this.done += 1 - known[i]!;
      known[i] = 1;
    }
    this.version += 1;
  }

  isKnown(row: number, column: number): boolean {
    return this.known[row * this.columns + column] === 1;
  }

  /** The value of a cell: `undefined` while unknown, NaN where the computed value is not a number. */
  read(plane: number, row: number, column: number): number | undefined {
    if (row < 0 || column < 0 || row >= this.rows || column >= this.columns || !this.isKnown(row, column)) return undefined;
    return this.values[plane * this.cells + row * this.columns + column];
  }

  /** One plane, sharing memory with the store. */
  plane(plane: number): Float32Array {
    return this.values.subarray(plane * this.cells, (plane + 1) * this.cells);
  }

  stats(plane: number, domain: readonly [number, number]): Stats {
    const values = this.plane(plane);
    const stats: Stats = { count: 0, notNumbers: 0, min: Infinity, max: -Infinity, mean: 0, below: 0, above: 0 };
    let sum = 0;
    for (let i = 0; i < values.length; i += 1) {
      if (this.known[i] === 0) continue;
      const value = values[i]!;
      if (Number.isNaN(value)) {
        stats.notNumbers += 1;
        continue;
      }
      stats.count += 1;
      sum += value;
      if (value < stats.min) stats.min = value;
      if (value > stats.max) stats.max = value;
      const side = outside(value, domain);
      if (side < 0) stats.below += 1;
      if (side > 0) stats.above += 1;
    }
    stats.mean = stats.count > 0 ? sum / stats.count : Number.NaN;
    return stats;
  }

  /** Counts of values in `bins` equal steps of the domain; values outside fall into the end bins. */
  histogram(plane: number, domain: readonly [number, number], bins: number): Uint32Array {
    const counts = new Uint32Array(bins);
    const values = this.plane(plane);
    const span = domain[1] - domain[0] || 1;
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i]!;
      if (this.known[i] === 0 || Number.isNaN(value)) continue;
      const bin = Math.floor(((value - domain[0]) / span) * bins);
      const place = Math.min(bins - 1, Math.max(0, bin));
      counts[place] = counts[place]! + 1;
    }
    return counts;
  }

  /** The `n` computed cells of largest |value|, strongest first. */
  strongest(plane: number, n: number): { row: number; column: number; value: number }[] {
    const values = this.plane(plane);
    const found: { i: number; size: number }[] = [];
    for (let i = 0; i < values.length; i += 1) {
      const size = Math.abs(values[i]!);
      if (this.known[i] === 0 || !(size > 0)) continue;
      if (found.length === n && size <= found[n - 1]!.size) continue;
      let at = found.length;
      while (at > 0 && found[at - 1]!.size < size) at -= 1;
      found.splice(at, 0, { i, size });
      if (found.length > n) found.pop();
    }
    return found.map(({ i }) => ({ row: Math.floor(i / this.columns), column: i % this.columns, value: values[i]! }));
  }

  /** Place of a cell among all computed ones by |value|, counted from 1. */
  rank(plane: number, row: number, column: number): number | undefined {
    const value = this.read(plane, row, column);
    if (value === undefined || Number.isNaN(value)) return undefined;
    const values = this.plane(plane);
    let larger = 0;
    for (let i = 0; i < values.length; i += 1) {
      if (this.known[i] === 1 && Math.abs(values[i]!) > Math.abs(value)) larger += 1;
    }
    return larger + 1;
  }
}
