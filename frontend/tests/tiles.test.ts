import { describe, expect, it } from 'vitest';

import { decodeFrame, encodeFrame, floatsFromBase64, type Frame } from '../src/core/frames';
import { TileStore, UNKNOWN_BITS } from '../src/core/tiles';

const tile = (r0: number, c0: number, nr: number, nc: number, values: number[], planes = 1) => ({
  r0, c0, nr, nc, planes, values: Float32Array.from(values),
}); // prettier-ignore

const snapshot = (bits: number[]): Float32Array => new Float32Array(Uint32Array.from(bits).buffer);
const bitsOf = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!;

describe('a tile store', () => {
  it('tells a cell that is not computed from one that is not a number', () => {
    const store = new TileStore(1, 2, 2);
    store.write(tile(0, 0, 1, 1, [Number.NaN]));
    expect(store.read(0, 0, 0)).toBeNaN();
    expect(store.read(0, 1, 1)).toBeUndefined();
    expect(store.done).toBe(1);
  });

  it('counts a cell once however often its tile comes', () => {
    const store = new TileStore(2, 3, 4);
    const one = tile(1, 1, 2, 2, [1, 2, 3, 4, 5, 6, 7, 8], 2);
    store.write(one);
    store.write(one);
    expect(store.done).toBe(4);
    expect(store.read(0, 2, 1)).toBe(3);
    expect(store.read(1, 1, 2)).toBe(6);
  });

  it('ends equal in whatever order tiles come', () => {
    const tiles = Array.from({ length: 12 }, (_, i) => tile(Math.floor(i / 4), i % 4, 1, 1, [i]));
    const forward = new TileStore(1, 3, 4);
    const backward = new TileStore(1, 3, 4);
    tiles.forEach((one) => forward.write(one));
    [...tiles].reverse().forEach((one) => backward.write(one));
    expect(backward.values).toEqual(forward.values);
  });

  it('refuses a tile that does not fit instead of drawing part of it', () => {
    const store = new TileStore(1, 2, 2);
    expect(() => store.write(tile(1, 1, 1, 2, [1, 2]))).toThrow(RangeError);
    expect(() => store.write(tile(0, 0, 1, 1, [1, 2], 2))).toThrow(RangeError);
    expect(store.done).toBe(0);
  });

  it('takes the empty rectangle that stands for a replaced tile', () => {
    const store = new TileStore(1, 2, 2);
    store.write(tile(0, 0, 0, 0, []));
    expect(store.done).toBe(0);
  });

  it('merges a snapshot without losing what it knows better', () => {
    const store = new TileStore(1, 1, 3);
    store.write(tile(0, 0, 1, 1, [0.5]));
    store.merge(snapshot([UNKNOWN_BITS, 0x7fc00001, bitsOf(0.25)]));
    expect(store.read(0, 0, 0)).toBe(0.5);
    expect(store.read(0, 0, 1)).toBeNaN();
    expect(store.read(0, 0, 2)).toBe(0.25);
    expect(store.done).toBe(3);
  });

  it('counts values outside of the domain and values that are not numbers', () => {
    const store = new TileStore(1, 1, 5);
    store.write(tile(0, 0, 1, 4, [-2, 0.5, 3, Number.NaN]));
    expect(store.stats(0, [-1, 1])).toMatchObject({ count: 3, notNumbers: 1, below: 1, above: 1, min: -2, max: 3 });
    expect([...store.histogram(0, [-1, 1], 4)]).toEqual([1, 0, 0, 2]);
  });

  it('ranks cells by size, whatever their sign', () => {
    const store = new TileStore(1, 2, 3);
    store.write(tile(0, 0, 2, 3, [0.1, -0.9, 0.3, 0.2, Number.NaN, 0.8]));
    expect(store.strongest(0, 2).map(({ row, column }) => [row, column])).toEqual([[0, 1], [1, 2]]); // prettier-ignore
    expect(store.rank(0, 0, 2)).toBe(3);
    expect(store.rank(0, 1, 1)).toBeUndefined();
  });
});

describe('a binary frame', () => {
  const frame: Frame = {
    handle: 7, seq: 2 ** 40 + 3, panel: 2, planes: 2, r0: 3, c0: 60_000, nr: 1, nc: 2, snapshot: true,
    values: Float32Array.of(0.1, -1, 2, Number.NaN),
  }; // prettier-ignore

  it('reads back as it was written', () => {
    expect(decodeFrame(encodeFrame(frame))).toEqual(frame);
  });

  it('has the header the server writes: little-endian, 32 bytes, seq at 8, flags at 28', () => {
    const view = new DataView(encodeFrame(frame));
    expect(view.getUint16(0, true)).toBe(0x4854);
    expect(view.getUint32(4, true)).toBe(7);
    expect(view.getBigUint64(8, true)).toBe(2n ** 40n + 3n);
    expect(view.getUint16(22, true)).toBe(60_000);
    expect(view.getUint32(28, true)).toBe(1);
    expect(view.getFloat32(32, true)).toBeCloseTo(0.1);
  });

  it('is refused with a reason where it is cut short, foreign, or of a newer version', () => {
    const whole = encodeFrame(frame);
    expect(() => decodeFrame(whole.slice(0, 40))).toThrow(/bytes of them/);
    expect(() => decodeFrame(whole.slice(0, 8))).toThrow(/no header/);
    const foreign = whole.slice(0);
    new DataView(foreign).setUint16(0, 1, true);
    expect(() => decodeFrame(foreign)).toThrow(/magic/);
    const newer = whole.slice(0);
    new DataView(newer).setUint8(2, 9);
    expect(() => decodeFrame(newer)).toThrow(/reload/);
  });

  it('comes over HTTP as base64 of the same floats', () => {
    const bytes = new Uint8Array(Float32Array.of(1.5, -2).buffer);
    expect([...floatsFromBase64(btoa(String.fromCharCode(...bytes)))]).toEqual([1.5, -2]);
  });
});
