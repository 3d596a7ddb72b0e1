/**
 * For the harness only: a WebSocket and a fetch that replay a recorded run, frame for frame in the server's own bytes,
 * so that the page can be looked at without a server. Recordings are generated from a seed.
 */
import { encodeFrame } from '../src/core/frames';
import type { PanelPayload, RunDetail, Status, Tick } from '../src/core/types';

export interface Recording {
  run: RunDetail;
  panels: PanelPayload[];
  values: Float32Array[];
  /** Cells already there when the page opens, and cells a second after that. */
  start: number;
  rate: number;
}

function noise(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) | 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const IOI = ['<|endoftext|>', 'When', ' Mary', ' and', ' John', ' went', ' to', ' the', ' store', ',', ' John', ' gave', ' a', ' drink', ' to'];

function ticks(n: number, position: boolean): Tick[] {
  return Array.from({ length: n }, (_, i) => {
    const label = position ? (IOI[i % IOI.length] ?? '') : String(i);
    const differs = position && i % IOI.length === 10;
    return { label, corrupted: differs ? ' Mary' : null, differs, varies: position && i % IOI.length === 8 };
  });
}

function panel(index: number, name: string, rows: number, columns: number, scale: 'diverging' | 'sequential'): PanelPayload {
  const heads = name === 'z';
  return {
    index,
    name,
    title: heads ? 'Attention heads (z), denoising' : `Residual stream ${name}, denoising`,
    rows: { name: 'layer', title: 'Layer', ticks: ticks(rows, false) },
    columns: heads
      ? { name: 'head', title: 'Head', ticks: ticks(columns, false) }
      : { name: 'position', title: 'Token position', ticks: ticks(columns, true) },
    quantities:
      scale === 'sequential'
        ? [{ key: 'kl', title: 'KL divergence', unit: 'nats', scale, domain: [0, 4], anchors: { '0': 'same as clean' } }]
        : [
            { key: 'recovery', title: 'Recovery', unit: '', scale, domain: [-1, 1], anchors: { '0': 'corrupted run', '1': 'clean run' } },
            { key: 'raw', title: 'Logit difference', unit: 'logits', scale, domain: [-4.2, 4.2], anchors: {} },
          ],
    facts: { direction: 'denoising', metric: 'logit_diff', clean: 3.142, corrupted: -2.871, pairs: 50 },
  };
}

function valuesOf(p: PanelPayload, seed: number): Float32Array {
  const nr = p.rows.ticks.length;
  const nc = p.columns.ticks.length;
  const random = noise(seed);
  const planes = p.quantities.length;
  const values = new Float32Array(planes * nr * nc);
  for (let r = 0; r < nr; r += 1) {
    for (let c = 0; c < nc; c += 1) {
      const depth = r / Math.max(1, nr - 1);
      const subject = Math.exp(-(((c % 15) - 10) ** 2) / 0.4) / (1 + Math.exp((depth - 0.55) * 14));
      const last = Math.exp(-(((c % 15) - 14) ** 2) / 0.4) / (1 + Math.exp(-(depth - 0.6) * 14));
      let v = p.name === 'z' ? (random() < 0.06 ? (random() - 0.3) * 1.4 : (random() - 0.5) * 0.08) : subject + last + (random() - 0.5) * 0.06;
      if (p.name !== 'z' && c % 15 === 4) v -= 0.35 * depth;
      if (random() < 0.004) v = Number.NaN;
      values[r * nc + c] = planes === 1 ? Math.abs(v) * 4 : v;
      if (planes > 1) values[nr * nc + r * nc + c] = v * 6.013 - 2.871;
    }
  }
  if (p.name === 'z') values[Math.floor(nr / 2) * nc + 3] = 1.18;
  return values;
}

export function record(name: string): Recording {
  const sizes: Record<string, [number, number]> = { big: [80, 2000], wide: [12, 60] };
  const [nr, nc] = sizes[name] ?? [12, 15];
  const scale = name === 'sequential' ? 'sequential' : 'diverging';
  const panels = name === 'queued' || name === 'loading' ? [] : [panel(0, 'resid_pre', nr, nc, scale), panel(1, 'attn_out', nr, nc, scale), panel(2, 'z', nr, 12, scale)];
  const cells = panels.reduce((sum, p) => sum + p.rows.ticks.length * p.columns.ticks.length, 0) || 504;
  const status: Record<string, Status> = { queued: 'queued', failed: 'failed', cancelled: 'cancelled', done: 'succeeded', sequential: 'succeeded', big: 'succeeded', wide: 'succeeded' };
  const part: Record<string, number> = { failed: 143, cancelled: 143, running: 100 };
  const start = part[name] ?? (status[name] ? cells : 0);
  const state = status[name] ?? 'running';
  return {
    panels,
    values: panels.map((p, i) => valuesOf(p, i + 7)),
    start,
    rate: state === 'running' && name !== 'loading' ? 60 : 0,
    run: {
      id: '0198f2c4-6a51-7c3e-9f10-2b7d1c9e4a55', title: 'First experiment: indirect object', method: 'activation_patching',
      status: state, stage: name === 'loading' ? 'loading' : 'computing', cancelling: false, cells_done: start, cells_total: cells, attempt: 1,
      owner: { id: 'u1', name: 'Local' }, model: { slug: 'demo', title: 'Demo transformer' },
      prompts: { id: 'p1', title: 'Indirect object', version: 1, pairs: 50 }, visibility: 'lab', tags: ['demo'], summary: {},
      failure: name === 'failed' ? { code: 'out_of_memory', text: 'The GPU ran out of memory at cell 143 with 64 rows a batch.', detail: { batch_rows: 64 } } : null,
      reused_from: null, created_at: '2026-11-23T07:00:00Z', started_at: '2026-11-23T07:00:04Z',
      finished_at: state === 'running' || state === 'queued' ? null : '2026-11-23T07:00:52Z', last_seq: 1, url: '/runs/x/',
      spec: { sites: ['resid_pre', 'attn_out', 'z'], over: 'layer_position', direction: 'denoising', metric: 'logit_diff', seed: 0 },
      spec_hash: 'b54c8e0f31a7', provenance: { engine: 'tracing 0.1', torch: '2.13.0', device: 'cpu' }, cloned_from: null,
      queue: state === 'queued' ? { position: 2, reason: 'Worker gpu-0 is busy with “Greater-than” until about 14:02 UTC.', eta_seconds: 95 } : null,
      artifacts: [{ name: 'resid_pre.safetensors', sha256: 'aa', size: 18344, media_type: 'application/octet-stream', url: '#' }],
      can: { edit: true, cancel: state === 'running' || state === 'queued', resume: state === 'cancelled' || state === 'failed' },
    },
  }; // prettier-ignore
}

