/**
 * One socket a tab, shared by every island on the page. It keeps the topics subscribed across reconnects, tells a dead
 * line from a quiet one (ping every 20 s, dead after 45 s without a word), and acknowledges at most every 100 ms.
 * What a topic's messages mean is its listener's business; this file knows only handles and sequence numbers.
 */
import { backoff } from './backoff';
import { decodeFrame, type Frame } from './frames';
import type { LogEvent, PanelPayload, SlimRun } from './types';

export type ServerMessage =
  | { type: 'hello'; v: number }
  | { type: 'subscribed'; topic: string; handle: number; seq: number; mode: 'replay' | 'snapshot' }
  | ({ type: 'event'; handle: number } & LogEvent)
  | { type: 'run'; handle: number; seq: number; run: SlimRun }
  | { type: 'snapshot'; handle: number; seq: number; panels: PanelPayload[]; events: LogEvent[] }
  | { type: 'pong' }
  | { type: 'error'; code: string; detail: string };

export interface TopicListener {
  /** The sequence number everything up to which is known: where a new subscription starts. */
  since(): number;
  message(message: ServerMessage): void;
  frame(frame: Frame): void;
  /** The line went up or down; `tries` counts failed connections since it last was up. */
  connection(up: boolean, tries: number): void;
  /** The server will not serve this topic (closed for good). */
  refused(code: string, detail: string): void;
}

export const PING_MS = 20_000;
export const DEAD_MS = 45_000;
export const ACK_MS = 100;
export const PROBE_MS = 2000;
/** Close codes after which trying again is pointless: sign in, forbidden, gone. */
const FINAL_CODES = new Map([
  [4401, 'login_required'],
  [4403, 'forbidden'],
  [4404, 'gone'],
]);

interface Subscription {
  listener: TopicListener;
  handle: number | null;
  acked: number;
  pending: number;
}

