/** A small run, its panels and events, as the server would send them. */
import type { LogEvent, PanelPayload, RunDetail } from '../src/core/types';

export function run(change: Partial<RunDetail> = {}): RunDetail {
  return {
    id: '0198f2c4-6a51-7c3e-9f10-2b7d1c9e4a55',
    title: 'Indirect object',
    method: 'activation_patching',
    status: 'running',
    stage: 'computing',
    cancelling: false,
    cells_done: 0,
    cells_total: 6,
    attempt: 1,
    owner: { id: 'u', name: 'Ada' },
    model: { slug: 'demo', title: 'Demo' },
    prompts: { id: 'p', title: 'IOI', version: 2, pairs: 50 },
    visibility: 'lab',
    tags: [],
    summary: {},
    failure: null,
    reused_from: null,
    created_at: '2026-11-23T07:00:00Z',
    started_at: null,
    finished_at: null,
    last_seq: 0,
    url: '/runs/x/',
    spec: { sites: ['resid_pre'] },
    spec_hash: 'abc',
    provenance: { engine: 'tracing 0.1' },
    cloned_from: null,
    queue: null,
    artifacts: [],
    can: { edit: true, cancel: true, resume: false },
    ...change,
  };
}

export function panel(index = 0, labels: string[] = ['When', ' Mary', ' gave']): PanelPayload {
  return {
    index,
    name: 'resid_pre',
    title: 'Residual stream',
    rows: { name: 'layer', title: 'Layer', ticks: [0, 1].map((i) => ({ label: String(i), corrupted: null, differs: false, varies: false })) },
    columns: {
      name: 'position',
      title: 'Position',
      ticks: labels.map((label, i) => ({ label, corrupted: i === 1 ? ' John' : null, differs: i === 1, varies: false })),
    },
    quantities: [{ key: 'recovery', title: 'Recovery', unit: '', scale: 'diverging', domain: [-1, 1], anchors: { '0': 'corrupted run', '1': 'clean run' } }],
    facts: {},
  }; // prettier-ignore
}

export function event(seq: number, kind: string, data: unknown): LogEvent {
  return { seq, kind, at: '2026-11-23T07:00:01Z', data: data as Record<string, unknown> };
}

export function base64(values: number[]): string {
  return btoa(String.fromCharCode(...new Uint8Array(Float32Array.from(values).buffer)));
}
