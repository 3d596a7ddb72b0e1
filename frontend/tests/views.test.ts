import { describe, expect, it } from 'vitest';

import { FILES } from '../dev/results';
import { barDomain, barsOf, barsSummary, drawBars, ordered } from '../src/core/bars';
import { checkLines, verdictText } from '../src/core/certificate';
import { bandPath, curveDomain, curveSummary, drawCurve, linePath, nearest, pointText } from '../src/core/curve';
import { byScore, drawEdges, edgesSummary, filtered, matcher } from '../src/core/edges';
import { resultCsv, resultJson } from '../src/core/export-results';
import { followUps } from '../src/core/follow-ups';
import { helpBlocks } from '../src/core/method-help';
import { type BarsResult, type CertificateResult, type CurveResult, decodeResult, type EdgesResult, type TextResult, type TokenTableResult } from '../src/core/results';
import { linearTicks, logTicks, scale } from '../src/core/scale';
import { PAPER, type Scene } from '../src/core/scene';
import { fieldsOf, optionText, paramsOf, unusedBecause, valueOf } from '../src/core/schema';
import { sceneFile } from '../src/core/svg';
import { drawTexts, textTable, visible, wrap } from '../src/core/texts';
import { cellWords, choices, drawTable, isText, strongest, tableSummary } from '../src/core/token-table';
import { lut } from '../src/core/colour';
import { panel, run } from './recorded';

const bars = decodeResult(FILES.bars()) as BarsResult;
const curve = decodeResult(FILES.curve()) as CurveResult;
const lens = decodeResult(FILES.lens()) as TokenTableResult;
const saliency = decodeResult(FILES.saliency()) as TokenTableResult;
const edges = decodeResult(FILES.edges()) as EdgesResult;
const texts = decodeResult(FILES.texts()) as TextResult;
const certificate = decodeResult(FILES.certificate()) as CertificateResult;
const measure = (text: string): number => text.length * 7;
const all = new Set(curve.series.map((line) => line.key));

describe('scales', () => {
  it('tick at round numbers inside of the domain', () => {
    expect(linearTicks([-1, 1], 4)).toEqual([-1, -0.5, 0, 0.5, 1]);
    expect(linearTicks([0, 0.07], 3)).toEqual([0, 0.05]);
    expect(logTicks([1, 2048])).toEqual([1, 10, 100, 1000]);
    expect(logTicks([3, 60])).toEqual([5, 10, 20, 50]);
  });

  it('turn around exactly, by their logarithm too', () => {
    for (const one of [scale([-2, 5], [10, 300], false, 5), scale([1, 1000], [10, 300], true, 5)]) {
      expect(one.invert(one.at(3.7))).toBeCloseTo(3.7, 9);
    }
    expect(scale([1, 100], [0, 200], true, 5).at(10)).toBeCloseTo(100, 9);
  });
});

describe('bars', () => {
  const effect = barsOf(bars, 'effect');
  const quantity = bars.quantities[0]!;

  it('are sorted by size whatever their sign, with what is no number last', () => {
    const sizes = ordered(effect, 'size').map((bar) => Math.abs(bar.value));
    expect(sizes.slice(0, -1)).toEqual([...sizes.slice(0, -1)].sort((a, b) => b - a));
    expect(sizes.at(-1)).toBeNaN();
    expect(ordered(effect, 'axis').map((bar) => bar.index)).toEqual(effect.map((_, i) => i));
  });

  it('begin at zero and end at their value, with the interval around it and the sign as colour', () => {
    const shown = ordered(effect, 'size').slice(0, 10);
    const drawing = drawBars({ axis: bars.axis, quantity, bars: shown, all: effect, width: 700, measure });
    const rects = drawing.shapes.filter((shape) => shape.kind === 'rect');
    expect(rects).toHaveLength(10);
    rects.forEach((rect, i) => {
      const { value } = shown[i]!;
      expect(rect.data).toMatchObject({ index: shown[i]!.index, value: String(value) });
      expect(rect.fill).toBe(value < 0 ? 'fig-negative' : 'fig-positive');
      const edge = value < 0 ? rect.x : rect.x + rect.w;
      expect(drawing.scale.invert(edge)).toBeCloseTo(value, 2);
    });
  });

  it('never stick out: the frame holds every interval', () => {
    const [low, high] = barDomain(quantity, effect);
    expect(low).toBeLessThanOrEqual(Math.min(...effect.flatMap((bar) => bar.low ?? [])));
    expect(high).toBeGreaterThanOrEqual(Math.max(...effect.flatMap((bar) => bar.high ?? [])));
    const far = [{ index: 0, label: 'a', value: 9, low: null, high: null }];
    expect(barDomain({ ...quantity, domain: [-1, 1] }, far)).toEqual([-1, 9]);
  });

  it('say their largest in words', () => {
    expect(barsSummary(bars, quantity)).toMatch(/96 heads\. Largest Effect on the logit difference: −1\.93, interval .* at head L7H7\./);
  });
});