export class SocketHub {
  private socket: WebSocket | null = null;
  private readonly topics = new Map<string, Subscription>();
  private readonly handles = new Map<number, Subscription>();
  private tries = 0;
  private heard = 0;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private pulse: ReturnType<typeof setInterval> | undefined;
  private ackTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly make: (url: string) => WebSocket = (address) => new WebSocket(address),
  ) {}

  subscribe(topic: string, listener: TopicListener): () => void {
    const subscription: Subscription = { listener, handle: null, acked: 0, pending: 0 };
    this.topics.set(topic, subscription);
    if (this.isOpen()) this.ask(topic, subscription);
    else this.connect();
    return () => this.drop(topic, subscription);
  }

  /** Ask for a topic again from what its listener knows: after a gap in the sequence. */
  resubscribe(topic: string): void {
    const subscription = this.topics.get(topic);
    if (!subscription || !this.isOpen()) return;
    this.forget(subscription);
    this.ask(topic, subscription);
  }

  /** Something happened to the machine's network, or the tab is looked at again: try now, or see if the line lives. */
  nudge(): void {
    if (this.socket === null && this.topics.size > 0) this.connect();
    else this.probe();
  }

  /** A line that was cut without a word looks open for minutes: ask, and drop it where nothing comes back. */
  private probe(): void {
    const socket = this.socket;
    if (!this.isOpen()) return;
    const asked = Date.now();
    this.send({ type: 'ping' });
    setTimeout(() => {
      if (socket === this.socket && this.heard < asked) this.lost(socket);
    }, PROBE_MS);
  }

  private isOpen(): boolean {
    return this.socket?.readyState === 1;
  }

  private connect(): void {
    clearTimeout(this.retry);
    if (this.socket) return;
    const socket = this.make(this.url);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.heard = Date.now();
    socket.onopen = () => this.opened(socket);
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => this.received(event.data);
    socket.onclose = (event: CloseEvent) => this.closed(socket, event.code);
    this.startPulse();
  }

  private opened(socket: WebSocket): void {
    if (socket !== this.socket) return;
    this.heard = Date.now();
    this.tries = 0;
    for (const [topic, subscription] of this.topics) {
      subscription.listener.connection(true, 0);
      this.ask(topic, subscription);
    }
  }

  private ask(topic: string, subscription: Subscription): void {
    this.send({ type: 'subscribe', topic, since: subscription.listener.since() });
  }

  private drop(topic: string, subscription: Subscription): void {
    this.forget(subscription);
    if (this.topics.get(topic) === subscription) this.topics.delete(topic);
    if (this.topics.size === 0) this.close();
  }

  private forget(subscription: Subscription): void {
    if (subscription.handle === null) return;
    this.handles.delete(subscription.handle);
    this.send({ type: 'unsubscribe', handle: subscription.handle });
    subscription.handle = null;
  }

  private close(): void {
    clearTimeout(this.retry);
    clearInterval(this.pulse);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  private received(data: string | ArrayBuffer): void {
    this.heard = Date.now();
    if (typeof data !== 'string') {
      const frame = decodeFrame(data);
      this.deliver(frame.handle, frame.seq, (listener) => listener.frame(frame));
      return;
    }
    const message = JSON.parse(data) as ServerMessage;
    if (message.type === 'subscribed') this.subscribed(message);
    else if (message.type === 'error') for (const s of this.topics.values()) s.listener.message(message);
    else if ('handle' in message) this.deliver(message.handle, message.seq, (listener) => listener.message(message));
  }

  private subscribed(message: Extract<ServerMessage, { type: 'subscribed' }>): void {
    const subscription = this.topics.get(message.topic);
    if (!subscription) {
      this.send({ type: 'unsubscribe', handle: message.handle });
      return;
    }
    subscription.handle = message.handle;
    subscription.acked = 0;
    subscription.pending = 0;
    this.handles.set(message.handle, subscription);
    subscription.listener.message(message);
  }

  private deliver(handle: number, seq: number, call: (listener: TopicListener) => void): void {
    const subscription = this.handles.get(handle);
    if (!subscription) return;
    call(subscription.listener);
    subscription.pending = Math.max(subscription.pending, seq);
    this.ackTimer ??= setTimeout(() => this.acknowledge(), ACK_MS);
  }

  private acknowledge(): void {
    this.ackTimer = undefined;
    for (const [handle, subscription] of this.handles) {
      if (subscription.pending <= subscription.acked) continue;
      subscription.acked = subscription.pending;
      this.send({ type: 'ack', handle, seq: subscription.pending });
    }
  }

  private send(message: Record<string, unknown>): void {
    if (this.isOpen()) this.socket?.send(JSON.stringify(message));
  }

  private startPulse(): void {
    clearInterval(this.pulse);
    this.pulse = setInterval(() => {
      if (Date.now() - this.heard > DEAD_MS) this.lost(this.socket);
      else this.send({ type: 'ping' });
    }, PING_MS);
  }

  private closed(socket: WebSocket, code: number): void {
    if (socket !== this.socket) return;
    const reason = FINAL_CODES.get(code);
    if (reason === undefined) {
      this.lost(socket);
      return;
    }
    this.detach();
    for (const s of this.topics.values()) s.listener.refused(reason, `The server closed the line (${code}).`);
  }

  private lost(socket: WebSocket | null): void {
    if (socket === null || socket !== this.socket) return;
    this.detach();
    socket.close();
    this.tries += 1;
    for (const s of this.topics.values()) s.listener.connection(false, this.tries);
    this.retry = setTimeout(() => this.connect(), backoff(this.tries));
  }

  private detach(): void {
    clearInterval(this.pulse);
    this.socket = null;
    this.handles.clear();
    for (const s of this.topics.values()) s.handle = null;
  }
}

let shared: SocketHub | null = null;

/** The tab's hub; the first caller's path wins. */
export function hub(path: string): SocketHub {
  if (shared) return shared;
  const url = new URL(path, window.location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const made = new SocketHub(url.href);
  window.addEventListener('online', () => made.nudge());
  window.addEventListener('offline', () => made.nudge());
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) made.nudge();
  });
  shared = made;
  return made;
}
