/**
 * Finished results as the page draws them, read from their safetensors files (`tracing/results/`): each type's JSON part
 * in the file's metadata, its numbers as arrays.
 */
import { kindOf, type ResultKind } from './kinds';
import { decodeSafetensors, type NamedArray } from './safetensors';
import type { Axis, Quantity } from './types';

export type Numbers = Float32Array | Float64Array;

interface Common {
  name: string;
  title: string;
  facts: Record<string, unknown>;
}

export interface GridResult extends Common {
  kind: 'grid';
  rows: Axis;
  columns: Axis;
  quantities: Quantity[];
  planes: Numbers[];
  /** `[pair, row, column]`, where the method keeps them. */
  examples: Numbers | null;
  clean: Numbers | null;
  corrupted: Numbers | null;
}

export interface BarsResult extends Common {
  kind: 'bars';
  axis: Axis;
  quantities: Quantity[];
  values: Record<string, Numbers>;
  low: Record<string, Numbers>;
  high: Record<string, Numbers>;
}

export interface CurveSeries {
  key: string;
  title: string;
  y: Numbers;
  low: Numbers | null;
  high: Numbers | null;
}

export interface CurveResult extends Common {
  kind: 'curve';
  x: Numbers;
  xTitle: string;
  xUnit: string;
  logX: boolean;
  quantity: Quantity;
  series: CurveSeries[];
}

export interface TokenTableResult extends Common {
  kind: 'token_table';
  rows: Axis;
  columns: Axis;
  quantity: Quantity;
  tokens: string[][][];
  /** Tokens a cell. */
  k: number;
  /** `[row, column, k]`. */
  values: Numbers;
}

export interface AttentionResult extends Common {
  kind: 'attention';
  tokens: string[];
  quantities: Quantity[];
  layers: number;
  heads: number;
  /** A quantity's `[layer, head, query, key]`. */
  planes: Numbers[];
}

export interface EdgesResult extends Common {
  kind: 'edges';
  sources: string[];
  readers: string[];
  /** `[source, reader]`: 1 where there is such an edge. */
  real: Uint8Array;
  scores: Numbers;
  spans: string[];
  spanScores: Numbers | null;
}

export interface TextEntry {
  label: string;
  prompt: string;
  text: string;
  facts: Record<string, unknown>;
}

export interface TextResult extends Common {
  kind: 'text';
  entries: TextEntry[];
}

export interface Check {
  name: string;
  title: string;
  value: number | null;
  limit: number | null;
  passed: boolean | null;
  sentence: string;
}

export interface CertificateResult extends Common {
  kind: 'certificate';
  checks: Check[];
  warnings: string[];
}

export type AnyResult =
  | GridResult | BarsResult | CurveResult | TokenTableResult | AttentionResult | EdgesResult | TextResult
  | CertificateResult; // prettier-ignore

const METADATA = 'patchbay';

/** Read a result's file. Throws `RangeError` where it is damaged or of a type this page does not know. */
export function decodeResult(file: ArrayBuffer): AnyResult {
  const { metadata, arrays } = decodeSafetensors(file);
  const stored = JSON.parse(metadata[METADATA] ?? '{}') as Record<string, unknown>;
  // The worker stores the JSON part beside what it knows of the run.
  return resultOf((stored.data ?? stored) as Record<string, unknown>, arrays);
}

export function resultOf(data: Record<string, unknown>, arrays: Map<string, NamedArray>): AnyResult {
  const kind = kindOf(String(data.format ?? ''));
  if (kind === null) throw new RangeError(`This page does not know results of type ${String(data.format)}; reload it.`);
  const reader = new Reader(data, arrays);
  return READERS[kind](reader);
}

class Reader {
  constructor(
    readonly data: Record<string, unknown>,
    private readonly arrays: Map<string, NamedArray>,
  ) {}

  get common(): Common {
    const { name, title, facts } = this.data;
    return { name: String(name), title: String(title), facts: (facts ?? {}) as Record<string, unknown> };
  }

