/** Every head's pattern as a thumbnail: rows are layers, layer 0 at the bottom, columns heads. */
import type { Lut } from './colour';
import { rasterise } from './heat-raster';
import type { AttentionResult } from './results';

export interface ThumbLayout {
  /** Side of a thumbnail. */
  size: number;
  step: number;
  left: number;
  width: number;
  height: number;
  layers: number;
  heads: number;
}

export interface Head {
  layer: number;
  head: number;
}

const GAP = 3;
const LEFT = 28;
const BOTTOM = 18;
const LARGEST = 56;
const SMALLEST = 14;

export function thumbLayout(layers: number, heads: number, width: number): ThumbLayout {
  const fitted = Math.floor((width - LEFT) / Math.max(1, heads)) - GAP;
  const size = Math.max(SMALLEST, Math.min(LARGEST, fitted));
  const step = size + GAP;
  return { size, step, left: LEFT, width: LEFT + heads * step, height: layers * step + BOTTOM, layers, heads };
}

export function thumbOrigin(at: ThumbLayout, { layer, head }: Head): { x: number; y: number } {
  return { x: at.left + head * at.step, y: (at.layers - 1 - layer) * at.step };
}

export function thumbAt(at: ThumbLayout, x: number, y: number): Head | null {
  const head = Math.floor((x - at.left) / at.step);
  const layer = at.layers - 1 - Math.floor(y / at.step);
  const inside = head >= 0 && head < at.heads && layer >= 0 && layer < at.layers && y >= 0;
  return inside ? { layer, head } : null;
}

export interface ThumbInk {
  text: string;
  background: string;
  hatch: string;
  sans: string;
}

export function paintThumbs(
  canvas: HTMLCanvasElement, result: AttentionResult, plane: number, lut: Lut, at: ThumbLayout, ink: ThumbInk,
): void {
  const context = canvas.getContext('2d');
  const values = result.planes[plane];
  const quantity = result.quantities[plane];
  if (!context || !values || !quantity) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(at.width * ratio);
  canvas.height = Math.round(at.height * ratio);
  canvas.style.width = `${at.width}px`;
  canvas.style.height = `${at.height}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.imageSmoothingEnabled = false;
  const size = result.tokens.length;
  const image = document.createElement('canvas');
  const known = new Uint8Array(size * size);
  for (let layer = 0; layer < at.layers; layer += 1) {
    for (let head = 0; head < at.heads; head += 1) {
      const from = (layer * at.heads + head) * size * size;
      const part = Float32Array.from(values.subarray(from, from + size * size));
      for (let i = 0; i < part.length; i += 1) known[i] = Number.isNaN(part[i]) ? 0 : 1;
      const { x, y } = thumbOrigin(at, { layer, head });
      context.fillStyle = ink.hatch;
      context.fillRect(x, y, at.size, at.size);
      const raster = rasterise({
        values: part,
        known,
        columns: size,
        view: { r0: 0, c0: 0, r1: size, c1: size },
        flip: true,
        maxWidth: at.size * ratio,
        maxHeight: at.size * ratio,
        lut,
        domain: quantity.domain,
        rest: quantity.scale === 'diverging' ? (quantity.domain[0] + quantity.domain[1]) / 2 : quantity.domain[0],
        notNumber: 0,
      });
      image.width = raster.width;
      image.height = raster.height;
      image.getContext('2d')?.putImageData(new ImageData(new Uint8ClampedArray(raster.words.buffer), raster.width, raster.height), 0, 0);
      context.drawImage(image, x, y, at.size, at.size);
    }
  }
  paintLabels(context, at, ink);
}

function paintLabels(context: CanvasRenderingContext2D, at: ThumbLayout, ink: ThumbInk): void {
  context.fillStyle = ink.text;
  context.font = `11px ${ink.sans}`;
  context.textBaseline = 'middle';
  context.textAlign = 'right';
  const every = Math.max(1, Math.ceil(13 / at.step));
  for (let layer = 0; layer < at.layers; layer += every) {
    context.fillText(String(layer), at.left - 6, (at.layers - 1 - layer) * at.step + at.size / 2);
  }
  context.textAlign = 'center';
  const wide = Math.max(1, Math.ceil(18 / at.step));
  for (let head = 0; head < at.heads; head += wide) context.fillText(String(head), at.left + head * at.step + at.size / 2, at.layers * at.step + 8);
}
