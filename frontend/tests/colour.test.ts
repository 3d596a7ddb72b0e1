import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import { chooseLut, colourOf, contrast, indexOf, inkOn, lut, LUT_SIZE, parseHex, symmetric, toHex, toOklab } from '../src/core/colour';

const entry = (name: Parameters<typeof lut>[0], i: number): string => {
  const { rgb } = lut(name);
  return toHex([rgb[i * 3]!, rgb[i * 3 + 1]!, rgb[i * 3 + 2]!]);
};

describe('colour maps', () => {
  it('give light its vik, dark its berlin, papers RdBu and sequential quantities batlow', () => {
    expect(chooseLut('diverging', 'light', false).name).toBe('vik');
    expect(chooseLut('diverging', 'dark', false).name).toBe('berlin');
    expect(chooseLut('diverging', 'dark', true).name).toBe('RdBu');
    expect(chooseLut('sequential', 'light', true).name).toBe('batlow');
  });

  it.each(['vik', 'berlin', 'RdBu'] as const)('%s has its neutral colour in the middle', (name) => {
    const [, a, b] = toOklab(parseHex(entry(name, LUT_SIZE / 2)));
    expect(Math.hypot(a, b)).toBeLessThan(0.03);
  });

  it('vik is cut before its ends become black', () => {
    expect(toOklab(parseHex(entry('vik', 0)))[0]).toBeGreaterThan(0.25);
  });

  it.each(['vik', 'berlin', 'RdBu', 'batlow'] as const)('%s has even steps: none is five times another', (name) => {
    const points = Array.from({ length: 33 }, (_, i) => toOklab(parseHex(entry(name, Math.min(255, i * 8)))));
    const steps = points.slice(1).map((p, i) => Math.hypot(...p.map((v, k) => v - points[i]![k]!)));
    expect(Math.max(...steps) / Math.min(...steps)).toBeLessThan(5);
  });

  it('equal sizes of opposite sign are equally far from the middle', () => {
    expect(indexOf(0, [-1, 1])).toBe(128);
    expect(indexOf(0.5, [-1, 1]) - 128).toBe(128 - indexOf(-0.5, [-1, 1]));
  });

  it('tells values outside of the domain, and colours them as its ends', () => {
    expect(indexOf(1.2, [-1, 1])).toBe(LUT_SIZE);
    expect(indexOf(-1.2, [-1, 1])).toBe(-1);
    expect(colourOf(lut('vik'), 7, [-1, 1])).toBe(colourOf(lut('vik'), 1, [-1, 1]));
  });

  it('writes on every colour with a contrast of at least 4.5', () => {
    for (const name of ['vik', 'berlin', 'RdBu', 'batlow'] as const) {
      for (let i = 0; i < LUT_SIZE; i += 1) expect(contrast(entry(name, i), inkOn(lut(name), i))).toBeGreaterThanOrEqual(4.5);
    }
  });

  it('has a symmetric domain even where the data have none', () => {
    expect(symmetric(-1, 3)).toEqual([-3, 3]);
    expect(symmetric(0, 0)).toEqual([-1, 1]);
    expect(symmetric(Number.NaN, 1)).toEqual([-1, 1]);
  });
});

describe('the figures’ own colours', () => {
  const css = readFileSync(new URL('../src/styles/figures/colours.css', import.meta.url), 'utf8');
  const values = (name: string): string[] => [...css.matchAll(new RegExp(`--${name}: (#[0-9a-f]{6})`, 'g'))].map((m) => m[1]!);

  it('print pin letters with a contrast of at least 4.5 in both themes', () => {
    for (const letter of ['a', 'b', 'c', 'd']) {
      const [light, dark] = values(`fig-pin-${letter}`) as [string, string];
      expect(contrast(light, '#ffffff')).toBeGreaterThanOrEqual(4.5);
      expect(contrast(dark, '#111418')).toBeGreaterThanOrEqual(4.5);
    }
  });

  it('define the same dark colours for the system’s theme and the chosen one', () => {
    for (const name of ['fig-hatch', 'fig-nan', 'fig-bar', 'fig-pin-a', 'fig-pin-b', 'fig-pin-c', 'fig-pin-d']) {
      const [, system, chosen] = values(name);
      expect(system).toBe(chosen);
    }
  });
});
