/** The scores of all edges as a map, sources × readers. */
import type { EdgesResult, Numbers } from './results';
import type { PanelState } from './run-state';
import { plainTick, stored } from './stored';
import type { Axis, Quantity } from './types';

export const WHOLE = -1;

/** Sources × readers of the scores, of all positions or of one span. Pairs without an edge stay blank. */
export function adjacencyPanel(result: EdgesResult, span = WHOLE): PanelState {
  const scores = scoresOf(result, span);
  const axis = (name: string, title: string, names: string[]): Axis => ({ name, title, ticks: names.map(plainTick) });
  const quantity = scoreQuantity(result, scores);
  const payload = {
    index: 0,
    name: `${result.name}-map`,
    title: span === WHOLE ? result.title : `${result.title}, span ${result.spans[span] ?? span}`,
    rows: axis('source', 'Source', result.sources),
    columns: axis('reader', 'Reader', result.readers),
    quantities: [quantity],
    facts: result.facts,
    blank: 'no such edge',
    whole: true,
  };
  return { payload, store: stored([scores], result.sources.length, result.readers.length, result.real) };
}

export function scoresOf(result: EdgesResult, span: number): Numbers {
  if (span === WHOLE || !result.spanScores) return result.scores;
  const size = result.scores.length;
  return result.spanScores.subarray(span * size, (span + 1) * size);
}

/** Scores have no domain of their own: symmetric about zero, to the largest of the edges there are. */
function scoreQuantity(result: EdgesResult, scores: Numbers): Quantity {
  let size = 0;
  for (let i = 0; i < scores.length; i += 1) if (result.real[i] === 1) size = Math.max(size, Math.abs(scores[i]!) || 0);
  const unit = typeof result.facts.unit === 'string' ? result.facts.unit : '';
  return { key: 'score', title: 'Score', unit, scale: 'diverging', domain: [-(size || 1), size || 1], anchors: {} };
}
