/** Texts a model wrote, as a table: a row a prompt, a column a way of making them (a steering scale). */
import type { TextEntry, TextResult } from './results';
import type { Scene, Shape } from './scene';
import { plural } from './format';

export interface TextRow {
  prompt: string;
  /** One a column; null where this prompt has none. A label used twice for a prompt has both. */
  entries: TextEntry[][];
}

export interface TextTable {
  labels: string[];
  rows: TextRow[];
}

/** Columns and rows in the order in which their first entry comes. */
export function textTable(result: TextResult): TextTable {
  const labels = [...new Set(result.entries.map((entry) => entry.label))];
  const rows = new Map<string, TextRow>();
  for (const entry of result.entries) {
    const row = rows.get(entry.prompt) ?? { prompt: entry.prompt, entries: labels.map(() => []) };
    row.entries[labels.indexOf(entry.label)]?.push(entry);
    rows.set(entry.prompt, row);
  }
  return { labels, rows: [...rows.values()] };
}

// Zero-width and direction-changing characters, controls but line ends: they would hide or reorder what was written.
const HIDDEN = /[\p{Cf}\p{Co}\p{Cs}]|[^\P{Cc}\n\t]/gu;

/** Running text with what is invisible in it written out. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (c) => `U+${(c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}`);
}

export function textSummary(result: TextResult): string {
  const { labels, rows } = textTable(result);
  return `${result.title}: ${plural(rows.length, 'prompt')}, each continued in ${plural(labels.length, 'way')}: ${labels.slice(0, 8).join(', ')}${labels.length > 8 ? ' …' : ''}.`;
}

const LINE = 16;
const CHARS = 96;

/** Each text under its prompt and label, wrapped: for a file. */
export function drawTexts(result: TextResult): Scene {
  const shapes: Shape[] = [];
  let y = 4;
  const put = (text: string, x: number, style: Partial<Extract<Shape, { kind: 'text' }>>): void => {
    for (const line of wrap(visible(text), CHARS)) {
      y += LINE;
      shapes.push({ kind: 'text', x, y, text: line, ...style });
    }
  };
  for (const row of textTable(result).rows) {
    put(row.prompt, 2, { bold: true, mono: true });
    for (const entry of row.entries.flat()) {
      put(entry.label, 14, { fill: 'muted', size: 11 });
      put(entry.text, 26, { mono: true });
    }
    y += LINE / 2;
  }
  return { width: 800, height: y + 12, shapes };
}

export function wrap(text: string, limit: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    for (const word of paragraph.split(/(?<= )/u)) {
      if (line !== '' && line.length + word.trimEnd().length > limit) {
        lines.push(line);
        line = '';
      }
      line += word;
      while (line.length > limit) {
        lines.push(line.slice(0, limit));
        line = line.slice(limit);
      }
    }
    lines.push(line);
  }
  return lines;
}
