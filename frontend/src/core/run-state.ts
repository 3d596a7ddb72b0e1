/**
 * Everything a run page knows, built from the event log: the run, its panels with their values, logs and progress.
 * `apply*` are idempotent and drop what is already known; a gap in the sequence is reported, not papered over.
 */
import { floatsFromBase64, type Frame } from './frames';
import { TileStore } from './tiles';
import type {
  LogEvent, LogPayload, PanelPayload, PanelsPayload, ProgressPayload, RunDetail, SlimRun, Status, StatusPayload,
} from './types'; // prettier-ignore

export interface PanelState {
  payload: PanelPayload;
  store: TileStore;
}

export interface LogLine extends LogPayload {
  seq: number;
  at: string;
}

export type Applied = 'new' | 'known' | 'gap';

const LOG_LIMIT = 5000;

/** Between some sources and readers there is no edge: their cells are blank, not failed. */
function withBlank(payload: PanelPayload): PanelPayload {
  return payload.rows.name === 'source' && payload.columns.name === 'reader' ? { ...payload, blank: 'no such edge' } : payload;
}

export class RunState {
  run: RunDetail;
  panels: PanelState[] = [];
  /** Grows when a panel is announced. */
  announced = 0;
  logs: LogLine[] = [];
  progress: ProgressPayload | null = null;
  /** Grows when a result is announced, or the run ends: the list of results is then worth asking for. */
  resultsNews = 0;
  /** Highest sequence number up to which nothing is missing. */
  seq = 0;
  /** Grows with every change: tells a view whether to draw. */
  version = 0;
  /** A snapshot whose panels have not all arrived: until then its sequence number does not count as known. */
  private awaiting: { seq: number; panels: Set<number> } | null = null;

  constructor(run: RunDetail, panels: PanelsPayload) {
    this.run = run;
    for (const panel of panels.panels) this.openPanel(panel);
  }

  /** Cells computed. The server counts them too, but its count arrives at most twice a second. */
  get cellsDone(): number {
    const stored = this.panels.reduce((sum, panel) => sum + panel.store.done, 0);
    return Math.max(stored, this.terminal ? this.run.cells_done : 0);
  }

  get cellsTotal(): number {
    const opened = this.panels.reduce((sum, panel) => sum + panel.store.cells, 0);
    return Math.max(this.run.cells_total, opened);
  }

  /** What the run counts in: cells as they arrived, or the method's own steps. */
  get counted(): { done: number; total: number; unit: 'cells' | 'steps' } {
    const { progress } = this.run;
    if (progress?.unit === 'steps') return progress;
    return { done: this.cellsDone, total: this.cellsTotal, unit: 'cells' };
  }

  get terminal(): boolean {
    return this.run.status !== 'queued' && this.run.status !== 'running';
  }

  openPanel(announced: PanelPayload): void {
    const payload = withBlank(announced);
    const known = this.panels[payload.index];
    const shape = [payload.quantities.length, payload.rows.ticks.length, payload.columns.ticks.length].join();
    if (known && [known.store.planes, known.store.rows, known.store.columns].join() === shape) {
      // Announced again by a later attempt or a snapshot: the values computed so far stay.
      if (JSON.stringify(known.payload) === JSON.stringify(payload)) return;
      this.panels[payload.index] = { payload, store: known.store };
      this.announced += 1;
      this.version += 1;
      return;
    }
    const store = new TileStore(payload.quantities.length, payload.rows.ticks.length, payload.columns.ticks.length);
    this.panels[payload.index] = { payload, store };
    this.announced += 1;
    this.version += 1;
  }

  /** A text event, or a tile event of the HTTP feed, which carries its values unless a later tile replaced them. */
  applyEvent(event: LogEvent): Applied {
    if (event.seq <= this.seq) return 'known';
    if (event.seq > this.seq + 1) return 'gap';
    if (event.kind !== 'tile') this.applyText(event);
    else if (event.tile) {
      const panel = this.panels[event.tile.panel];
      if (!panel) return 'gap';
      panel.store.write({ ...event.tile, values: floatsFromBase64(event.tile.values) });
    }
    this.seq = event.seq;
    this.version += 1;
    return 'new';
  }

  /** A binary frame: a tile, or a whole panel of a snapshot. */
  applyFrame(frame: Frame): Applied {
    const panel = this.panels[frame.panel];
    if (frame.snapshot) {
      if (!panel) return 'gap';
      panel.store.merge(frame.values);
      this.arrived(frame.panel);
      this.version += 1;
      return 'new';
    }
    if (frame.seq <= this.seq) return 'known';
    if (frame.seq > this.seq + 1 || !panel) return 'gap';
    panel.store.write(frame);
    this.seq = frame.seq;
    this.version += 1;
    return 'new';
  }

  /** A snapshot leads to its sequence number once its panels' values, which follow as frames, are all here. */
  applySnapshot(seq: number, panels: PanelPayload[], events: LogEvent[]): void {
    for (const panel of panels) this.openPanel(panel);
    const known = new Set(this.logs.map((line) => line.seq));
    for (const event of events) if (event.kind === 'log' && !known.has(event.seq)) this.addLog(event);
    this.logs.sort((a, b) => a.seq - b.seq);
    this.awaiting = { seq, panels: new Set(panels.map((panel) => panel.index)) };
    this.arrived(-1);
    this.version += 1;
  }

  /** A new subscription: what an earlier one left unfinished will come again. */
  resubscribed(): void {
    this.awaiting = null;
  }

  private arrived(panel: number): void {
    if (!this.awaiting) return;
    this.awaiting.panels.delete(panel);
    if (this.awaiting.panels.size > 0) return;
    this.seq = Math.max(this.seq, this.awaiting.seq);
    this.awaiting = null;
  }

  /** The slim run replaces what it covers; the detail fields keep until they are fetched again. */
  applyRun(slim: SlimRun): void {
    if (slim.status !== this.run.status && slim.status !== 'queued') this.resultsNews += 1;
    this.run = { ...this.run, ...slim };
    this.version += 1;
  }

  private applyText(event: LogEvent): void {
    const data: unknown = event.data;
    if (event.kind === 'panel') this.openPanel(data as PanelPayload);
    else if (event.kind === 'log') this.addLog(event);
    else if (event.kind === 'progress') this.applyProgress(data as ProgressPayload);
    else if (event.kind === 'status') this.applyStatus(data as StatusPayload);
    else if (event.kind === 'result') this.resultsNews += 1;
  }

  private applyProgress(progress: ProgressPayload): void {
    this.progress = progress;
    if (this.run.status !== 'running') return;
    const { done, total, stage, unit = 'cells' } = progress;
    this.run = { ...this.run, stage, progress: { done, total, unit }, cells_total: unit === 'cells' ? total : this.run.cells_total };
  }

  private applyStatus(data: StatusPayload): void {
    const status: Status = data.status;
    this.run = {
      ...this.run,
      status,
      stage: data.stage ?? (status === 'running' ? this.run.stage : ''),
      attempt: data.attempt ?? this.run.attempt,
      failure: data.failure ?? (status === 'failed' ? this.run.failure : null),
      cancelling: status === 'running' && this.run.cancelling,
    };
    if (status !== 'running') {
      this.progress = null;
      this.resultsNews += 1;
    }
  }

  private addLog(event: LogEvent): void {
    const { level, message } = event.data as unknown as LogPayload;
    this.logs.push({ seq: event.seq, at: event.at, level, message });
    if (this.logs.length > LOG_LIMIT) this.logs.splice(0, this.logs.length - LOG_LIMIT);
  }
}