/** The socket's side: one tile a row segment, at the recording's rate. */
export function install(recording: Recording, online: boolean): void {
  class Replay extends EventTarget {
    binaryType = 'arraybuffer';
    readyState = 0;
    onopen: (() => void) | null = null;
    onmessage: ((event: { data: string | ArrayBuffer }) => void) | null = null;
    onclose: ((event: { code: number }) => void) | null = null;

    constructor() {
      super();
      setTimeout(() => {
        if (!online) {
          this.onclose?.({ code: 1006 });
          return;
        }
        this.readyState = 1;
        this.onopen?.();
      }, 20);
    }

    send(text: string): void {
      const message = JSON.parse(text) as { type: string; topic: string };
      if (message.type === 'subscribe') this.play(message.topic);
    }

    close(): void {
      this.readyState = 3;
    }

    private say(message: unknown): void {
      this.onmessage?.({ data: JSON.stringify(message) });
    }

    private play(topic: string): void {
      this.say({ type: 'subscribed', topic, handle: 1, seq: 0, mode: 'replay' });
      let seq = 0;
      const at = (): string => new Date().toISOString();
      const log = (message: string, level = 'info'): void => {
        seq += 1;
        this.say({ type: 'event', handle: 1, seq, kind: 'log', at: at(), data: { level, message } });
      };
      log('Worker local claimed the run (attempt 1).');
      log('Model loaded: 4 layers, 12 heads, float32 on cpu.');
      log('Prompt 12 is the longest: 15 tokens.', 'warning');
      this.tiles(() => (seq += 1));
    }

    private tiles(next: () => number): void {
      const work = recording.panels.flatMap((p) => p.rows.ticks.flatMap((_, r) => Array.from({ length: Math.ceil(p.columns.ticks.length / 5) }, (_u, k) => ({ p, r, c0: k * 5 }))));
      let sent = 0;
      const one = (): boolean => {
        const job = work.shift();
        if (!job) return false;
        this.tile(job.p, job.r, job.c0, next());
        sent += Math.min(5, job.p.columns.ticks.length - job.c0);
        return true;
      };
      if (recording.start < recording.run.cells_total || recording.run.cells_total < 2000) while (sent < recording.start && one());
      else this.snapshots(next());
      if (recording.rate === 0) return;
      const timer = setInterval(() => {
        const more = one();
        const done = sent;
        const progress = { done, total: recording.run.cells_total, stage: 'computing', message: '', rate: recording.rate, eta_seconds: (recording.run.cells_total - done) / recording.rate };
        if (more) this.say({ type: 'event', handle: 1, seq: next(), kind: 'progress', at: new Date().toISOString(), data: progress });
        else clearInterval(timer);
      }, 5000 / recording.rate);
    }

    private tile(p: PanelPayload, r: number, c0: number, seq: number): void {
      const nc = p.columns.ticks.length;
      const cells = nc * p.rows.ticks.length;
      const width = Math.min(5, nc - c0);
      const values = new Float32Array(p.quantities.length * width);
      p.quantities.forEach((_, q) => values.set(recording.values[p.index]!.subarray(q * cells + r * nc + c0, q * cells + r * nc + c0 + width), q * width));
      this.onmessage?.({ data: encodeFrame({ handle: 1, seq, panel: p.index, planes: p.quantities.length, r0: r, c0, nr: 1, nc: width, snapshot: false, values }) });
    }

    private snapshots(seq: number): void {
      this.say({ type: 'snapshot', handle: 1, seq, panels: recording.panels, events: [] });
      recording.panels.forEach((p, i) => {
        const frame = { handle: 1, seq, panel: i, planes: p.quantities.length, r0: 0, c0: 0, nr: p.rows.ticks.length, nc: p.columns.ticks.length, snapshot: true, values: recording.values[i]! };
        this.onmessage?.({ data: encodeFrame(frame) });
      });
    }
  }
  Object.assign(window, { WebSocket: Replay });
  const real = window.fetch.bind(window);
  window.fetch = (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    if (!online && url.includes('/api/')) return Promise.reject(new TypeError('offline'));
    if (url.endsWith('.bin')) {
      const index = Number(/(\d+)\.bin$/.exec(url)?.[1] ?? 0);
      const size = recording.values[index]?.length ?? 0;
      return Promise.resolve(new Response(new Uint32Array(size).fill(0x7fc00000).buffer));
    }
    if (url.includes('/api/v1/runs/')) return Promise.resolve(Response.json(recording.run));
    return real(input, init);
  };
}
