/** Scores of edges: sorted, filtered and cut; the strongest as a drawing. */
import { drawBars, type Bar, type BarsDrawing } from './bars';
import { number, plural } from './format';
import { scoresOf, WHOLE } from './adjacency';
import type { EdgesResult, Numbers } from './results';
import type { Quantity } from './types';

export interface Edge {
  source: number;
  reader: number;
  score: number;
}

export type EdgeSign = 'both' | 'positive' | 'negative';

export interface EdgeFilter {
  search: string;
  sign: EdgeSign;
  span: number;
}

/** Every edge there is, by |score| from the largest; ties in the graph's order. The order is made once a span. */
export function byScore(result: EdgesResult, span: number): Edge[] {
  const scores: Numbers = scoresOf(result, span);
  const readers = result.readers.length;
  const places: number[] = [];
  for (let i = 0; i < scores.length; i += 1) if (result.real[i] === 1 && !Number.isNaN(scores[i])) places.push(i);
  places.sort((a, b) => Math.abs(scores[b]!) - Math.abs(scores[a]!) || a - b);
  return places.map((i) => ({ source: Math.floor(i / readers), reader: i % readers, score: scores[i]! }));
}

export function filtered(result: EdgesResult, edges: Edge[], { search, sign }: EdgeFilter): Edge[] {
  const match = matcher(search);
  return edges.filter((edge) => {
    if (sign === 'positive' && !(edge.score > 0)) return false;
    if (sign === 'negative' && !(edge.score < 0)) return false;
    return match(result.sources[edge.source] ?? '', result.readers[edge.reader] ?? '');
  });
}

/** `m0` finds either end, `a0 -> logits` a source and a reader; of several words each must be found. */
export function matcher(search: string): (source: string, reader: string) => boolean {
  const text = search.trim().toLowerCase();
  if (text === '') return () => true;
  const arrow = text.split(/->|→/u);
  if (arrow.length > 1) {
    const [from, to] = [arrow[0]!.trim(), arrow[1]!.trim()];
    return (source, reader) => source.toLowerCase().includes(from) && reader.toLowerCase().includes(to);
  }
  const parts = text.split(/\s+/u);
  return (source, reader) => parts.every((part) => source.toLowerCase().includes(part) || reader.toLowerCase().includes(part));
}

export function edgeName(result: EdgesResult, edge: Edge): string {
  return `${result.sources[edge.source] ?? '?'} → ${result.readers[edge.reader] ?? '?'}`;
}

export function edgesSummary(result: EdgesResult, edges: Edge[], span: number): string {
  const where = span === WHOLE ? '' : ` in span ${result.spans[span] ?? span}`;
  const head = `${result.title}: ${plural(edges.length, 'edge')} between ${plural(result.sources.length, 'source')} and ${plural(result.readers.length, 'reader')}${where}.`;
  const [best] = edges;
  return best ? `${head} Strongest: ${edgeName(result, best)}, ${number(best.score)}.` : head;
}

/** The strongest edges as bars. */
export function drawEdges(result: EdgesResult, edges: Edge[], quantity: Quantity, width: number, measure: (text: string) => number): BarsDrawing {
  const bars: Bar[] = edges.map((edge, index) => ({ index, label: edgeName(result, edge), value: edge.score, low: null, high: null }));
  const axis = { name: 'edge', title: 'Edge', ticks: [] };
  return drawBars({ axis, quantity, bars, all: bars, width, measure });
}
