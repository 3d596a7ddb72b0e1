/** State of one figure: which panel and plane, over which domain, what is pinned, zoomed and selected. */
import { chooseLut, type Lut, symmetric, type Theme } from '../core/colour';
import { type Cell, fullView, spanned } from '../core/heat-layout';
import type { Pin } from '../core/heat';
import type { PanelState } from '../core/run-state';
import { themeOf } from '../core/theme';
import type { Rect } from '../core/tiles';
import type { Quantity, RunDetail } from '../core/types';
import { clampRect, type FigureView, MAX_PINS, newRunLink, readView } from '../core/view-url';

/** Where a figure's maps come from: a run with its panels, or a finished result. */
export interface PanelSource {
  panels: PanelState[];
  /** Grows when a panel is announced. */
  announced: number;
  run: RunDetail;
}

export class FigureModel {
  /** Grows once a frame while values arrive. `panel` does not depend on it: whoever reads values reads this too. */
  tick = $state(0);
  /** The same at a calmer pace on large maps, for what costs a pass over all cells: legend, ranking, summary. */
  calm = $state(0);
  private opened = $state(0);
  panelIndex = $state(0);
  plane = $state(0);
  pins = $state.raw<Cell[]>([]);
  zoomed = $state.raw<Rect | null>(null);
  private flipped = $state(false);
  paper = $state(false);
  showValues = $state(false);
  /** One scale for all panels; unlocked, this figure may have its own limit. */
  locked = $state(true);
  limit = $state<number | null>(null);
  hover = $state.raw<Cell | null>(null);
  focus = $state.raw<Cell | null>(null);
  selection = $state.raw<Rect | null>(null);
  asTable = $state(false);
  theme = $state<Theme>('light');
  private wanted: FigureView;
  /** The same object while nothing changed, so that the layout is not made anew with every value. */
  private lastView: Rect = fullView(1, 1);

  constructor(readonly run: PanelSource, search: string) {
    this.wanted = readView(search);
    this.flipped = this.wanted.flip;
    this.paper = this.wanted.paper;
    this.pins = this.wanted.pins;
    this.zoomed = this.wanted.zoom;
    this.theme = themeOf();
    this.settle();
  }

  /** A view asked for in the address waits until its panel is announced. */
  settle(): void {
    const panels = this.run.panels;
    this.opened = this.run.announced;
    if (this.wanted.panel !== null) {
      const index = panels.findIndex((panel) => panel.payload.name === this.wanted.panel);
      if (index >= 0) {
        this.panelIndex = index;
        this.wanted.panel = null;
      }
    }
    const quantities = panels[this.panelIndex]?.payload.quantities;
    if (this.wanted.plane !== null && quantities) {
      this.plane = Math.max(0, quantities.findIndex((quantity) => quantity.key === this.wanted.plane));
      this.wanted.plane = null;
    }
  }

  get panel(): PanelState | undefined {
    void this.opened;
    return this.run.panels[this.panelIndex];
  }

  /** First row at the top. Layers grow upwards, as the residual stream does; everything else reads from the top. */
  get flip(): boolean {
    return this.flipped !== this.fromTop;
  }

  set flip(top: boolean) {
    this.flipped = top !== this.fromTop;
  }

  private get fromTop(): boolean {
    const rows = this.panel?.payload.rows;
    return rows !== undefined && !rows.name.includes('layer');
  }

  get quantity(): Quantity | undefined {
    return this.panel?.payload.quantities[this.plane];
  }

  get view(): Rect {
    const store = this.panel?.store;
    if (!store) return fullView(1, 1);
    const view = clampRect(this.zoomed, store.rows, store.columns) ?? fullView(store.rows, store.columns);
    const last = this.lastView;
    if (view.r0 === last.r0 && view.c0 === last.c0 && view.r1 === last.r1 && view.c1 === last.c1) return last;
    this.lastView = view;
    return view;
  }

