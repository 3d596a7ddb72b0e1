/** Joins the feed of a run to its page: one repaint a frame, test hooks, spoken progress, and the run's actions. */
import { flushSync } from 'svelte';

import { call, problemOf } from '../core/api';
import { type Connection, RunFeed } from '../core/feed';
import { plural } from '../core/format';
import { nextFrame } from '../core/frame';
import { RunState } from '../core/run-state';
import { hub } from '../core/socket';
import type { PanelsPayload, QueuePlace, ResultInfo, RunDetail } from '../core/types';
import { FigureModel } from './figure.svelte';
import { Shown } from './shown.svelte';

declare global {
  interface Window {
    /** For tests and the curious: values and timings of the page's run. Reads only. */
    __patchbay?: {
      read: (panel: number, plane: number, row: number, column: number) => number | null | undefined;
      latencies: number[];
      /** Milliseconds the last paints took. */
      paints: number[];
    };
  }
}

const KEPT = 1000;
const QUEUE_POLL_MS = 5000;
const SMALL_MAP = 5000;
const CALM_MS = 250;

export class RunLive {
  readonly state: RunState;
  readonly model: FigureModel;
  readonly shown: Shown;
  connection = $state<Connection>('connecting');
  announcement = $state('');
  problem = $state('');
  /** The session has ended: the problem comes with a link to sign in again. */
  signIn = $state(false);
  busy = $state(false);
  queue = $state.raw<QueuePlace | null>(null);
  private readonly feed: RunFeed;
  private readonly latencies: number[] = [];
  private readonly paints: number[] = [];
  private arrivals: number[] = [];
  private spokenTenth = -1;
  private spokenStatus = '';
  private calmTimer: ReturnType<typeof setTimeout> | undefined;
  private queueTimer: ReturnType<typeof setInterval> | undefined;

  constructor(
    run: RunDetail,
    panels: PanelsPayload,
    results: ResultInfo[],
    private readonly api: string,
    socket: string,
    private readonly host: HTMLElement,
  ) {
    this.state = new RunState(run, panels);
    this.queue = run.queue;
    this.model = new FigureModel(this.state, window.location.search);
    this.shown = new Shown(window.location.search, results);
    this.shown.panels = this.state.panels.map((panel) => panel.payload);
    this.spokenStatus = run.status;
    this.feed = new RunFeed(this.state, hub(socket), api, {
      changed: () => nextFrame(this.flush),
      connection: (state) => {
        this.connection = state;
        this.mark();
      },
      received: (at) => this.arrivals.push(at),
      refused: (code, detail) => {
        this.problem = refusal(code, detail);
        this.signIn = code === 'login_required';
      },
    });
  }

  get run(): RunDetail {
    void this.model.tick;
    return this.state.run;
  }

  start(): () => void {
    window.__patchbay = {
      read: (panel, plane, row, column) => {
        const value = this.state.panels[panel]?.store.read(plane, row, column);
        return value === undefined ? null : value;
      },
      latencies: this.latencies,
      paints: this.paints,
    };
    this.mark();
    this.feed.start();
    this.feed.loadStored().catch((error: unknown) => {
      // Offline has its banner; what cannot be fetched now comes with the feed.
      const problem = problemOf(error);
      if (problem.status !== 0) this.problem = `${problem.message} ${problem.remedy}`.trim();
    });
    this.queueTimer = setInterval(() => void this.refreshQueue(), QUEUE_POLL_MS);
    return () => {
      clearInterval(this.queueTimer);
      clearTimeout(this.calmTimer);
      this.feed.stop();
    };
  }

  /** Once a frame while anything changed: settle state, let the components paint, then note how long it took. */
  private readonly flush = (): void => {
    const began = performance.now();
    const arrivals = this.arrivals;
    this.arrivals = [];
    this.model.settle();
    this.follow();
    flushSync(() => (this.model.tick += 1));
    this.calmDown();
    this.mark();
    this.speak();
    nextFrame(() => {
      const now = performance.now();
      keep(this.paints, now - began);
      for (const at of arrivals) keep(this.latencies, now - at);
    });
  };