describe('curves', () => {
  it('draw a line and a band a series, inside of the frame', () => {
    const drawing = drawCurve({ curve, shown: all, width: 640, height: 360, marked: null });
    const paths = drawing.shapes.filter((shape) => shape.kind === 'path');
    expect(paths).toHaveLength(4);
    const numbers = paths.flatMap((path) => path.d.match(/-?[\d.]+/g)!.map(Number));
    expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...numbers)).toBeLessThanOrEqual(640);
  });

  it('leave gaps where there is no number', () => {
    const at = scale([0, 3], [0, 3], false, 3);
    expect(linePath(Float32Array.of(0, 1, 2, 3), Float32Array.of(1, Number.NaN, 2, 3), at, at)).toBe('M0 1M2 2L3 3');
    expect(bandPath(Float32Array.of(0, 1), Float32Array.of(0, 1), Float32Array.of(2, 3), at, at)).toBe('M0 2L1 3L1 1L0 0Z');
  });

  it('keep 0 and 1 in the frame where they have a meaning, and not a far zero', () => {
    const [low, high] = curveDomain(curve, all);
    expect(low).toBeLessThanOrEqual(0);
    expect(high).toBeGreaterThanOrEqual(1);
    const far: CurveResult = { ...curve, quantity: { ...curve.quantity, anchors: {} }, series: [{ key: 'a', title: 'A', y: Float32Array.of(100, 101), low: null, high: null }] };
    expect(curveDomain(far, new Set(['a']))[0]).toBeGreaterThan(90);
  });

  it('read every shown series at the nearest x', () => {
    const { x } = drawCurve({ curve, shown: all, width: 640, height: 360, marked: null });
    expect(nearest(curve, x, x.at(16) + 3)).toBe(4);
    expect(pointText(curve, 4, new Set(['eap']))).toMatch(/^Edges kept 16\.0 edges: EAP-IG 0\.931 \(.* to .*\)$/);
    expect(curveSummary(curve)).toContain('2 lines of 12 points');
  });
});

describe('token tables', () => {
  it('know lenses from prompts with a number a token', () => {
    expect(isText(lens)).toBe(false);
    expect(isText(saliency)).toBe(true);
  });

  it('give the tokens of a cell in order, and none where there is no cell', () => {
    const found = choices(lens, 2, 5);
    expect(found.map((one) => one.token)).toEqual(lens.tokens[2]![5]);
    expect(found[1]!.value).toBe(lens.values[(2 * 16 + 5) * 3 + 1]);
    expect(choices(saliency, 2, 15)).toEqual([]);
    expect(cellWords(saliency, 2, 15)).toContain('no cell');
  });

  it('name the strongest cell, with what is invisible in tokens written out', () => {
    const { row, column } = strongest(lens)!;
    const largest = Math.max(...lens.values.filter((_, i) => i % 3 === 0));
    expect(choices(lens, row, column)[0]!.value).toBe(largest);
    expect(tableSummary(lens)).toContain('the best 3 tokens each');
    expect(cellWords(lens, 0, 14)).toContain('U+202E');
  });

  it('are drawn with layer 0 at the bottom', () => {
    const scene = drawTable(lens, lut('batlow'), [0, 1], true);
    const labels = scene.shapes.filter((shape) => shape.kind === 'text' && shape.anchor === 'end');
    expect(labels.map((shape) => (shape.kind === 'text' ? shape.text : ''))).toEqual(['5', '4', '3', '2', '1', '0']);
  });
});

