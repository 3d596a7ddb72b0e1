/**
 * Colour maps as 256-entry tables. Values map by a fixed domain, never by what happened to be computed.
 *
 * NOTICE. The stops of vik, berlin and batlow are from the Scientific colour maps, Copyright (c) 2020 Fabio Crameri,
 * MIT License: permission is granted, free of charge, to use, copy, modify, merge, publish, distribute, sublicense and
 * sell copies, provided that this copyright notice and this permission notice are included; provided "as is", without
 * warranty of any kind. doi:10.5281/zenodo.1243862.
 * The stops of RdBu are from ColorBrewer, Copyright (c) 2002 Cynthia Brewer, Mark Harrower and The Pennsylvania State
 * University, Apache License 2.0.
 */

export type MapName = 'vik' | 'berlin' | 'RdBu' | 'batlow';
export type Theme = 'light' | 'dark';
export type Scale = 'diverging' | 'sequential';

const STOPS: Record<MapName, string> = {
  vik: '001261 023a7b 116496 5496b7 a7c9da ece5e0 e1b8a0 cd8961 b75a26 852206 590008',
  berlin: '9eb0ff 60a5df 3280a6 20526a 112732 190c09 371000 5f1f0a 964a36 ca7b71 ffadad',
  RdBu: '67001f b2182b d6604d f4a582 fddbc7 f7f7f7 d1e5f0 92c5de 4393c3 2166ac 053061',
  batlow: '011959 0f3c5f 185562 31685b 577647 818232 b38e2f e19652 fba689 fdb8c1 faccfa',
};
/** The ends of vik and berlin are near black or white: text on them and their hue are hard to see. */
const USED: Record<MapName, [number, number]> = {
  vik: [0.05, 0.95],
  berlin: [0.05, 0.95],
  RdBu: [0.04, 0.96],
  batlow: [0, 1],
};

export const LUT_SIZE = 256;

type Triple = [number, number, number];

function linear(channel: number): number {
  const c = channel / 255;
  return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
}

function gamma(channel: number): number {
  const c = channel <= 0.0031308 ? channel * 12.92 : 1.055 * channel ** (1 / 2.4) - 0.055;
  return Math.round(Math.min(1, Math.max(0, c)) * 255);
}

export function parseHex(hex: string): Triple {
  const value = Number.parseInt(hex.replace('#', ''), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export function toHex([r, g, b]: Triple): string {
  return `#${((1 << 24) | (r << 16) | (g << 8) | b).toString(16).slice(1)}`;
}

/** sRGB bytes to Oklab, the space colours are interpolated in (Björn Ottosson 2020). */
export function toOklab([r8, g8, b8]: Triple): Triple {
  const [r, g, b] = [linear(r8), linear(g8), linear(b8)];
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

export function fromOklab([L, A, B]: Triple): Triple {
  const l = (L + 0.3963377774 * A + 0.2158037573 * B) ** 3;
  const m = (L - 0.1055613458 * A - 0.0638541728 * B) ** 3;
  const s = (L - 0.0894841775 * A - 1.291485548 * B) ** 3;
  return [
    gamma(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    gamma(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    gamma(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

/** A colour table: 256 entries of `[r, g, b]`, also packed as the RGBA words of an ImageData. */
export interface Lut {
  name: MapName;
  rgb: Uint8Array;
  words: Uint32Array;
}

const cache = new Map<string, Lut>();

/** The table of a map; `reversed` swaps its ends. */
export function lut(name: MapName, reversed = false): Lut {
  const key = `${name}${String(reversed)}`;
  const known = cache.get(key);
  if (known) return known;
  const stops = STOPS[name].split(' ').map((hex) => toOklab(parseHex(hex)));
  const [from, to] = USED[name];
  const rgb = new Uint8Array(LUT_SIZE * 3);
  for (let i = 0; i < LUT_SIZE; i += 1) {
    const t = from + (to - from) * (i / (LUT_SIZE - 1));
    rgb.set(fromOklab(between(stops, reversed ? 1 - t : t)), i * 3);
  }
  const table = { name, rgb, words: pack(rgb) };
  cache.set(key, table);
  return table;
}

function between(stops: Triple[], t: number): Triple {
  const place = t * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(place));
  const a = stops[i]!;
  const b = stops[i + 1]!;
  const f = place - i;
  return [a[0] + (b[0] - a[0]) * f, a[1] + (b[1] - a[1]) * f, a[2] + (b[2] - a[2]) * f];
}

function pack(rgb: Uint8Array): Uint32Array {
  const bytes = new Uint8ClampedArray(LUT_SIZE * 4);
  for (let i = 0; i < LUT_SIZE; i += 1) {
    bytes.set([rgb[i * 3]!, rgb[i * 3 + 1]!, rgb[i * 3 + 2]!, 255], i * 4);
  }
  return new Uint32Array(bytes.buffer);
}

/** Which table a quantity gets: vik on light, berlin on dark, RdBu as the paper option; batlow for sequential. */
export function chooseLut(scale: Scale, theme: Theme, paper: boolean): Lut {
  if (scale === 'sequential') return lut('batlow', theme === 'light');
  if (paper) return lut('RdBu');
  return lut(theme === 'light' ? 'vik' : 'berlin');
}

/** Table index of a value, or −1 below and 256 above the domain (still coloured by the ends). */
export function indexOf(value: number, [low, high]: readonly [number, number]): number {
  if (value < low) return -1;
  if (value > high) return LUT_SIZE;
  const t = high === low ? 0.5 : (value - low) / (high - low);
  return Math.min(LUT_SIZE - 1, Math.floor(t * LUT_SIZE));
}

/** A value this little outside of its domain (in half spans) is rounding, not worth a mark. */
const TOLERANCE = 0.002;

/** −1 below, 1 above, 0 inside of the domain. */
export function outside(value: number, [low, high]: readonly [number, number]): -1 | 0 | 1 {
  const slack = ((high - low) / 2) * TOLERANCE;
  if (value > high + slack) return 1;
  return value < low - slack ? -1 : 0;
}

export function colourOf(table: Lut, value: number, domain: readonly [number, number]): string {
  const i = Math.min(LUT_SIZE - 1, Math.max(0, indexOf(value, domain)));
  return toHex([table.rgb[i * 3]!, table.rgb[i * 3 + 1]!, table.rgb[i * 3 + 2]!]);
}

/** Black or white, whichever reads better on that entry (WCAG relative luminance). */
export function inkOn(table: Lut, index: number): '#000000' | '#ffffff' {
  const i = Math.min(LUT_SIZE - 1, Math.max(0, index)) * 3;
  return luminance([table.rgb[i]!, table.rgb[i + 1]!, table.rgb[i + 2]!]) > 0.179 ? '#000000' : '#ffffff';
}

export function luminance([r, g, b]: Triple): number {
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
}

/** WCAG contrast ratio of two colours. */
export function contrast(a: string, b: string): number {
  const [x, y] = [luminance(parseHex(a)), luminance(parseHex(b))].sort((m, n) => n - m) as [number, number];
  return (x + 0.05) / (y + 0.05);
}

/** The smallest domain symmetric about zero that holds both ends; [−1, 1] where there is none. */
export function symmetric(low: number, high: number): [number, number] {
  const size = Math.max(Math.abs(low), Math.abs(high));
  return Number.isFinite(size) && size > 0 ? [-size, size] : [-1, 1];
}
