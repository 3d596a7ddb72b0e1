/** Results as CSV and JSON, each with its permalink and where its numbers come from. */
import { barsOf } from './bars';
import { csvText } from './export-text';
import { byScore } from './edges';
import type { AnyResult, AttentionResult, BarsResult, CurveResult, EdgesResult, GridResult, TokenTableResult } from './results';
import { WHOLE } from './adjacency';
import { glyph } from './tokens';
import type { RunDetail } from './types';

export interface ResultSource {
  run: RunDetail;
  result: AnyResult;
  /** Absolute address of exactly this view. */
  permalink: string;
}

type Cell = string | number | null | undefined;

function facts({ run, result, permalink }: ResultSource): Record<string, unknown> {
  return {
    permalink,
    run: run.id,
    title: run.title,
    method: run.method,
    model: run.model.slug,
    prompts: `${run.prompts.title} v${run.prompts.version}${run.prompts.id ? ` (${run.prompts.id})` : ''}`,
    status: run.status,
    result: result.name,
    spec_hash: run.spec_hash,
  };
}

/** Texts keep spreadsheets from running them; numbers are JavaScript's shortest exact decimals, empty for none. */
function cellText(value: Cell): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'string') return csvText(value);
  return Number.isNaN(value) ? '' : String(value);
}

const token = (text: string): string => glyph(text).text;

export function resultCsv(source: ResultSource): string {
  const head = Object.entries(facts(source)).map(([name, value]) => `# ${name}: ${String(value).replace(/[\r\n]+/gu, ' ')}`);
  const lines: string[] = [...head];
  for (const row of rowsOf(source.result)) lines.push(row.map(cellText).join(','));
  return `${lines.join('\r\n')}\r\n`;
}

function rowsOf(result: AnyResult): Iterable<Cell[]> {
  if (result.kind === 'bars') return barRows(result);
  if (result.kind === 'curve') return curveRows(result);
  if (result.kind === 'token_table') return tokenRows(result);
  if (result.kind === 'attention') return attentionRows(result);
  if (result.kind === 'edges') return edgeRows(result);
  if (result.kind === 'grid') return gridRows(result);
  if (result.kind === 'text') return [['label', 'prompt', 'text'], ...result.entries.map((e) => [e.label, e.prompt, e.text])];
  return [
    ['name', 'title', 'value', 'limit', 'passed', 'sentence'],
    ...result.checks.map((c) => [c.name, c.title, c.value, c.limit, c.passed === null ? '' : c.passed ? 'yes' : 'no', c.sentence]),
    ...result.warnings.map((warning) => ['warning', '', null, null, '', warning]),
  ];
}

function* barRows(result: BarsResult): Generator<Cell[]> {
  const bounded = new Set(Object.keys(result.low));
  const names = result.quantities.flatMap(({ key }) => (bounded.has(key) ? [key, `${key}_low`, `${key}_high`] : [key]));
  yield [result.axis.name, `${result.axis.name}_label`, ...names];
  const planes = result.quantities.map(({ key }) => ({ bars: barsOf(result, key), bounds: bounded.has(key) }));
  for (const [i, tick] of result.axis.ticks.entries()) {
    const values = planes.flatMap(({ bars, bounds }) => {
      const bar = bars[i];
      return bounds ? [bar?.value, bar?.low, bar?.high] : [bar?.value];
    });
    yield [i, token(tick.label), ...values];
  }
}

function* curveRows(result: CurveResult): Generator<Cell[]> {
  yield ['series', 'x', result.quantity.key, 'low', 'high'];
  for (const line of result.series) {
    for (let i = 0; i < result.x.length; i += 1) yield [line.key, result.x[i], line.y[i], line.low?.[i], line.high?.[i]];
  }
}

function* tokenRows({ rows, columns, quantity, tokens, values, k }: TokenTableResult): Generator<Cell[]> {
  yield [rows.name, `${rows.name}_label`, columns.name, `${columns.name}_label`, 'rank', 'token', quantity.key];
  for (const [r, row] of rows.ticks.entries()) {
    for (const [c, column] of columns.ticks.entries()) {
      for (const [rank, text] of (tokens[r]?.[c] ?? []).entries()) {
        if (text === '') continue;
        yield [r, token(row.label), c, token(column.label), rank, token(text), values[(r * columns.ticks.length + c) * k + rank]];
      }
    }
  }
}

function* attentionRows({ tokens, quantities, planes, layers, heads }: AttentionResult): Generator<Cell[]> {
  yield ['layer', 'head', 'query', 'query_token', 'key', 'key_token', ...quantities.map((q) => q.key)];
  const size = tokens.length;
  for (let at = 0; at < layers * heads * size * size; at += 1) {
    const numbers = planes.map((plane) => plane[at]!);
    if (numbers.every(Number.isNaN)) continue;
    const [key, query] = [at % size, Math.floor(at / size) % size];
    const head = Math.floor(at / (size * size)) % heads;
    const layer = Math.floor(at / (size * size * heads));
    yield [layer, head, query, token(tokens[query]!), key, token(tokens[key]!), ...numbers];
  }
}

function* edgeRows(result: EdgesResult): Generator<Cell[]> {
  yield ['source', 'reader', 'score', ...result.spans.map((span) => `score ${span}`)];
  const size = result.scores.length;
  for (const edge of byScore(result, WHOLE)) {
    const at = edge.source * result.readers.length + edge.reader;
    const spans = result.spans.map((_, s) => result.spanScores?.[s * size + at]);
    yield [result.sources[edge.source], result.readers[edge.reader], edge.score, ...spans];
  }
}

function* gridRows({ rows, columns, quantities, planes }: GridResult): Generator<Cell[]> {
  yield [rows.name, `${rows.name}_label`, columns.name, `${columns.name}_label`, ...quantities.map((q) => q.key)];
  for (const [r, row] of rows.ticks.entries()) {
    for (const [c, column] of columns.ticks.entries()) {
      yield [r, token(row.label), c, token(column.label), ...planes.map((plane) => plane[r * columns.ticks.length + c])];
    }
  }
}

/** Everything of the result; arrays as flat lists in row-major order, `null` where there is no number. */
export function resultJson(source: ResultSource): string {
  const { run, result } = source;
  const body = { ...facts(source), spec: run.spec, provenance: run.provenance, result };
  const plain = (_: string, value: unknown): unknown => {
    if (!ArrayBuffer.isView(value)) return value;
    return Array.from(value as unknown as ArrayLike<number>, (one) => (Number.isFinite(one) ? one : null));
  };
  return `${JSON.stringify(body, plain, 1)}\n`;
}
