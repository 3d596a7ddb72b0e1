import { describe, expect, it } from 'vitest';

import { encodeResult, FILES, madeResults } from '../dev/results';
import { kindOf } from '../src/core/kinds';
import { adjacencyPanel, WHOLE } from '../src/core/adjacency';
import { exampleCount, examplePanel, gridPanel } from '../src/core/grid-panels';
import { headPanel } from '../src/core/head-panel';
import { type AttentionResult, decodeResult, type EdgesResult, type GridResult } from '../src/core/results';
import { decodeSafetensors } from '../src/core/safetensors';
import { certificatesOf, entriesOf } from '../src/core/shown';
import { thumbAt, thumbLayout, thumbOrigin } from '../src/core/thumbs';
import { panel } from './recorded';

/** A file of one array of this format and these bytes. */
function file(dtype: string, shape: number[], bytes: Uint8Array): ArrayBuffer {
  const header = new TextEncoder().encode(JSON.stringify({ x: { dtype, shape, data_offsets: [0, bytes.length] } }));
  const out = new Uint8Array(8 + header.length + bytes.length);
  new DataView(out.buffer).setBigUint64(0, BigInt(header.length), true);
  out.set(header, 8);
  out.set(bytes, 8 + header.length);
  return out.buffer;
}
const bytesOf = (list: { buffer: ArrayBufferLike }): Uint8Array => new Uint8Array(list.buffer);
const read = (dtype: string, shape: number[], bytes: Uint8Array): number[] => [...decodeSafetensors(file(dtype, shape, bytes)).arrays.get('x')!.values];

describe('a safetensors file', () => {
  it('gives every number format as numbers', () => {
    expect(read('F32', [2], bytesOf(Float32Array.of(1.5, -2)))).toEqual([1.5, -2]);
    expect(read('F64', [1], bytesOf(Float64Array.of(Math.PI)))).toEqual([Math.PI]);
    expect(read('I64', [2], bytesOf(BigInt64Array.of(-3n, 7n)))).toEqual([-3, 7]);
    expect(read('I32', [1], bytesOf(Int32Array.of(-9)))).toEqual([-9]);
    expect(read('BOOL', [3], Uint8Array.of(1, 0, 1))).toEqual([1, 0, 1]);
    expect(read('BF16', [2], bytesOf(Uint16Array.of(0x3f80, 0xc020)))).toEqual([1, -2.5]);
    expect(read('F16', [5], bytesOf(Uint16Array.of(0x3c00, 0xc100, 0x7c00, 0x0001, 0x7e00)))).toEqual([1, -2.5, Infinity, 2 ** -24, Number.NaN]);
  });

  it('reads arrays that do not begin at a multiple of their size', () => {
    const made = encodeResult({}, { a: { shape: [3], values: Uint8Array.of(1, 0, 1) }, b: { shape: [1], values: Float64Array.of(0.1) } });
    expect([...decodeSafetensors(made).arrays.get('b')!.values]).toEqual([0.1]);
  });

  it('is refused when it is cut off, of the wrong size or of an unknown format', () => {
    const whole = file('F32', [2], bytesOf(Float32Array.of(1, 2)));
    expect(() => decodeSafetensors(whole.slice(0, 20))).toThrow('ends inside its header');
    expect(() => decodeSafetensors(whole.slice(0, -4))).toThrow('Array x');
    expect(() => decodeSafetensors(file('F32', [3], new Uint8Array(8)))).toThrow('8 bytes for 3 values');
    expect(() => decodeSafetensors(file('Q4', [1], new Uint8Array(1)))).toThrow('unknown number format Q4');
    expect(() => decodeSafetensors(new ArrayBuffer(4))).toThrow('no header');
  });
});

describe('results', () => {
  it.each(Object.entries(FILES))('of the made file %s are read as their type', (_, make) => {
    const result = decodeResult(make());
    expect(result.title).not.toBe('');
    expect(kindOf(`${result.kind}/1`)).toBe(result.kind);
  });

  it('are found in the metadata of the worker too, which wraps the JSON part', () => {
    const data = { format: 'text/1', name: 'a', title: 'A', facts: {}, entries: [] };
    expect(decodeResult(encodeResult({ data, run: 'x' }, {}))).toMatchObject({ kind: 'text', name: 'a' });
  });

  it('of an unknown type, or without an array they need, say what is missing', () => {
    expect(() => decodeResult(encodeResult({ format: 'hologram/1' }, {}))).toThrow('hologram/1');
    const data = { format: 'curve/1', name: 'c', title: 'C', facts: {}, x_title: 'x', x_unit: '', log_x: false, quantity: {}, series: [] };
    expect(() => decodeResult(encodeResult(data, {}))).toThrow('no array x');
  });
});