describe('edges', () => {
  const sorted = byScore(edges, -1);

  it('are all there once, from the largest score of either sign', () => {
    expect(sorted).toHaveLength(edges.real.reduce((sum, one) => sum + one, 0));
    expect(sorted.every((edge, i) => i === 0 || Math.abs(edge.score) <= Math.abs(sorted[i - 1]!.score))).toBe(true);
    expect(edgesSummary(edges, sorted, -1)).toContain('Strongest: ');
  });

  it('are found by either end, by both with an arrow, and by sign', () => {
    const names = (search: string) => filtered(edges, sorted, { search, sign: 'both', span: -1 });
    const both = names('a0.h1 -> logits');
    expect(both.map((edge) => edges.sources[edge.source]).sort()).toEqual(['a0.h1', 'a0.h10', 'a0.h11']);
    expect(both.every((edge) => edges.readers[edge.reader] === 'logits')).toBe(true);
    expect(names('<q>').every((edge) => edges.readers[edge.reader]!.includes('<q>'))).toBe(true);
    expect(filtered(edges, sorted, { search: '', sign: 'negative', span: -1 }).every((edge) => edge.score < 0)).toBe(true);
    expect(matcher('m3 logits')('m3', 'logits')).toBe(true);
    expect(matcher('m3 logits')('m3', 'm4')).toBe(false);
  });

  it('of a span are those of that span', () => {
    const [first] = byScore(edges, 0);
    expect(first!.score).toBeCloseTo(sorted[0]!.score * 0.7, 6);
  });

  it('are drawn as bars with both their names', () => {
    const quantity = { key: 'score', title: 'Score', unit: '', scale: 'diverging' as const, domain: [-1, 1] as [number, number], anchors: {} };
    const drawn = drawEdges(edges, sorted.slice(0, 3), quantity, 640, measure);
    expect(drawn.rows.map((row) => row.bar.label)[0]).toContain(' → ');
  });
});

describe('texts', () => {
  it('are a table of prompts and ways', () => {
    const { labels, rows } = textTable(texts);
    expect(labels).toEqual(['no steering', 'scale −4', 'scale 4']);
    expect(rows.map((row) => row.entries.map((cell) => cell.length))).toEqual([[1, 1, 1], [1, 1, 1]]);
  });

  it('show what is invisible, and wrap without losing a character', () => {
    expect(visible('a\u202eb\u0007\nc')).toBe('aU+202EbU+0007\nc');
    const text = 'one two three four five sixsevenseveneightnine ten';
    expect(wrap(text, 12).join('')).toBe(text);
    expect(Math.max(...wrap(text, 12).map((line) => line.trimEnd().length))).toBeLessThanOrEqual(12);
  });
});

describe('certificates', () => {
  it('say of each check in a word and a sign how it went', () => {
    expect(checkLines(certificate).map((line) => [line.sign, line.word, line.numbers])).toEqual([
      ['✓', 'passed', '0.91, limit 0.85'],
      ['✗', 'failed', '0.42, limit 0.7'],
      ['·', 'for information', '0.013'],
    ]);
    expect(verdictText(certificate)).toBe('1 of 2 checks passed, 1 failed, 1 warning.');
  });
});

describe('files of results', () => {
  const source = (result: Parameters<typeof resultCsv>[0]['result']) => ({ run: run({ title: '=Formula' }), result, permalink: 'https://lab.example/runs/x/?panel=a' });

  it.each([
    ['bars', bars, 96],
    ['curve', curve, 24],
    ['lens', lens, 6 * 16 * 3],
    ['saliency', saliency, 16 + 14 + 12],
    ['edges', edges, byScore(edges, -1).length],
    ['texts', texts, 6],
    ['certificate', certificate, 4],
  ] as const)('CSV of %s has one line a number, under where it is from', (_, result, lines) => {
    const text = resultCsv(source(result));
    expect(text.startsWith('# permalink: https://lab.example')).toBe(true);
    const rows = text.split('\r\n').filter((line) => line !== '' && !line.startsWith('# '));
    expect(rows.length).toBeGreaterThanOrEqual(1 + lines);
    expect(text).not.toMatch(/^[=+@]/mu);
  });

  it('JSON holds the numbers, null where there is none', () => {
    const body = JSON.parse(resultJson(source(bars))) as { result: { values: Record<string, (number | null)[]> }; run: string };
    expect(body.result.values.effect![37]).toBeNull();
    expect(body.result.values.effect![0]).toBe(bars.values.effect![0]);
    expect(body.run).toBe(run().id);
  });

  it('SVG is vector, on white, every text escaped', () => {
    const scenes: Scene[] = [drawTexts(texts), drawTable(saliency, lut('vik'), [-2, 2], false), drawCurve({ curve, shown: all, width: 640, height: 360, marked: 3 })];
    for (const scene of scenes) {
      const svg = sceneFile({ run: run(), title: 'A <b> & "c"', summary: 's', permalink: 'https://lab.example/?a&b' }, scene);
      expect(svg).toContain('A &lt;b&gt; &amp; &quot;c&quot;');
      expect(svg).not.toContain('<script>');
      expect(svg).not.toContain('var(--');
      expect(svg.match(/<(svg|text|rect|line|path|g)[ >]/g)!.length).toBeGreaterThan(5);
    }
  });

  it('know a colour on paper for every role that drawings use', () => {
    const drawn = [drawCurve({ curve, shown: all, width: 640, height: 360, marked: 1 }), drawBars({ axis: bars.axis, quantity: bars.quantities[0]!, bars: barsOf(bars, 'effect'), all: [], width: 640, measure })];
    const paints = drawn.flatMap((scene) => scene.shapes.flatMap((shape) => [('fill' in shape && shape.fill) || 'text', ('stroke' in shape && shape.stroke) || 'text']));
    for (const paint of paints) if (!paint.startsWith('#')) expect(PAPER).toHaveProperty([paint]);
  });
});

