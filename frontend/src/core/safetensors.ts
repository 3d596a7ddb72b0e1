/**
 * Reads a safetensors file: a little-endian length, a JSON header, then the arrays' bytes. Results come in this form,
 * with their JSON part in the header, so that numbers reach the page exactly as they were computed.
 */
import { floats } from './frames';

export interface NamedArray {
  shape: number[];
  values: Float32Array | Float64Array | Uint8Array;
}

export interface Safetensors {
  metadata: Record<string, string>;
  arrays: Map<string, NamedArray>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const HEAD = 8;
const SIZES: Record<string, number> = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, U8: 1, BOOL: 1 };

/** Throws `RangeError` with what is wrong about the file, so that half a file is never shown as a result. */
export function decodeSafetensors(buffer: ArrayBuffer): Safetensors {
  if (buffer.byteLength < HEAD) throw new RangeError(`A file of ${buffer.byteLength} bytes has no header.`);
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  if (HEAD + length > buffer.byteLength) throw new RangeError('The file ends inside its header.');
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEAD, length))) as Record<string, unknown>;
  const arrays = new Map<string, NamedArray>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') arrays.set(name, arrayOf(buffer, HEAD + length, name, entry as Entry));
  }
  return { metadata: (header.__metadata__ ?? {}) as Record<string, string>, arrays };
}

function arrayOf(buffer: ArrayBuffer, base: number, name: string, entry: Entry): NamedArray {
  const size = SIZES[entry.dtype];
  if (size === undefined) throw new RangeError(`Array ${name} has the unknown number format ${entry.dtype}.`);
  const [from, to] = entry.data_offsets;
  const count = entry.shape.reduce((product, n) => product * n, 1);
  if (to - from !== count * size || base + to > buffer.byteLength) {
    throw new RangeError(`Array ${name} has ${to - from} bytes for ${count} values of ${entry.dtype}.`);
  }
  // A copy of its own: arrays need not begin at a multiple of their item's size.
  return { shape: entry.shape, values: numbers(buffer.slice(base + from, base + to), entry.dtype, count) };
}

function numbers(bytes: ArrayBuffer, dtype: string, count: number): NamedArray['values'] {
  if (dtype === 'U8' || dtype === 'BOOL') return new Uint8Array(bytes);
  if (dtype === 'F32') return floats(bytes, 0, count);
  const view = new DataView(bytes);
  if (dtype === 'F16' || dtype === 'BF16') {
    const read = dtype === 'F16' ? half : brain;
    return Float32Array.from({ length: count }, (_, i) => read(view.getUint16(2 * i, true)));
  }
  if (dtype === 'F64') return Float64Array.from({ length: count }, (_, i) => view.getFloat64(8 * i, true));
  if (dtype === 'I32') return Float64Array.from({ length: count }, (_, i) => view.getInt32(4 * i, true));
  return Float64Array.from({ length: count }, (_, i) => Number(view.getBigInt64(8 * i, true)));
}

const word = new DataView(new ArrayBuffer(4));

/** bfloat16 is the upper half of a float32. */
function brain(bits: number): number {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}

function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
