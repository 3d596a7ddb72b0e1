/** Which of a run's figures is open, with the part of its view that only its kind has; and the results as they come. */
import { callBytes } from '../core/api';
import type { AnyResult } from '../core/results';
import { certificatesOf, entriesOf, type Entry } from '../core/shown';
import type { PanelPayload, ResultInfo } from '../core/types';
import { readView } from '../core/view-url';

/** Words a view keeps in the address: `head`, `order`, `search` … Each kind of figure reads only its own. */
export class ViewState {
  values = $state.raw<Record<string, string>>({});

  constructor(values: Record<string, string>) {
    this.values = values;
  }

  get(name: string): string | undefined {
    return this.values[name];
  }

  /** An empty text takes the word out. */
  set(name: string, value: string): void {
    const others = Object.entries(this.values).filter(([other]) => other !== name);
    this.values = Object.fromEntries(value === '' ? others : [...others, [name, value]]);
  }
}

export class Shown {
  results = $state.raw<ResultInfo[]>([]);
  panels = $state.raw<PanelPayload[]>([]);
  /** The name asked for; a figure that is not there yet is waited for. */
  private wanted = $state<string | null>(null);
  view = $state.raw(new ViewState({}));
  // Files by name: nothing on the page shows this list.
  // eslint-disable-next-line svelte/prefer-svelte-reactivity
  private readonly loaded = new Map<string, Promise<AnyResult>>();

  constructor(search: string, results: ResultInfo[]) {
    const { panel, extra } = readView(search);
    this.wanted = panel;
    this.view = new ViewState(extra);
    this.results = results;
  }

  readonly entries = $derived.by((): Entry[] => entriesOf(this.panels, this.results));
  readonly certificates = $derived.by((): ResultInfo[] => certificatesOf(this.results));
  readonly current = $derived.by(
    (): Entry | undefined => this.entries.find((entry) => entry.name === this.wanted) ?? this.entries[0],
  );

  /** The word of the address: none for the first figure. */
  get address(): string | null {
    const { current } = this;
    if (this.wanted !== null && current?.name !== this.wanted) return this.wanted;
    return current && current !== this.entries[0] ? current.name : null;
  }

  show(name: string): void {
    if (name === this.current?.name) return;
    this.wanted = name;
    this.view = new ViewState({});
  }

  /** A result's file, fetched once. Throws `ApiProblem`, or `RangeError` where the file is damaged. */
  load(info: ResultInfo): Promise<AnyResult> {
    const key = `${info.name}|${info.artifact.sha256}`;
    const known = this.loaded.get(key);
    if (known) return known;
    const found = Promise.all([callBytes(info.artifact.url), import('../core/results')]).then(([{ bytes }, code]) => code.decodeResult(bytes));
    this.loaded.set(key, found);
    found.catch(() => this.loaded.delete(key));
    return found;
  }
}
