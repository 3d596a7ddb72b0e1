import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { type Connection, OFFLINE_AFTER_MS, RunFeed } from '../src/core/feed';
import { RunState } from '../src/core/run-state';
import type { SocketHub, TopicListener } from '../src/core/socket';
import { base64, event, panel, run } from './recorded';

/** A hub under the test's control. */
class Hub {
  listener: TopicListener | null = null;
  resubscribed: string[] = [];
  subscribe(_topic: string, listener: TopicListener): () => void {
    this.listener = listener;
    return () => undefined;
  }
  resubscribe(topic: string): void {
    this.resubscribed.push(topic);
  }
}

function setup() {
  const state = new RunState(run(), { seq: 0, panels: [panel()] });
  const hub = new Hub();
  const states: Connection[] = [];
  const refused: string[] = [];
  const view = { changed: vi.fn(), received: vi.fn(), connection: (s: Connection) => states.push(s), refused: (code: string) => refused.push(code) };
  const feed = new RunFeed(state, hub as unknown as SocketHub, '/api/v1/', view);
  feed.start();
  return { state, hub, states, refused, feed, view };
} // prettier-ignore

const subscribed = { type: 'subscribed', topic: 'run:x', handle: 1, seq: 0, mode: 'replay' } as const;
let answers: (() => Promise<Response>)[] = [];
const asked: string[] = [];

beforeEach(() => {
  vi.useFakeTimers();
  answers = [];
  asked.length = 0;
  vi.stubGlobal('document', { cookie: '', querySelector: () => null });
  vi.stubGlobal('fetch', (url: string) => {
    asked.push(url);
    return answers.shift()?.() ?? new Promise(() => undefined);
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('the feed of a run', () => {
  it('is live once it is subscribed, without a word about a short wait', () => {
    const { hub, states } = setup();
    vi.advanceTimersByTime(OFFLINE_AFTER_MS - 100);
    hub.listener?.message(subscribed);
    vi.advanceTimersByTime(OFFLINE_AFTER_MS);
    expect(states).toEqual(['live']);
  });

  it('says that it is offline after three seconds without a line', () => {
    const { hub, states } = setup();
    hub.listener?.message(subscribed);
    hub.listener?.connection(false, 1);
    vi.advanceTimersByTime(OFFLINE_AFTER_MS + 1);
    expect(states).toEqual(['live', 'offline']);
    hub.listener?.message(subscribed);
    expect(states.at(-1)).toBe('live');
  });

  it('asks for the topic again after a gap, once however many events are behind it', () => {
    const { hub } = setup();
    hub.listener?.message(subscribed);
    for (const seq of [5, 6, 7]) hub.listener?.message({ ...event(seq, 'log', { level: 'info', message: 'x' }), type: 'event', handle: 1 });
    vi.advanceTimersByTime(1000);
    expect(hub.resubscribed).toHaveLength(1);
  });

  it('polls the event log after three failed tries, says so, and goes on from where it was', async () => {
    const { hub, states, state } = setup();
    const tile = { panel: 0, r0: 0, c0: 0, nr: 1, nc: 3, planes: 1, values: base64([1, 2, 3]) };
    const page = { run: run({ last_seq: 1 }), events: [{ ...event(1, 'tile', {}), tile }], last_seq: 1 };
    answers.push(() => Promise.resolve(Response.json(page)));
    hub.listener?.connection(false, 2);
    expect(asked).toHaveLength(0);
    hub.listener?.connection(false, 3);
    await vi.advanceTimersByTimeAsync(10);
    expect(states).toEqual(['polling']);
    expect(state.cellsDone).toBe(3);
    expect(asked[0]).toContain('events/?after=0&wait=20');
    expect(asked[1]).toContain('after=1');
  });

  it('stops polling as soon as the line is back', async () => {
    const { hub, states } = setup();
    hub.listener?.connection(false, 3);
    await vi.advanceTimersByTimeAsync(1);
    hub.listener?.message(subscribed);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(asked).toHaveLength(1);
    expect(states.at(-1)).toBe('live');
  });

  it('passes a refusal on instead of trying for ever', () => {
    const { hub, refused, states } = setup();
    hub.listener?.refused('gone', '');
    expect(refused).toEqual(['gone']);
    expect(states.at(-1)).toBe('offline');
  });

  it('draws stored values from the panels’ files', async () => {
    const { feed, state } = setup();
    answers.push(() => Promise.resolve(new Response(Float32Array.from([1, 2, 3, 4, 5, 6]).buffer)));
    await feed.loadStored();
    expect(state.cellsDone).toBe(6);
    expect(asked[0]).toContain('/panels/0.bin');
  });
});
