/**
 * Keeps a `RunState` current: over the socket, and by long polling the same event log where no socket comes up.
 * A gap in the sequence asks for the topic again from the last known event, so nothing is ever skipped.
 */
import { call, callBytes } from './api';
import { floats, type Frame } from './frames';
import type { RunState } from './run-state';
import type { ServerMessage, SocketHub, TopicListener } from './socket';
import type { EventPage } from './types';

/** `connecting` only until the first answer. */
export type Connection = 'connecting' | 'live' | 'polling' | 'offline';

export interface FeedView {
  /** Something changed; called as often as messages arrive, so only mark as dirty. */
  changed(): void;
  connection(state: Connection): void;
  /** Values of a panel arrived at this time (ms, `performance.now()`). */
  received(at: number): void;
  refused(code: string, detail: string): void;
}

export const OFFLINE_AFTER_MS = 3000;
export const TRIES_BEFORE_POLLING = 3;
const POLL_WAIT_SECONDS = 20;
const POLL_PAUSE_MS = 5000;
const RESUBSCRIBE_MS = 250;

export class RunFeed implements TopicListener {
  private state: Connection = 'connecting';
  private bannerTimer: ReturnType<typeof setTimeout> | undefined;
  private pollTimer: ReturnType<typeof setTimeout> | undefined;
  private gapTimer: ReturnType<typeof setTimeout> | undefined;
  private polling: AbortController | null = null;
  private leave: (() => void) | null = null;
  private subscribed = false;

  constructor(
    private readonly run: RunState,
    private readonly hub: SocketHub,
    private readonly api: string,
    private readonly view: FeedView,
  ) {}

  private get topic(): string {
    return `run:${this.run.run.id}`;
  }

  start(): void {
    this.expectLine();
    this.leave = this.hub.subscribe(this.topic, this);
  }

  stop(): void {
    this.leave?.();
    this.stopPolling();
    clearTimeout(this.bannerTimer);
    clearTimeout(this.gapTimer);
  }

  /** Values stored so far, as files: the fastest first paint, and all there is for a reused run. */
  async loadStored(): Promise<void> {
    const base = `${this.api}runs/${this.run.run.id}/panels/`;
    await Promise.all(
      this.run.panels.map(async ({ payload, store }) => {
        const { bytes } = await callBytes(`${base}${payload.index}.bin`);
        store.merge(floats(bytes, 0, bytes.byteLength >> 2));
        this.run.version += 1;
        this.view.received(performance.now());
        this.view.changed();
      }),
    );
  }

  // -- the socket's side ---------------------------------------------------------------------------------------------

  since(): number {
    return this.run.seq;
  }

  connection(up: boolean, tries: number): void {
    this.subscribed = false;
    if (up) return;
    this.expectLine();
    if (tries >= TRIES_BEFORE_POLLING) this.startPolling();
  }

  message(message: ServerMessage): void {
    if (message.type === 'subscribed') {
      this.run.resubscribed();
      this.lineUp();
    }
    else if (message.type === 'event') this.checked(this.run.applyEvent(message));
    else if (message.type === 'run') this.run.applyRun(message.run);
    else if (message.type === 'snapshot') this.run.applySnapshot(message.seq, message.panels, message.events);
    else if (message.type === 'error') this.view.refused(message.code, message.detail);
    this.view.changed();
  }

  frame(frame: Frame): void {
    const at = performance.now();
    const applied = this.run.applyFrame(frame);
    this.checked(applied);
    if (applied !== 'new') return;
    this.view.received(at);
    this.view.changed();
  }

  refused(code: string, detail: string): void {
    clearTimeout(this.bannerTimer);
    this.stopPolling();
    this.to('offline');
    this.view.refused(code, detail);
  }

  private checked(applied: 'new' | 'known' | 'gap'): void {
    if (applied !== 'gap' || this.gapTimer !== undefined) return;
    this.gapTimer = setTimeout(() => {
      this.gapTimer = undefined;
      this.hub.resubscribe(this.topic);
    }, RESUBSCRIBE_MS);
  }

  private lineUp(): void {
    this.subscribed = true;
    clearTimeout(this.bannerTimer);
    this.bannerTimer = undefined;
    this.stopPolling();
    this.to('live');
  }

  /** Say so if the line is not up soon; a blink of the network is not worth a banner. */
  private expectLine(): void {
    if (this.bannerTimer !== undefined || this.state === 'polling' || this.state === 'offline') return;
    this.bannerTimer = setTimeout(() => {
      this.bannerTimer = undefined;
      if (!this.subscribed && this.state !== 'polling') this.to('offline');
    }, OFFLINE_AFTER_MS);
  }

  private to(state: Connection): void {
    if (this.state === state) return;
    this.state = state;
    this.view.connection(state);
  }

  // -- long polling, while the socket keeps trying -------------------------------------------------------------------

  private startPolling(): void {
    if (this.polling) return;
    this.polling = new AbortController();
    void this.poll(this.polling);
  }

  private stopPolling(): void {
    this.polling?.abort();
    this.polling = null;
    clearTimeout(this.pollTimer);
  }

  private async poll(control: AbortController): Promise<void> {
    let pause = 0;
    try {
      const wait = this.run.terminal ? 0 : POLL_WAIT_SECONDS;
      const url = `${this.api}runs/${this.run.run.id}/events/?after=${this.run.seq}&wait=${wait}`;
      const page = await call<EventPage>(url, { signal: control.signal });
      const at = performance.now();
      for (const event of page.events) {
        if (this.run.applyEvent(event) === 'new' && event.kind === 'tile') this.view.received(at);
      }
      this.run.applyRun(page.run);
      this.to('polling');
      this.view.changed();
      if (page.events.length === 0 && this.run.terminal) pause = POLL_PAUSE_MS;
    } catch {
      if (control.signal.aborted) return;
      this.to('offline');
      pause = POLL_PAUSE_MS;
    }
    if (this.polling === control) this.pollTimer = setTimeout(() => void this.poll(control), pause);
  }
}