  get pinned(): Pin[] {
    return this.pins.map((pin, i) => ({ ...pin, letter: 'ABCD'[i] ?? '?' }));
  }

  /** Panels with this quantity: they share its scale. */
  get sharing(): number {
    const key = this.quantity?.key;
    void this.opened;
    return this.run.panels.filter((panel) => panel.payload.quantities.some((q) => q.key === key)).length;
  }

  get domain(): [number, number] {
    const quantity = this.quantity;
    if (!quantity) return [-1, 1];
    if (!this.locked && this.limit !== null && this.limit > 0) {
      return quantity.scale === 'diverging' ? [-this.limit, this.limit] : [quantity.domain[0], quantity.domain[0] + this.limit];
    }
    const [low, high] = this.locked ? this.union(quantity) : quantity.domain;
    if (quantity.scale === 'diverging') return symmetric(low, high);
    return high > low ? [low, high] : [low, low + 1];
  }

  /** Every panel announced so far. */
  get panels(): PanelState[] {
    void this.opened;
    return [...this.run.panels];
  }

  private union(quantity: Quantity): [number, number] {
    const domains = this.run.panels.flatMap((panel) =>
      panel.payload.quantities.filter((q) => q.key === quantity.key && q.unit === quantity.unit).map((q) => q.domain),
    );
    return [Math.min(...domains.map((d) => d[0])), Math.max(...domains.map((d) => d[1]))];
  }

  get lut(): Lut {
    return chooseLut(this.quantity?.scale ?? 'diverging', this.theme, this.paper);
  }

  /** A new run over the heads, on what this one was run on; `null` where the columns are heads already. */
  get headsLink(): string | null {
    const { id, method } = this.run.run;
    if (method !== 'activation_patching' || this.panel?.payload.columns.name !== 'position') return null;
    return newRunLink({ from: id, method, sites: 'z', over: 'layer_head' });
  }

  get active(): Cell | null {
    return this.hover ?? this.focus;
  }

  /** The view as it is written into the address; the first panel and plane are the default and stay out. */
  get address(): FigureView {
    return {
      panel: this.panelIndex > 0 ? (this.panel?.payload.name ?? null) : this.wanted.panel,
      plane: this.plane > 0 ? (this.quantity?.key ?? null) : this.wanted.plane,
      pins: this.pins,
      zoom: this.zoomed,
      flip: this.flipped,
      paper: this.paper,
      extra: {},
    };
  }

  showPanel(index: number): void {
    if (index === this.panelIndex) return;
    // The same quantity where the other map has it too.
    const key = this.quantity?.key;
    const quantities = this.run.panels[index]?.payload.quantities ?? [];
    this.plane = Math.max(0, quantities.findIndex((quantity) => quantity.key === key));
    this.panelIndex = index;
    this.selection = null;
    this.hover = null;
  }

  togglePin(cell: Cell): void {
    const at = this.pins.findIndex((pin) => pin.row === cell.row && pin.column === cell.column);
    if (at >= 0) this.pins = this.pins.filter((_, i) => i !== at);
    else this.pins = [...this.pins.slice(this.pins.length >= MAX_PINS ? 1 : 0), cell];
  }

  zoom(): void {
    if (!this.selection) return;
    this.zoomed = this.selection;
    this.selection = null;
  }

  reset(): void {
    this.zoomed = null;
    this.selection = null;
  }

  move(rows: number, columns: number, extend: boolean): void {
    const view = this.view;
    const from = this.focus ?? { row: view.r0, column: view.c0 };
    const up = this.flip ? -1 : 1;
    const to = {
      row: Math.min(view.r1 - 1, Math.max(view.r0, from.row + rows * up)),
      column: Math.min(view.c1 - 1, Math.max(view.c0, from.column + columns)),
    };
    if (extend) {
      this.anchor ??= from;
      this.selection = spanned(this.anchor, to);
    } else this.anchor = null;
    this.focus = to;
  }

  /** Where a selection by keyboard began. */
  private anchor: Cell | null = null;
}
