/** Figures as CSV and JSON, each with its permalink and where its numbers come from. */
import { glyph } from './tokens';
import type { TileStore } from './tiles';
import type { PanelPayload, RunDetail, Tick } from './types';

export interface FigureSource {
  run: RunDetail;
  panel: PanelPayload;
  store: TileStore;
  /** Absolute address of exactly this view. */
  permalink: string;
}

/** A cell that no spreadsheet takes for a formula: texts that begin with `= + - @`, tab or CR get a leading quote. */
export function csvText(text: string): string {
  const safe = /^[=+\-@\t\r]/u.test(text) ? `'${text}` : text;
  return /[",\n\r]/u.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A number as JavaScript's shortest exact decimal; a hyphen-minus here is data, not a formula. */
function csvNumber(value: number | undefined): string {
  if (value === undefined) return '';
  return Number.isNaN(value) ? 'NaN' : String(value);
}

function tickText(tick: Tick | undefined, fallback: number): string {
  return tick ? csvText(glyph(tick.label).text) : String(fallback);
}

function facts(source: FigureSource): Record<string, unknown> {
  const { run, panel } = source;
  return {
    permalink: source.permalink,
    run: run.id,
    title: run.title,
    method: run.method,
    model: run.model.slug,
    prompts: `${run.prompts.title} v${run.prompts.version}${run.prompts.id ? ` (${run.prompts.id})` : ''}`,
    status: run.status,
    cells: `${source.store.done} of ${source.store.cells}`,
    panel: panel.name,
    spec_hash: run.spec_hash,
  };
}

/** One line a cell: indices, labels and every plane; a comment head says what it is and where it lives. */
export function toCsv(source: FigureSource): string {
  const { panel, store } = source;
  const lines = Object.entries(facts(source)).map(([name, value]) => `# ${name}: ${String(value).replace(/[\r\n]+/gu, ' ')}`);
  const header = [panel.rows.name, panel.columns.name, `${panel.columns.name}_clean`, `${panel.columns.name}_corrupted`];
  lines.push([...header, ...panel.quantities.map((q) => q.key)].map(csvText).join(','));
  for (let r = 0; r < store.rows; r += 1) {
    for (let c = 0; c < store.columns; c += 1) {
      if (!store.isKnown(r, c)) continue;
      const tick = panel.columns.ticks[c];
      const corrupted = tick?.corrupted ?? null;
      const values = panel.quantities.map((_, p) => csvNumber(store.read(p, r, c)));
      lines.push([r, c, tickText(tick, c), corrupted === null ? '' : csvText(glyph(corrupted).text), ...values].join(','));
    }
  }
  return `${lines.join('\r\n')}\r\n`;
}

/** Planes as nested arrays: `null` = not computed, `"NaN"` = computed but not a number. */
export function toJson(source: FigureSource): string {
  const { run, panel, store } = source;
  const planes = panel.quantities.map((quantity, p) => ({
    ...quantity,
    values: rowsOf(store, p),
  }));
  const body = {
    ...facts(source),
    spec: run.spec,
    provenance: run.provenance,
    facts: panel.facts,
    rows: panel.rows,
    columns: panel.columns,
    planes,
  };
  return `${JSON.stringify(body, null, 1)}\n`;
}

function rowsOf(store: TileStore, plane: number): (number | string | null)[][] {
  return Array.from({ length: store.rows }, (_, r) =>
    Array.from({ length: store.columns }, (_, c) => {
      const value = store.read(plane, r, c);
      if (value === undefined) return null;
      return Number.isFinite(value) ? value : String(value);
    }),
  );
}

/** A rectangle of one plane as tab-separated text for the clipboard, rows as they are on screen. */
export function toClipboard(
  source: Pick<FigureSource, 'panel' | 'store'>, plane: number,
  rect: { r0: number; c0: number; r1: number; c1: number }, flip: boolean,
): string {
  const { panel, store } = source;
  const columns = Array.from({ length: rect.c1 - rect.c0 }, (_, i) => rect.c0 + i);
  const rows = Array.from({ length: rect.r1 - rect.r0 }, (_, i) => (flip ? rect.r0 + i : rect.r1 - 1 - i));
  const safe = (text: string): string => (/^[=+\-@]/u.test(text) ? `'${text}` : text).replace(/[\t\r\n]/gu, ' ');
  const head = [panel.rows.title, ...columns.map((c) => safe(glyph(panel.columns.ticks[c]?.label ?? String(c)).text))];
  const body = rows.map((r) => [panel.rows.ticks[r]?.label ?? String(r), ...columns.map((c) => csvNumber(store.read(plane, r, c)))]);
  return [head, ...body].map((line) => line.join('\t')).join('\n');
}
