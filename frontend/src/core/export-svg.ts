/**
 * A heatmap as a vector SVG for papers: cells as rectangles, text as text, axes, legend, caption and permalink.
 * Built as a string with every text escaped; colours come from the same table as on screen, on a white page.
 */
import { colourOf, type Lut, outside } from './colour';
import { type FigureSource } from './export-text';
import { number, tick, words } from './format';
import { type Geometry, rowLabel, xOf, yOf } from './heat-layout';
import { round } from './scene';
import { MONO, svgFile, svgText as text, type TextStyle } from './svg';
import type { Quantity } from './types';

export interface SvgInput extends FigureSource {
  plane: number;
  lut: Lut;
  domain: readonly [number, number];
  geometry: Geometry;
}

const MUTED = '#566173';
const ACCENT = '#1f5fbf';
const LEGEND = 74;

/** The geometry must be laid out without scrolling (`width` large enough for all its columns). */
export function toSvg(input: SvgInput): string {
  const { geometry: g, panel, run, permalink } = input;
  const quantity = panel.quantities[input.plane]!;
  const head = { run, title: panel.title, summary: describe(input), permalink };
  return svgFile(head, { width: g.plot.x + g.contentWidth + 20, height: g.height + LEGEND }, [
    '<defs><pattern id="unknown" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" fill="#f6f7f9"/><path d="M0 6 6 0" stroke="#c3cad4" stroke-width="1"/></pattern></defs>',
    ...cells(input),
    ...rowLabels(input),
    ...columnLabels(input),
    `<g transform="translate(${round(g.plot.x)} ${round(g.height + 8)})">`,
    ...legend(input, quantity),
    '</g>',
  ]);
}

function describe(input: SvgInput): string {
  const { panel, store, plane, domain } = input;
  const stats = store.stats(plane, domain);
  const quantity = panel.quantities[plane]!;
  const range = stats.count > 0 ? `values ${number(stats.min)} to ${number(stats.max)}` : 'no values yet';
  return `${quantity.title}, ${store.done} of ${store.cells} cells, ${range}. Colours span ${tick(domain[0])} to ${tick(domain[1])}.`;
}

/** Runs of equal colour in a row are one rectangle: a large map stays a file one can open. */
function cells(input: SvgInput): string[] {
  const { geometry: g, store, plane, lut, domain } = input;
  const out = [
    `<rect x="${round(g.plot.x)}" y="${round(g.plot.y)}" width="${round(g.contentWidth)}" height="${round(g.plot.h)}" fill="url(#unknown)"/>`,
    '<g shape-rendering="crispEdges">',
  ];
  const marks: string[] = [];
  for (let r = g.view.r0; r < g.view.r1; r += 1) {
    const y = yOf(g, r);
    let start = g.view.c0;
    let colour: string | null = null;
    const close = (end: number): void => {
      if (colour === null) return;
      out.push(`<rect x="${round(xOf(g, start))}" y="${round(y)}" width="${round((end - start) * g.cellW)}" height="${round(g.cellH)}" fill="${colour}"/>`);
    };
    for (let c = g.view.c0; c < g.view.c1; c += 1) {
      const value = store.read(plane, r, c);
      const next = value === undefined ? null : Number.isNaN(value) ? '#8a93a3' : colourOf(lut, value, domain);
      if (next !== colour) {
        close(c);
        start = c;
        colour = next;
      }
      if (value !== undefined) marks.push(...mark(input, value, xOf(g, c) + g.cellW / 2, y + g.cellH / 2));
    }
    close(g.view.c1);
  }
  return [...out, '</g>', ...marks];
}

function mark({ domain, geometry: g }: SvgInput, value: number, x: number, y: number): string[] {
  const side = outside(value, domain);
  const clipped = Number.isNaN(value) ? '×' : side > 0 ? '▲' : side < 0 ? '▼' : '';
  if (clipped === '' || g.cellW < 6) return [];
  return [text(x, y + 3, clipped, { size: 8, anchor: 'middle', fill: '#ffffff' })];
}

function rowLabels({ geometry: g, panel }: SvgInput): string[] {
  const labels = g.rowTicks.map((row) =>
    text(g.plot.x - 8, yOf(g, row) + g.cellH / 2 + 4, rowLabel(panel.rows, row), { anchor: 'end', size: 11, fill: MUTED }),
  );
  return [text(2, g.plot.y - 10, words(panel.rows.title), { weight: 600, fill: MUTED }), ...labels];
}

function columnLabels({ geometry: g, panel }: SvgInput): string[] {
  const base = g.plot.y + g.plot.h;
  const flat = g.labelMode === 'flat';
  const out = g.labels.flatMap((label) => {
    const x = xOf(g, label.column) + g.cellW / 2;
    const style: TextStyle = flat
      ? { family: MONO, anchor: 'middle' }
      : { family: MONO, anchor: 'end', transform: `rotate(-45 ${round(x + 4)} ${round(base + 16)})` };
    const at = flat ? { x, y: base + 15 } : { x: x + 4, y: base + 18 };
    const fill = label.differs ? { fill: ACCENT } : {};
    if (label.corrupted === null) return [text(at.x, at.y, label.clean, { ...style, ...fill })];
    if (!flat) return [text(at.x, at.y, `${label.corrupted} / ${label.clean}`, { ...style, ...fill })];
    return [
      text(at.x, at.y, label.clean, { ...style, ...fill }),
      text(at.x, at.y + 14, label.corrupted, { ...style, fill: MUTED }),
    ];
  });
  out.push(text(g.plot.x + g.contentWidth, g.height - 6, words(panel.columns.title), { anchor: 'end', weight: 600, fill: MUTED }));
  return out;
}

function legend({ lut, domain, panel }: SvgInput, quantity: Quantity): string[] {
  const width = 260;
  const stops = Array.from({ length: 33 }, (_, i) => {
    const value = domain[0] + ((domain[1] - domain[0]) * i) / 32;
    return `<stop offset="${round((i / 32) * 100)}%" stop-color="${colourOf(lut, value, domain)}"/>`;
  });
  const at = (value: number): number => ((value - domain[0]) / (domain[1] - domain[0] || 1)) * width;
  const ticks = [domain[0], (domain[0] + domain[1]) / 2, domain[1]];
  const named = Object.entries(quantity.anchors).map(([value, name]) => `${tick(Number(value))} = ${name}`);
  const unit = quantity.unit ? ` (${quantity.unit})` : '';
  return [
    `<defs><linearGradient id="scale">${stops.join('')}</linearGradient></defs>`,
    text(0, 10, `${quantity.title}${unit}`, { size: 11, weight: 600 }),
    `<rect x="0" y="16" width="${width}" height="12" fill="url(#scale)" stroke="#d5dae1"/>`,
    ...ticks.map((value) => text(at(value), 41, tick(value), { size: 10, anchor: 'middle', fill: MUTED })),
    text(0, 56, [...named, `hatched = ${panel.blank ?? 'not computed'}`].join(' · '), { size: 10, fill: MUTED }),
  ];
}
