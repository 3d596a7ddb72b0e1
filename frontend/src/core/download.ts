/** Hands a made file to the user, and turns an SVG into a PNG that carries its permalink in a text chunk. */

export function download(name: string, content: BlobPart, type: string): void {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** `First experiment: induction` → `first-experiment-induction`. */
export function fileName(...parts: string[]): string {
  const slug = parts.join('-').toLowerCase().replace(/[^a-z0-9]+/gu, '-').replace(/^-|-$/gu, '');
  return slug.slice(0, 80) || 'figure';
}

/** The SVG as a bitmap of `scale` pixels a unit. */
export async function pngOf(svg: string, scale: number, texts: Record<string, string>): Promise<Blob> {
  const canvas = await drawn(svg, scale);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, 'image/png'));
  if (!blob) throw new Error('This browser could not make a PNG of the figure.');
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return new Blob([withText(bytes, texts)], { type: 'image/png' });
}

async function drawn(svg: string, scale: number): Promise<HTMLCanvasElement> {
  const address = URL.createObjectURL(new Blob([svg], { type: 'image/svg+xml' }));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement('canvas');
    canvas.width = Math.round(image.naturalWidth * scale);
    canvas.height = Math.round(image.naturalHeight * scale);
    canvas.getContext('2d')?.drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas;
  } finally {
    URL.revokeObjectURL(address);
  }
}

const HEADER_END = 8 + 25; // signature, then the IHDR chunk

/** Insert iTXt chunks (UTF-8, uncompressed) after IHDR. */
export function withText(png: Uint8Array, texts: Record<string, string>): Uint8Array<ArrayBuffer> {
  const chunks = Object.entries(texts).map(([key, value]) => textChunk(key, value));
  const total = chunks.reduce((sum, chunk) => sum + chunk.length, png.length);
  const out = new Uint8Array(total);
  out.set(png.subarray(0, HEADER_END), 0);
  let at = HEADER_END;
  for (const chunk of chunks) {
    out.set(chunk, at);
    at += chunk.length;
  }
  out.set(png.subarray(HEADER_END), at);
  return out;
}

function textChunk(key: string, value: string): Uint8Array {
  const data = new TextEncoder().encode(`iTXt${key}\0\0\0\0\0${value}`);
  const chunk = new Uint8Array(data.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length - 4);
  chunk.set(data, 4);
  view.setUint32(4 + data.length, crc32(data));
  return chunk;
}

export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return (crc ^ 0xffffffff) >>> 0;
}