describe('runs that a region suggests', () => {
  const rect = { r0: 0, c0: 1, r1: 2, c1: 3 };
  const query = (href: string) => Object.fromEntries(new URLSearchParams(href.split('?')[1]));

  it('compute it first while the run goes on, finer and by heads, on the same prompts', () => {
    const links = followUps(run({ status: 'running' }), panel(), rect);
    expect(links.map((link) => link.text)).toEqual(['Compute this first', 'Run finer here', 'Heads here']);
    expect(query(links[0]!.href)).toEqual({ from: run().id, method: 'activation_patching', region: '0,1,1,2' });
    expect(query(links[1]!.href)).toMatchObject({ sites: 'z', over: 'layer_head_position', layers: '0,1', region: '0,1,1,2' });
    expect(query(links[2]!.href)).toMatchObject({ over: 'layer_head', layers: '0,1' });
  });

  it('do not ask for what a finished run has, nor of another method', () => {
    expect(followUps(run({ status: 'succeeded' }), panel(), rect).map((link) => link.text)).toEqual(['Run finer here', 'Heads here']);
    expect(followUps(run({ method: 'path_patching' }), panel(), rect)).toEqual([]);
  });
});

describe('the form of any method', () => {
  const fields = fieldsOf({
    properties: {
      source: { enum: ['interchange', 'mean'], type: 'string', default: 'interchange', title: 'What is put in' },
      layers: { type: 'array', items: { type: 'integer' }, default: [] },
      region: { anyOf: [{ type: 'array', prefixItems: [{ type: 'integer' }], minItems: 4, maxItems: 4 }, { type: 'null' }], default: null },
      scales: { type: 'array', items: { type: 'number' }, default: [-1, 0.5] },
      width: { type: 'number', exclusiveMinimum: 0, default: 3, only_if: { source: ['mean'] } },
    },
  });
  const field = (name: string) => fields.find((one) => one.name === name)!;

  it('takes lists of numbers with commas and ranges, and leaves what is empty out', () => {
    expect(fields.map((one) => one.kind)).toEqual(['choice', 'integers', 'integers', 'numbers', 'number']);
    expect(paramsOf(fields, { layers: '0, 2-4;9', region: '', scales: '-1 0.5', source: 'mean' })).toEqual({ layers: [0, 2, 3, 4, 9], scales: [-1, 0.5], source: 'mean' });
    expect(paramsOf(fields, { layers: '1, two' })).toEqual({ layers: [1, 'two'] });
    expect(valueOf(field('scales'), undefined)).toBe('-1, 0.5');
    expect(valueOf(field('layers'), ['3', '4'])).toBe('3, 4');
    expect(field('region').optional).toBe(true);
  });

  it('says when a field has no effect as the form stands', () => {
    expect(unusedBecause(field('width'), fields, () => 'interchange')).toBe('Used only where “What is put in” is mean.');
    expect(unusedBecause(field('width'), fields, () => 'mean')).toBe('');
  });

  it('puts axes into words and leaves names of sites', () => {
    expect(optionText('layer_head_position')).toBe('layer × head × position');
    expect(optionText('resid_pre')).toBe('resid_pre');
  });

  it('lays its help out as the method’s page does', () => {
    expect(helpBlocks('One\nparagraph.\n\nx = y\n\nBeware:\n\n- first\n  item\n- second')).toEqual([
      { kind: 'paragraph', texts: ['One paragraph.'] },
      { kind: 'formula', texts: ['x = y'] },
      { kind: 'heading', texts: ['Beware'] },
      { kind: 'list', texts: ['first item', 'second'] },
    ]);
  });
});
