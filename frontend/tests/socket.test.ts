import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { backoff, CAP_MS } from '../src/core/backoff';
import { encodeFrame } from '../src/core/frames';
import { ACK_MS, DEAD_MS, PING_MS, PROBE_MS, type ServerMessage, SocketHub, type TopicListener } from '../src/core/socket';

/** The browser's end of a line whose other end is the test. */
class Line {
  static all: Line[] = [];
  readyState = 0;
  binaryType = '';
  sent: Record<string, unknown>[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string | ArrayBuffer }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;

  constructor() {
    Line.all.push(this);
  }
  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }
  say(message: Partial<ServerMessage> & { type: string; [key: string]: unknown }): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>);
  }
  close(): void {
    this.readyState = 3;
  }
  drop(code: number): void {
    this.readyState = 3;
    this.onclose?.({ code });
  }
}

class Listener implements TopicListener {
  known = 0;
  seen: string[] = [];
  ups: [boolean, number][] = [];
  refusals: string[] = [];
  since = (): number => this.known;
  message = (message: ServerMessage): void => void this.seen.push(message.type);
  frame = ({ seq }: { seq: number }): void => void this.seen.push(`frame ${seq}`);
  connection = (up: boolean, tries: number): void => void this.ups.push([up, tries]);
  refused = (code: string): void => void this.refusals.push(code);
}

const newest = (): Line => Line.all.at(-1)!;
const hub = (): SocketHub => new SocketHub('ws://x/ws/', () => new Line() as unknown as WebSocket);
const tileFrame = (handle: number, seq: number): ArrayBuffer =>
  encodeFrame({ handle, seq, panel: 0, planes: 1, r0: 0, c0: 0, nr: 1, nc: 1, snapshot: false, values: Float32Array.of(1) });

beforeEach(() => {
  Line.all = [];
  vi.useFakeTimers();
});
afterEach(() => vi.useRealTimers());

describe('the tab’s socket', () => {
  it('is one for all topics', () => {
    const tab = hub();
    tab.subscribe('run:a', new Listener());
    tab.subscribe('queue', new Listener());
    newest().open();
    expect(Line.all).toHaveLength(1);
    expect(newest().sent.map((m) => m.topic)).toEqual(['run:a', 'queue']);
  });

  it('delivers by handle, text and binary', () => {
    const tab = hub();
    const [a, b] = [new Listener(), new Listener()];
    tab.subscribe('run:a', a);
    tab.subscribe('run:b', b);
    newest().open();
    newest().say({ type: 'subscribed', topic: 'run:b', handle: 9, seq: 0, mode: 'replay' });
    newest().onmessage?.({ data: tileFrame(9, 4) });
    newest().onmessage?.({ data: tileFrame(5, 4) });
    expect(b.seen).toEqual(['subscribed', 'frame 4']);
    expect(a.seen).toEqual([]);
  });

  it('acknowledges the highest number at most every 100 ms', () => {
    const tab = hub();
    tab.subscribe('run:a', new Listener());
    newest().open();
    newest().say({ type: 'subscribed', topic: 'run:a', handle: 1, seq: 0, mode: 'replay' });
    for (let seq = 1; seq <= 50; seq += 1) newest().onmessage?.({ data: tileFrame(1, seq) });
    vi.advanceTimersByTime(ACK_MS);
    const acks = newest().sent.filter((m) => m.type === 'ack');
    expect(acks).toEqual([{ type: 'ack', handle: 1, seq: 50 }]);
  });

  it('subscribes again from what is known after the line was lost', () => {
    vi.spyOn(Math, 'random').mockReturnValue(0.5);
    const tab = hub();
    const listener = new Listener();
    tab.subscribe('run:a', listener);
    newest().open();
    listener.known = 17;
    newest().drop(1006);
    expect(listener.ups.at(-1)).toEqual([false, 1]);
    vi.advanceTimersByTime(CAP_MS);
    newest().open();
    expect(Line.all).toHaveLength(2);
    expect(newest().sent[0]).toEqual({ type: 'subscribe', topic: 'run:a', since: 17 });
    vi.restoreAllMocks();
  });

  it('counts failed tries until one succeeds', () => {
    const tab = hub();
    const listener = new Listener();
    tab.subscribe('run:a', listener);
    for (let i = 0; i < 3; i += 1) {
      newest().drop(1006);
      vi.advanceTimersByTime(CAP_MS);
    }
    expect(listener.ups.map(([, tries]) => tries)).toEqual([1, 2, 3]);
    newest().open();
    expect(listener.ups.at(-1)).toEqual([true, 0]);
  });

  it('takes a silent line for dead, and a quiet one that answers pings for alive', () => {
    const tab = hub();
    const listener = new Listener();
    tab.subscribe('run:a', listener);
    newest().open();
    for (let passed = 0; passed < 5 * DEAD_MS; passed += PING_MS) {
      vi.advanceTimersByTime(PING_MS);
      newest().say({ type: 'pong' });
    }
    expect(listener.ups.filter(([up]) => !up)).toHaveLength(0);
    vi.advanceTimersByTime(DEAD_MS + PING_MS);
    expect(listener.ups.at(-1)?.[0]).toBe(false);
  });

  it('asks at once whether the line lives when the network changes, and drops one that is silent', () => {
    const tab = hub();
    const listener = new Listener();
    tab.subscribe('run:a', listener);
    newest().open();
    vi.advanceTimersByTime(10);
    tab.nudge();
    vi.advanceTimersByTime(1);
    newest().say({ type: 'pong' });
    vi.advanceTimersByTime(PROBE_MS);
    expect(listener.ups.at(-1)?.[0]).toBe(true);
    tab.nudge();
    vi.advanceTimersByTime(PROBE_MS);
    expect(listener.ups.at(-1)).toEqual([false, 1]);
  });

  it('does not knock again at a door that is closed for good', () => {
    const tab = hub();
    const listener = new Listener();
    tab.subscribe('run:a', listener);
    newest().open();
    newest().drop(4401);
    vi.advanceTimersByTime(10 * CAP_MS);
    expect(listener.refusals).toEqual(['login_required']);
    expect(Line.all).toHaveLength(1);
  });

  it('ends what arrives for an old handle when a topic is asked for again', () => {
    const tab = hub();
    const listener = new Listener();
    tab.subscribe('run:a', listener);
    newest().open();
    newest().say({ type: 'subscribed', topic: 'run:a', handle: 1, seq: 0, mode: 'replay' });
    tab.resubscribe('run:a');
    newest().onmessage?.({ data: tileFrame(1, 5) });
    expect(listener.seen).toEqual(['subscribed']);
    expect(newest().sent.slice(-2).map((m) => m.type)).toEqual(['unsubscribe', 'subscribe']);
  });
});

describe('the backoff', () => {
  it('grows, is capped, and is spread over its whole range', () => {
    expect(backoff(0, () => 1)).toBe(500);
    expect(backoff(3, () => 1)).toBe(4000);
    expect(backoff(99, () => 1)).toBe(CAP_MS);
    expect(backoff(5, () => 0)).toBe(0);
  });
});
