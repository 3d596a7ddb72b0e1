/** The binary frame of a tile: a 32-byte little-endian header, then float32 `[planes, nr, nc]`. */
import type { Tile } from './tiles';

export const MAGIC = 0x4854;
export const HEADER_BYTES = 32;
export const FLAG_SNAPSHOT = 1;

export interface Frame extends Tile {
  handle: number;
  seq: number;
  panel: number;
  /** The frame is a whole panel, with unknown cells marked. */
  snapshot: boolean;
}

/** Read a frame; throws `RangeError` with what is wrong about it. */
export function decodeFrame(buffer: ArrayBuffer): Frame {
  if (buffer.byteLength < HEADER_BYTES) throw new RangeError(`A frame of ${buffer.byteLength} bytes has no header.`);
  const view = new DataView(buffer);
  const magic = view.getUint16(0, true);
  if (magic !== MAGIC) throw new RangeError(`Unknown frame magic 0x${magic.toString(16)}.`);
  const version = view.getUint8(2);
  if (version !== 1) throw new RangeError(`Frame version ${version} is newer than this page; reload it.`);
  if (view.getUint8(3) !== 0) throw new RangeError(`Unknown number format ${view.getUint8(3)} in a frame.`);
  const planes = view.getUint16(18, true);
  const nr = view.getUint16(24, true);
  const nc = view.getUint16(26, true);
  const length = planes * nr * nc;
  if (buffer.byteLength !== HEADER_BYTES + 4 * length) {
    throw new RangeError(`A frame of ${planes}×${nr}×${nc} values has ${buffer.byteLength - HEADER_BYTES} bytes of them.`);
  }
  return {
    handle: view.getUint32(4, true),
    seq: Number(view.getBigUint64(8, true)),
    panel: view.getUint16(16, true),
    planes,
    r0: view.getUint16(20, true),
    c0: view.getUint16(22, true),
    nr,
    nc,
    snapshot: (view.getUint32(28, true) & FLAG_SNAPSHOT) !== 0,
    values: floats(buffer, HEADER_BYTES, length),
  };
}

/** Write a frame: what the server does, for recordings and tests. */
export function encodeFrame(frame: Frame): ArrayBuffer {
  const buffer = new ArrayBuffer(HEADER_BYTES + frame.values.length * 4);
  const view = new DataView(buffer);
  view.setUint16(0, MAGIC, true);
  view.setUint8(2, 1);
  view.setUint32(4, frame.handle, true);
  view.setBigUint64(8, BigInt(frame.seq), true);
  const shape = [frame.panel, frame.planes, frame.r0, frame.c0, frame.nr, frame.nc];
  shape.forEach((value, i) => view.setUint16(16 + 2 * i, value, true));
  view.setUint32(28, frame.snapshot ? FLAG_SNAPSHOT : 0, true);
  new Uint8Array(buffer, HEADER_BYTES).set(
    new Uint8Array(frame.values.buffer, frame.values.byteOffset, frame.values.byteLength),
  );
  return buffer;
}

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** `length` little-endian floats from `offset`; shares the buffer's memory where the machine is little-endian too. */
export function floats(buffer: ArrayBuffer, offset: number, length: number): Float32Array {
  if (littleEndian) return new Float32Array(buffer, offset, length);
  const view = new DataView(buffer, offset);
  const bits = new Uint32Array(length);
  for (let i = 0; i < length; i += 1) bits[i] = view.getUint32(4 * i, true);
  return new Float32Array(bits.buffer);
}

/** Floats of a base64 string, as the HTTP event feed sends tiles. */
export function floatsFromBase64(text: string): Float32Array {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return floats(bytes.buffer, 0, bytes.length >> 2);
}
