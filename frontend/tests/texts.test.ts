import { describe, expect, it } from 'vitest';

import { withText } from '../src/core/download';
import { cellText, summary } from '../src/core/describe';
import { toSvg } from '../src/core/export-svg';
import { escapeXml } from '../src/core/svg';
import { csvText, toClipboard, toCsv, toJson } from '../src/core/export-text';
import { bytes, count, duration, inCell, MINUS, number, tick } from '../src/core/format';
import { fullView, layout } from '../src/core/heat-layout';
import { lut } from '../src/core/colour';
import { TileStore } from '../src/core/tiles';
import { glyph, short } from '../src/core/tokens';
import { panel, run } from './recorded';

describe('numbers', () => {
  it.each([
    [0.81342, '0.813'], [-1234.5, `${MINUS}1230`], [0, '0'], [9.996, '10.0'], [0.00005, `5.00e${MINUS}5`],
    [1e7, '1.00e7'], [Number.NaN, 'not a number'], [-Infinity, `${MINUS}∞`],
  ] as const)('%f reads %s', (value, text) => {
    expect(number(value)).toBe(text);
  }); // prettier-ignore

  it('have a true minus sign on scales and in cells, and no minus zero', () => {
    expect(tick(-0.5)).toBe(`${MINUS}0.5`);
    expect(inCell(-0.004, 1)).toBe('0.00');
    expect(inCell(-3.14159, 12)).toBe(`${MINUS}3.1`);
  });

  it('are grouped, and times and sizes are in words', () => {
    expect(count(320960)).toBe('320\u202f960');
    expect([duration(0.2), duration(4), duration(130), duration(3900)]).toEqual(['under 1 s', '4 s', '2 min 10 s', '1 h 05 min']);
    expect(bytes(18344)).toBe('18.3 kB');
  });
});

describe('tokens', () => {
  it.each([
    [' Mary', '·Mary'], ['\n\n\n\n', '↵×4'], ['\t', '⇥'], ['', '∅'], ['a b', 'a b'], ['word ', 'word·'],
    ['\u200b', 'U+200B'], ['\u202eevil', 'U+202Eevil'], ['\u0000', 'U+0000'], ['<0x0a>', '⟨0x0A⟩'], ['é', 'é'], ['<b>', '<b>'],
  ])('%j prints as %s', (token, text) => {
    expect(glyph(token)).toEqual({ text, chip: false });
  }); // prettier-ignore

  it.each([['<|endoftext|>', '‹eos›'], ['<s>', '‹bos›'], ['<|im_start|>', '‹im_start›'], ['[PAD]', '‹pad›']])('%s is a chip', (token, text) => {
    expect(glyph(token)).toEqual({ text, chip: true });
  }); // prettier-ignore

  it('are cut by characters, not in the middle of one', () => {
    expect(short('🙂🙂🙂🙂', 3)).toBe('🙂🙂…');
  });
});

function source(labels?: string[]) {
  const payload = panel(0, labels);
  const store = new TileStore(1, 2, 3);
  store.write({ r0: 0, c0: 0, nr: 1, nc: 3, planes: 1, values: Float32Array.of(0.5, -0.25, Number.NaN) });
  return { run: run(), panel: payload, store, permalink: 'https://lab.example/runs/x/?pins=0.1' };
}

describe('exports', () => {
  it.each(['=cmd()', '+1', '-1', '@x', '\tx', '\rx'])('CSV gives no spreadsheet a formula: %j', (text) => {
    expect(csvText(text).replace(/^"/, '')).toMatch(/^'/);
  });

  it('CSV carries its permalink and one exact line a computed cell', () => {
    const text = toCsv(source(['=1+1', ' Mary', 'x,y']));
    expect(text).toContain('# permalink: https://lab.example/runs/x/?pins=0.1');
    expect(text).toContain("0,0,'=1+1,,0.5");
    expect(text).toContain('0,1,·Mary,·John,-0.25');
    expect(text).toContain('0,2,"x,y",,NaN');
    expect(text.trim().split('\r\n').filter((line) => /^\d/.test(line))).toHaveLength(3);
  });

  it('JSON tells not computed from not a number, and says where it is from', () => {
    const data = JSON.parse(toJson(source())) as { planes: { values: unknown[][] }[]; permalink: string; spec: unknown };
    expect(data.planes[0]?.values).toEqual([[0.5, -0.25, 'NaN'], [null, null, null]]); // prettier-ignore
    expect(data.permalink).toContain('pins=0.1');
    expect(data.spec).toEqual({ sites: ['resid_pre'] });
  });

  it('SVG is vector with real text, escaped, and its permalink inside', () => {
    const from = source(['<script>', ' Mary', '&']);
    const geometry = layout({
      rows: from.panel.rows, columns: from.panel.columns, view: fullView(2, 3), width: 600, maxPlotHeight: 300, flip: false,
      measure: (text) => text.length * 7,
    }); // prettier-ignore
    const svg = toSvg({ ...from, plane: 0, lut: lut('vik'), domain: [-1, 1], geometry });
    expect(svg).not.toContain('<script>');
    expect(svg).toContain('&lt;script&gt;');
    expect(svg).toContain('1 = clean run');
    expect(svg).toContain('pins=0.1');
    expect(svg.match(/<rect/g)!.length).toBeGreaterThan(5);
    expect(escapeXml('a\u0000b"')).toBe('ab&quot;');
  });

  it('copies values with their labels as they are on screen', () => {
    const text = toClipboard(source(), 0, { r0: 0, c0: 0, r1: 2, c1: 2 }, false);
    expect(text.split('\n')).toEqual(['Layer\tWhen\t·Mary', '1\t\t', '0\t0.5\t-0.25']);
  });

  it('PNG carries text chunks with a right checksum', () => {
    const png = withText(new Uint8Array(60), { Source: 'é' });
    const view = new DataView(png.buffer);
    expect(view.getUint32(33)).toBe('Source'.length + 5 + 2);
    expect(new TextDecoder().decode(png.subarray(37, 41))).toBe('iTXt');
    expect(png.length).toBe(60 + 12 + 13);
  });
});

describe('words for what is seen', () => {
  it('name layer, position, both tokens and the value', () => {
    expect(cellText({ payload: panel(), store: source().store }, 0, { row: 0, column: 1 })).toBe(
      `layer 0, position 1 ‘·Mary’ (corrupted ‘·John’), Recovery ${MINUS}0.250`,
    );
    expect(cellText({ payload: panel(), store: source().store }, 0, { row: 1, column: 0 })).toContain('not computed yet');
  });

  it('summarise the map in two sentences', () => {
    expect(summary({ payload: panel(), store: source().store }, 0)).toContain('3 of 6 cells computed. Strongest recovery: 0.500');
  });
});