describe('what a run shows', () => {
  const { infos } = madeResults();

  it('is one list: a map and the grid of its name once, certificates apart', () => {
    const map = { ...panel(), name: 'scores' };
    const entries = entriesOf([map], infos);
    expect(entries[0]).toMatchObject({ name: 'scores', kind: 'panel', panel: 0, result: { type: 'grid/1' } });
    expect(entries.filter((entry) => entry.label === 'scores')).toHaveLength(1);
    expect(entries.some((entry) => entry.name === 'certificate')).toBe(false);
    expect(certificatesOf(infos).map((info) => info.name)).toEqual(['certificate']);
  });

  it('keeps a map and a result of another type of the same name apart in the address', () => {
    const entries = entriesOf([{ ...panel(), name: 'edges' }], infos);
    expect(entries.filter((entry) => entry.label === 'edges').map((entry) => [entry.name, entry.kind])).toEqual([['edges', 'panel'], ['edges-result', 'edges']]);
    expect(new Set(entries.map((entry) => entry.name)).size).toBe(entries.length);
  });

  it('names a type of a newer server as a file', () => {
    expect(entriesOf([], [{ ...infos[0]!, type: 'hologram/2' }])[0]?.kind).toBe('unknown');
  });
});

describe('maps made from results', () => {
  it('leave a cell blank that has no value in any plane', () => {
    const grid = decodeResult(FILES.grid()) as GridResult;
    const { store, payload } = gridPanel(grid);
    expect(store.read(0, 0, 3)).toBeUndefined();
    expect(store.read(0, 0, 4)).toBe(grid.planes[0]![4]);
    expect(payload.whole).toBe(true);
  });

  it('show one pair alone, on a scale that all pairs share', () => {
    const axis = (n: number) => ({ name: 'layer', title: 'Layer', ticks: Array.from({ length: n }, () => ({ label: '', corrupted: null, differs: false, varies: false })) });
    const quantity = { key: 'raw', title: 'Logit difference', unit: '', scale: 'diverging' as const, domain: [-1, 1] as [number, number], anchors: {} };
    const grid: GridResult = { kind: 'grid', name: 'g', title: 'G', facts: {}, rows: axis(1), columns: axis(2), quantities: [quantity], planes: [Float32Array.of(0, 0)], examples: Float32Array.of(1, 2, -5, 4), clean: null, corrupted: Float32Array.of(0.5, 0.25) };
    expect(exampleCount(grid)).toBe(2);
    const second = examplePanel(grid, 1)!;
    expect([second.store.read(0, 0, 0), second.store.read(0, 0, 1)]).toEqual([-5, 4]);
    expect(second.payload.quantities[0]!.domain).toEqual([-5, 5]);
    expect(second.payload.quantities[0]!.anchors).toEqual({ '0.25': 'this pair’s corrupted run' });
    expect(examplePanel({ ...grid, examples: null }, 0)).toBeNull();
  });

  it('take one head out of all, query by key, with masked keys blank', () => {
    const result = decodeResult(FILES.attention()) as AttentionResult;
    const size = result.tokens.length;
    const { store } = headPanel(result, 2, 3);
    const from = ((2 * result.heads + 3) * size + 5) * size;
    expect(store.read(0, 5, 4)).toBe(result.planes[0]![from + 4]);
    expect(store.read(0, 5, 6)).toBeUndefined();
    expect(store.done).toBe((size * (size + 1)) / 2);
  });

  it('draw every edge there is and none that is not, over all positions or one span', () => {
    const result = decodeResult(FILES.edges()) as EdgesResult;
    const whole = adjacencyPanel(result, WHOLE);
    expect([whole.store.rows, whole.store.columns]).toEqual([157, 445]);
    expect(whole.store.done).toBe(result.real.reduce((sum, one) => sum + one, 0));
    expect(whole.payload.blank).toBe('no such edge');
    const at = result.real.indexOf(1);
    const [row, column] = [Math.floor(at / 445), at % 445];
    expect(adjacencyPanel(result, 1).store.read(0, row, column)).toBe(result.spanScores![result.scores.length + at]);
  });
});

describe('thumbnails of heads', () => {
  it('put layer 0 at the bottom, and find the head under a point', () => {
    const at = thumbLayout(4, 6, 400);
    expect(thumbOrigin(at, { layer: 0, head: 0 }).y).toBeGreaterThan(thumbOrigin(at, { layer: 3, head: 0 }).y);
    for (const head of [{ layer: 0, head: 5 }, { layer: 3, head: 0 }, { layer: 2, head: 4 }]) {
      const { x, y } = thumbOrigin(at, head);
      expect(thumbAt(at, x + 2, y + 2)).toEqual(head);
    }
    expect(thumbAt(at, 2, 2)).toBeNull();
    expect(thumbAt(at, 390, 10_000)).toBeNull();
  });

  it('stay large enough to be hit where there are many', () => {
    expect(thumbLayout(32, 64, 320).size).toBeGreaterThanOrEqual(14);
  });
});