  field<T>(name: string): T {
    const found = this.data[name];
    if (found === undefined) throw new RangeError(`The result has no ${name}.`);
    return found as T;
  }

  shape(name: string): number[] {
    return this.array(name).shape;
  }

  numbers(name: string): Numbers {
    const { values } = this.array(name);
    return values instanceof Uint8Array ? Float32Array.from(values) : values;
  }

  optional(name: string): Numbers | null {
    return this.arrays.has(name) ? this.numbers(name) : null;
  }

  bytes(name: string): Uint8Array {
    const { values } = this.array(name);
    return values instanceof Uint8Array ? values : Uint8Array.from(values);
  }

  /** Arrays `prefix.key` of the quantities that have one. */
  named(prefix: string, quantities: Quantity[]): Record<string, Numbers> {
    const found = quantities.map((q) => [q.key, this.optional(`${prefix}.${q.key}`)] as const);
    return Object.fromEntries(found.filter((pair): pair is readonly [string, Numbers] => pair[1] !== null));
  }

  private array(name: string): NamedArray {
    const found = this.arrays.get(name);
    if (!found) throw new RangeError(`The result has no array ${name}.`);
    return found;
  }
}

const READERS: Record<ResultKind, (reader: Reader) => AnyResult> = {
  grid: readGrid,
  bars: readBars,
  curve: readCurve,
  token_table: readTokenTable,
  attention: readAttention,
  edges: readEdges,
  text: (r) => ({ ...r.common, kind: 'text', entries: r.field('entries') }),
  certificate: (r) => ({ ...r.common, kind: 'certificate', checks: r.field('checks'), warnings: r.field('warnings') }),
};

function readGrid(r: Reader): GridResult {
  const quantities = r.field<Quantity[]>('quantities');
  return {
    ...r.common,
    kind: 'grid',
    rows: r.field('rows'),
    columns: r.field('columns'),
    quantities,
    planes: quantities.map((q) => r.numbers(`planes.${q.key}`)),
    examples: r.optional('examples'),
    clean: r.optional('clean'),
    corrupted: r.optional('corrupted'),
  };
}

function readBars(r: Reader): BarsResult {
  const quantities = r.field<Quantity[]>('quantities');
  const [values, low, high] = ['values', 'low', 'high'].map((prefix) => r.named(prefix, quantities));
  return { ...r.common, kind: 'bars', axis: r.field('axis'), quantities, values: values!, low: low!, high: high! };
}

function readCurve(r: Reader): CurveResult {
  const named = r.field<{ key: string; title: string }[]>('series');
  return {
    ...r.common,
    kind: 'curve',
    x: r.numbers('x'),
    xTitle: r.field('x_title'),
    xUnit: r.field('x_unit'),
    logX: r.field('log_x'),
    quantity: r.field('quantity'),
    series: named.map(({ key, title }) => ({
      key,
      title,
      y: r.numbers(`y.${key}`),
      low: r.optional(`low.${key}`),
      high: r.optional(`high.${key}`),
    })),
  };
}

function readTokenTable(r: Reader): TokenTableResult {
  return {
    ...r.common,
    kind: 'token_table',
    rows: r.field('rows'),
    columns: r.field('columns'),
    quantity: r.field('quantity'),
    tokens: r.field('tokens'),
    k: r.shape('values')[2] ?? 1,
    values: r.numbers('values'),
  };
}

function readAttention(r: Reader): AttentionResult {
  const quantities = r.field<Quantity[]>('quantities');
  const [layers = 0, heads = 0] = r.shape(`planes.${quantities[0]?.key ?? ''}`);
  return {
    ...r.common,
    kind: 'attention',
    tokens: r.field('tokens'),
    quantities,
    layers,
    heads,
    planes: quantities.map((q) => r.numbers(`planes.${q.key}`)),
  };
}

function readEdges(r: Reader): EdgesResult {
  return {
    ...r.common,
    kind: 'edges',
    sources: r.field('sources'),
    readers: r.field('readers'),
    real: r.bytes('real'),
    scores: r.numbers('scores'),
    spans: r.field('spans'),
    spanScores: r.optional('span_scores'),
  };
}
