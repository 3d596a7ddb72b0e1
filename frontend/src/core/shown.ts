/** What a run has to show, as one list: its maps as they fill, and its finished results. */
import { kindOf, type ResultKind } from './kinds';
import type { PanelPayload, ResultInfo } from './types';

export interface Entry {
  /** Name in the address; unique in a run. */
  name: string;
  /** What its tab says: of a map and a table of the same numbers both say the same name. */
  label: string;
  title: string;
  kind: ResultKind | 'panel' | 'unknown';
  /** Number of the panel, for maps that were announced. */
  panel: number | null;
  /** The finished result: of a map the same numbers with those of each pair, of anything else all there is. */
  result: ResultInfo | null;
}

/** A map and the grid of the same name are one entry. Certificates are no entry: they stand above every figure. */
export function entriesOf(panels: PanelPayload[], results: ResultInfo[]): Entry[] {
  const byName = new Map(results.map((result) => [result.name, result]));
  const grid = (name: string): ResultInfo | null => {
    const found = byName.get(name);
    return found && kindOf(found.type) === 'grid' ? found : null;
  };
  const maps = panels.map((panel, index): Entry => {
    return { name: panel.name, label: panel.name, title: panel.title, kind: 'panel', panel: index, result: grid(panel.name) };
  });
  const named = new Set(panels.filter((panel) => grid(panel.name)).map((panel) => panel.name));
  const rest = results
    .filter((result) => kindOf(result.type) !== 'certificate' && !named.has(result.name))
    .map((result): Entry => ({ name: unique(result.name, panels), label: result.name, title: result.title, kind: kindOf(result.type) ?? 'unknown', panel: null, result }));
  return [...maps, ...rest];
}

/** A result that shares its name with a map it is not: both stay reachable. */
function unique(name: string, panels: PanelPayload[]): string {
  return panels.some((panel) => panel.name === name) ? `${name}-result` : name;
}

export function certificatesOf(results: ResultInfo[]): ResultInfo[] {
  return results.filter((result) => kindOf(result.type) === 'certificate');
}

const WORDS: Record<Entry['kind'], string> = {
  panel: 'map',
  grid: 'map',
  bars: 'bars',
  curve: 'curve',
  token_table: 'tokens',
  attention: 'attention',
  edges: 'table',
  text: 'texts',
  certificate: 'certificate',
  unknown: 'file',
};

export function kindWord(kind: Entry['kind']): string {
  return WORDS[kind];
}