  private announced = -1;
  private newsSeen = 0;

  /** Panels as they are announced, results once the log names one. */
  private follow(): void {
    if (this.state.announced !== this.announced) {
      this.announced = this.state.announced;
      this.shown.panels = this.state.panels.map((panel) => panel.payload);
    }
    if (this.state.resultsNews === this.newsSeen) return;
    this.newsSeen = this.state.resultsNews;
    void this.refreshResults();
  }

  private async refreshResults(): Promise<void> {
    const seen = this.newsSeen;
    try {
      const { results } = await call<{ results: ResultInfo[] }>(`${this.api}runs/${this.state.run.id}/results/`);
      if (seen === this.newsSeen) this.shown.results = results;
    } catch (error) {
      const problem = problemOf(error);
      // Asked again with the next news; offline has its banner.
      if (problem.status !== 0) this.problem = `${problem.message} ${problem.remedy}`.trim();
    }
  }

  /** Passes over all cells (legend, ranking) come with every frame of a small map, four times a second of a large one. */
  private calmDown(): void {
    const cells = this.model.panel?.store.cells ?? 0;
    if (cells <= SMALL_MAP) {
      flushSync(() => (this.model.calm += 1));
      return;
    }
    this.calmTimer ??= setTimeout(() => {
      this.calmTimer = undefined;
      this.model.calm += 1;
    }, CALM_MS);
  }

  private mark(): void {
    const { dataset } = this.host;
    dataset.state = this.state.run.status;
    dataset.seq = String(this.state.seq);
    dataset.cellsDone = String(this.state.cellsDone);
    dataset.connection = this.connection;
  }

  private speak(): void {
    const { run, counted } = this.state;
    if (run.status !== this.spokenStatus) {
      this.spokenStatus = run.status;
      const cells = `${plural(this.state.cellsDone, 'cell')} of ${this.state.cellsTotal} computed.`;
      this.announcement = `Run ${run.status}.${this.state.cellsTotal > 0 ? ` ${cells}` : ''}`;
      void this.refresh();
      return;
    }
    const { done, total, unit } = counted;
    const tenth = total > 0 ? Math.floor((done / total) * 10) : 0;
    if (run.status !== 'running' || tenth <= this.spokenTenth) return;
    this.spokenTenth = tenth;
    this.announcement = `${tenth * 10} percent: ${done} of ${total} ${unit}.`;
  }

  private async refreshQueue(): Promise<void> {
    if (this.state.run.status === 'queued' && !document.hidden) await this.refresh();
  }

  /** The parts of a run that its event log does not carry: files, provenance, what one may do, the queue. */
  private async refresh(): Promise<void> {
    try {
      const detail = await call<RunDetail>(`${this.api}runs/${this.state.run.id}/`);
      this.queue = detail.queue;
      this.state.applyRun(detail);
      nextFrame(this.flush);
    } catch (error) {
      // Offline is shown by the banner already; a refusal is worth a sentence.
      const problem = problemOf(error);
      if (problem.status !== 0) this.problem = `${problem.message} ${problem.remedy}`.trim();
    }
  }

  async act(action: 'cancel' | 'resume'): Promise<void> {
    this.busy = true;
    this.problem = '';
    try {
      const detail = await call<Partial<RunDetail>>(`${this.api}runs/${this.state.run.id}/${action}/`, { method: 'POST' });
      if (detail.id === this.state.run.id) this.state.applyRun({ ...this.state.run, ...detail });
      nextFrame(this.flush);
    } catch (error) {
      const problem = problemOf(error);
      this.problem = `${problem.message} ${problem.remedy}`.trim();
    }
    this.busy = false;
  }
}

function keep(list: number[], value: number): void {
  list.push(value);
  if (list.length > KEPT) list.splice(0, list.length - KEPT);
}

function refusal(code: string, detail: string): string {
  if (code === 'login_required') return 'Your session has ended. The run goes on meanwhile.';
  if (code === 'forbidden' || code === 'gone') return 'You can no longer see this run, or it was withdrawn.';
  return detail || `Live updates stopped (${code}).`;
}
