import { describe, expect, it } from 'vitest';

import type { Frame } from '../src/core/frames';
import { RunState } from '../src/core/run-state';
import { UNKNOWN_BITS } from '../src/core/tiles';
import { base64, event, panel, run } from './recorded';

const frame = (seq: number, row: number, change: Partial<Frame> = {}): Frame => ({
  handle: 1, seq, panel: 0, planes: 1, r0: row, c0: 0, nr: 1, nc: 3, snapshot: false, values: Float32Array.of(0.1, 0.2, 0.3), ...change,
}); // prettier-ignore

const opened = (): RunState => new RunState(run(), { seq: 0, panels: [panel()] });

describe('the state of a run', () => {
  it('takes each event once and in order', () => {
    const state = opened();
    expect(state.applyEvent(event(1, 'log', { level: 'info', message: 'a' }))).toBe('new');
    expect(state.applyEvent(event(1, 'log', { level: 'info', message: 'a' }))).toBe('known');
    expect(state.applyFrame(frame(2, 0))).toBe('new');
    expect(state.logs).toHaveLength(1);
    expect(state.seq).toBe(2);
  });

  it('reports a gap and keeps its place, so that nothing is skipped', () => {
    const state = opened();
    expect(state.applyFrame(frame(3, 0))).toBe('gap');
    expect(state.seq).toBe(0);
    expect(state.cellsDone).toBe(0);
  });

  it('fills a panel from its announcement on, over HTTP as over the socket', () => {
    const state = new RunState(run(), { seq: 0, panels: [] });
    state.applyEvent(event(1, 'panel', panel()));
    const tile = { panel: 0, r0: 1, c0: 0, nr: 1, nc: 3, planes: 1, values: base64([1, 2, 3]) };
    state.applyEvent({ ...event(2, 'tile', {}), tile });
    expect(state.panels[0]?.store.read(0, 1, 2)).toBe(3);
    expect(state.cellsDone).toBe(3);
  });

  it('passes over a tile that a later one replaced', () => {
    const state = opened();
    expect(state.applyEvent(event(1, 'tile', {}))).toBe('new');
    expect(state.seq).toBe(1);
  });

  it('does not count a snapshot as known before all of its values are here', () => {
    const state = opened();
    state.applySnapshot(40, [panel()], [event(38, 'log', { level: 'info', message: 'late' })]);
    expect(state.seq).toBe(0);
    const values = new Float32Array(6);
    new Uint32Array(values.buffer).fill(UNKNOWN_BITS);
    values[4] = 0.5;
    state.applyFrame(frame(40, 0, { snapshot: true, nr: 2, values }));
    expect(state.seq).toBe(40);
    expect(state.cellsDone).toBe(1);
    expect(state.logs[0]?.message).toBe('late');
    expect(state.applyFrame(frame(41, 0))).toBe('new');
  });

  it('forgets an unfinished snapshot when it subscribes anew', () => {
    const state = opened();
    state.applySnapshot(40, [panel()], []);
    state.resubscribed();
    expect(state.seq).toBe(0);
  });

  it('keeps the values when a later attempt announces the same panel again', () => {
    const state = opened();
    state.applyFrame(frame(1, 0));
    state.applyEvent(event(2, 'panel', panel()));
    expect(state.cellsDone).toBe(3);
  });

  it('shows a failure the moment it is logged', () => {
    const state = opened();
    const failure = { code: 'out_of_memory', text: 'Full.', detail: {} };
    state.applyEvent(event(1, 'status', { status: 'failed', stage: '', attempt: 1, failure }));
    expect(state.run.status).toBe('failed');
    expect(state.run.failure?.code).toBe('out_of_memory');
    expect(state.terminal).toBe(true);
  });

  it('clears an old failure when the run is queued again', () => {
    const state = new RunState(run({ status: 'failed', failure: { code: 'x', text: 'y', detail: {} } }), { seq: 0, panels: [] });
    state.applyEvent(event(1, 'status', { status: 'queued', stage: '', attempt: 1 }));
    expect(state.run.failure).toBeNull();
  });
});
