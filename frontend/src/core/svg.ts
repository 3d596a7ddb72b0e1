/** An SVG file as a string: head with title, source and permalink, every text escaped. */
import { paperOf, round, type Scene, type Shape } from './scene';
import type { RunDetail } from './types';

export const SANS = 'Helvetica, Arial, sans-serif';
export const MONO = 'Menlo, Consolas, monospace';
const MUTED = '#566173';
const TEXT = '#1a2230';
const CAPTION = 44;

export function escapeXml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  // Characters XML 1.0 cannot hold at all are dropped; token labels have them escaped as U+… already.
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/gu, '').replace(/[&<>"']/gu, (c) => entities[c] ?? c);
}

export interface TextStyle {
  size?: number;
  fill?: string;
  anchor?: 'start' | 'middle' | 'end';
  family?: string;
  weight?: number;
  transform?: string;
}

export function svgText(x: number, y: number, content: string, style: TextStyle = {}): string {
  const { size = 12, fill = TEXT, anchor = 'start', family = SANS, weight, transform } = style;
  const extra = (weight ? ` font-weight="${weight}"` : '') + (transform ? ` transform="${transform}"` : '');
  return `<text x="${round(x)}" y="${round(y)}" font-family="${family}" font-size="${size}" fill="${fill}" text-anchor="${anchor}" xml:space="preserve"${extra}>${escapeXml(content)}</text>`;
}

export interface SvgHead {
  run: RunDetail;
  /** What the figure is, under the run's title. */
  title: string;
  /** What it shows, in a sentence, for who cannot see it. */
  summary: string;
  permalink: string;
}

/** A whole file around a figure `width` × `height`; `body` is drawn from (0, 0). */
export function svgFile(head: SvgHead, size: { width: number; height: number }, body: string[]): string {
  const { run, permalink } = head;
  const width = round(Math.max(420, size.width));
  const height = round(CAPTION + size.height + 30);
  const source = `${head.title} · ${run.model.title} · ${run.prompts.title} v${run.prompts.version} (${run.prompts.pairs} pairs)`;
  const about = { permalink, run: run.id, spec: run.spec, spec_hash: run.spec_hash, provenance: run.provenance };
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    `<title>${escapeXml(`${run.title}: ${head.title}`)}</title>`,
    `<desc>${escapeXml(head.summary)}</desc>`,
    `<metadata>${escapeXml(JSON.stringify(about))}</metadata>`,
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    svgText(2, 16, run.title, { size: 14, weight: 600 }),
    svgText(2, 34, source, { fill: MUTED }),
    `<g transform="translate(0 ${CAPTION})">`,
    ...body,
    '</g>',
    svgText(2, height - 8, permalink, { size: 9, fill: MUTED }),
    '</svg>',
  ];
  return `${parts.join('\n')}\n`;
}

/** A scene as a file, in the colours of paper. */
export function sceneFile(head: SvgHead, scene: Scene): string {
  return svgFile(head, scene, scene.shapes.map(shapeText));
}

function shapeText(shape: Shape): string {
  const opacity = shape.opacity === undefined ? '' : ` opacity="${shape.opacity}"`;
  if (shape.kind === 'text') {
    const { size, anchor } = shape;
    const style: TextStyle = { fill: paperOf(shape.fill ?? 'text'), family: shape.mono ? MONO : SANS };
    if (size !== undefined) style.size = size;
    if (anchor !== undefined) style.anchor = anchor;
    if (shape.bold) style.weight = 600;
    return svgText(shape.x, shape.y, shape.text, style);
  }
  if (shape.kind === 'rect') {
    const stroke = shape.stroke === undefined ? '' : ` stroke="${paperOf(shape.stroke)}"`;
    return `<rect x="${round(shape.x)}" y="${round(shape.y)}" width="${round(shape.w)}" height="${round(shape.h)}" rx="${shape.r ?? 0}" fill="${paperOf(shape.fill)}"${stroke}${opacity}/>`;
  }
  const line = ` stroke="${paperOf(shape.stroke)}" stroke-width="${shape.width ?? 1}"${shape.dash ? ` stroke-dasharray="${shape.dash}"` : ''}`;
  if (shape.kind === 'line') {
    return `<line x1="${round(shape.x1)}" y1="${round(shape.y1)}" x2="${round(shape.x2)}" y2="${round(shape.y2)}"${line}${opacity}/>`;
  }
  return `<path d="${shape.d}" fill="${paperOf(shape.fill)}"${shape.stroke === undefined ? '' : line}${opacity}/>`;
}
