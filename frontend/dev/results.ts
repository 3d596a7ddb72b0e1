/** One made-up result of each type, as the bytes that the server would store: for the harness and for tests. */
import type { ResultInfo } from '../src/core/types';

type Array1 = { shape: number[]; values: Float32Array | Float64Array | Uint8Array };

/** A safetensors file with this JSON part in its metadata. */
export function encodeResult(data: Record<string, unknown>, arrays: Record<string, Array1>): ArrayBuffer {
  let at = 0;
  const header: Record<string, unknown> = { __metadata__: { patchbay: JSON.stringify(data) } };
  for (const [name, { shape, values }] of Object.entries(arrays)) {
    const dtype = values instanceof Uint8Array ? 'BOOL' : values instanceof Float64Array ? 'F64' : 'F32';
    header[name] = { dtype, shape, data_offsets: [at, at + values.byteLength] };
    at += values.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const out = new Uint8Array(8 + text.length + at);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  let to = 8 + text.length;
  for (const { values } of Object.values(arrays)) {
    out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), to);
    to += values.byteLength;
  }
  return out.buffer;
}

const ticks = (labels: string[]) => labels.map((label) => ({ label, corrupted: null, differs: false, varies: false }));
const numbers = (n: number, f: (i: number) => number) => ({ shape: [n], values: Float32Array.from({ length: n }, (_, i) => f(i)) });
const wave = (i: number): number => Math.sin(i * 12.9898) * Math.cos(i * 4.1414);
const WORDS = ['<|endoftext|>', 'When', ' Mary', ' and', ' John', ' went', ' to', ' the', ' store', ',', ' John', ' gave', ' a', ' drink', ' to', '\u202ebad\n'];
const LOGITS = { key: 'effect', title: 'Effect on the logit difference', unit: 'logits', scale: 'diverging', domain: [-2, 2], anchors: {} };

function bars() {
  const labels = Array.from({ length: 96 }, (_, i) => `L${Math.floor(i / 8)}H${i % 8}`);
  const effect = numbers(96, (i) => (i === 37 ? Number.NaN : wave(i) ** 3 * 2));
  const half = (sign: number) => numbers(96, (i) => effect.values[i]! + sign * (0.05 + 0.1 * Math.abs(wave(i + 5))));
  return encodeResult(
    { format: 'bars/1', name: 'heads', title: 'Direct effect of each head', axis: { name: 'head', title: 'Head', ticks: ticks(labels) }, quantities: [LOGITS, { ...LOGITS, key: 'share', title: 'Share', unit: '', domain: [-1, 1] }], facts: { metric: 'logit_diff', pairs: 50 } },
    { 'values.effect': effect, 'low.effect': half(-1), 'high.effect': half(1), 'values.share': numbers(96, (i) => wave(i) / 4) },
  ); // prettier-ignore
}

function curve() {
  const n = 12;
  const y = (k: number) => numbers(n, (i) => 1 - Math.exp(-i / (1.5 + k * 2)));
  const shifted = (k: number, by: number) => numbers(n, (i) => 1 - Math.exp(-i / (1.5 + k * 2)) + by * (0.06 + 0.04 * Math.abs(wave(i))));
  const quantity = { key: 'faithfulness', title: 'Recovery', unit: '', scale: 'diverging', domain: [-1, 1], anchors: { '0': 'corrupted run', '1': 'clean run' } };
  return encodeResult(
    { format: 'curve/1', name: 'faithfulness', title: 'Faithfulness of the circuit', x_title: 'Edges kept', x_unit: 'edges', log_x: true, quantity, series: [{ key: 'eap', title: 'EAP-IG' }, { key: 'random', title: 'Random circuits' }], facts: {} },
    { x: numbers(n, (i) => 2 ** i), 'y.eap': y(0), 'low.eap': shifted(0, -1), 'high.eap': shifted(0, 1), 'y.random': y(1), 'low.random': shifted(1, -1), 'high.random': shifted(1, 1) },
  ); // prettier-ignore
}

function lens() {
  const [nr, nc, k] = [6, WORDS.length, 3];
  const tokens = Array.from({ length: nr }, (_, r) => Array.from({ length: nc }, (_u, c) => Array.from({ length: k }, (_v, i) => WORDS[(r + c + i + 1) % nc]!)));
  const values = { shape: [nr, nc, k], values: Float32Array.from({ length: nr * nc * k }, (_, i) => Math.abs(wave(Math.floor(i / k))) / (1 + (i % k))) };
  const quantity = { key: 'prob', title: 'Probability', unit: '', scale: 'sequential', domain: [0, 1], anchors: {} };
  return encodeResult(
    { format: 'token_table/1', name: 'lens', title: 'Logit lens of the clean prompt', rows: { name: 'layer', title: 'Layer', ticks: ticks(Array.from({ length: nr }, (_, i) => String(i))) }, columns: { name: 'position', title: 'Token position', ticks: ticks(WORDS) }, quantity, tokens, facts: { prompt: 'When Mary and John went to the store' } },
    { values },
  ); // prettier-ignore
}

function saliency() {
  const rows = ['pair 1, clean', 'pair 2, clean', 'pair 3, clean'];
  const tokens = rows.map((_, r) => WORDS.map((word, c) => [c < WORDS.length - r * 2 ? word : '']));
  const values = { shape: [3, WORDS.length, 1], values: Float32Array.from({ length: 3 * WORDS.length }, (_, i) => (i % WORDS.length < WORDS.length - Math.floor(i / WORDS.length) * 2 ? wave(i) * 2 : Number.NaN)) };
  return encodeResult(
    { format: 'token_table/1', name: 'saliency', title: 'Input × gradient', rows: { name: 'prompt', title: 'Prompt', ticks: ticks(rows) }, columns: { name: 'position', title: 'Position', ticks: ticks(WORDS.map((_, i) => String(i))) }, quantity: LOGITS, tokens, facts: {} },
    { values },
  ); // prettier-ignore
}

function attention() {
  const [layers, heads, size] = [4, 6, WORDS.length];
  const pattern = new Float32Array(layers * heads * size * size).fill(Number.NaN);
  for (let h = 0; h < layers * heads; h += 1) {
    for (let q = 0; q < size; q += 1) {
      const raw = Array.from({ length: q + 1 }, (_, k) => Math.exp((h % 3 === 0 ? (k === q - 1 ? 5 : 0) : k === 0 ? 3 : 2 * wave(h * 7 + k))));
      const sum = raw.reduce((a, b) => a + b, 0);
      raw.forEach((value, k) => (pattern[(h * size + q) * size + k] = value / sum));
    }
  }
  const shape = [layers, heads, size, size];
  const q = (key: string, title: string) => ({ key, title, unit: '', scale: 'sequential', domain: [0, 1], anchors: {} });
  return encodeResult(
    { format: 'attention/1', name: 'pair-1', title: 'Attention on pair 1', tokens: WORDS, quantities: [q('pattern', 'Pattern'), q('weighted', 'Value-weighted')], facts: { pair: 1 } },
    { 'planes.pattern': { shape, values: pattern }, 'planes.weighted': { shape, values: pattern.map((v) => v * 0.6) } },
  ); // prettier-ignore
}

function edges() {
  const [layers, heads] = [12, 12];
  const sources = ['input', ...Array.from({ length: layers }, (_, l) => [...Array.from({ length: heads }, (_u, h) => `a${l}.h${h}`), `m${l}`]).flat()];
  const readers = [...Array.from({ length: layers }, (_, l) => [...'qkv'].flatMap((x) => Array.from({ length: heads }, (_u, h) => `a${l}.h${h}<${x}>`)).concat(`m${l}`)).flat(), 'logits'];
  const layerOf = (name: string): number => Number(/\d+/.exec(name)?.[0] ?? (name === 'input' ? -1 : 99));
  const real = new Uint8Array(sources.length * readers.length);
  const scores = new Float32Array(real.length);
  sources.forEach((s, i) =>
    readers.forEach((r, j) => {
      const at = i * readers.length + j;
      const isMlp = r.startsWith('m');
      if (layerOf(s) < layerOf(r) || (isMlp && layerOf(s) === layerOf(r) && s.startsWith('a'))) {
        real[at] = 1;
        scores[at] = wave(at) ** 9 * (at % 211 === 0 ? 1 : 0.02);
      }
    }),
  );
  const shape = [sources.length, readers.length];
  const two = new Float32Array(2 * scores.length);
  two.set(scores.map((v) => v * 0.7));
  two.set(scores.map((v) => v * 0.3), scores.length);
  return encodeResult(
    { format: 'edges/1', name: 'edges', title: 'EAP-IG scores', sources, readers, spans: ['subject', 'end'], facts: { method: 'EAP-IG-inputs', steps: 5, unit: 'logits' } },
    { real: { shape, values: real }, scores: { shape, values: scores }, span_scores: { shape: [2, ...shape], values: two } },
  ); // prettier-ignore
}

function texts() {
  const scales = ['no steering', 'scale −4', 'scale 4'];
  const entries = ['I think that', 'The weather in <b>Paris</b>'].flatMap((prompt, p) =>
    scales.map((label, i) => ({ label, prompt, text: i === 1 && p === 1 ? '' : ` this is ${['fine', 'awful\u202e', 'wonderful'][i]} and <script>alert(1)</script>\nso on and on for a long line of words that must wrap`, facts: { scale: [0, -4, 4][i] } })),
  );
  return encodeResult({ format: 'text/1', name: 'texts', title: 'Continuations', entries, facts: { layer: 6 } }, {});
}

function certificate() {
  const checks = [
    { name: 'faithfulness', title: 'Faithfulness of the circuit', value: 0.91, limit: 0.85, passed: true, sentence: 'With only these edges the model keeps 91 % of the effect, measured by exact ablation.' },
    { name: 'rank', title: 'Agreement with exact patching', value: 0.42, limit: 0.7, passed: false, sentence: 'On 40 edges drawn at random, the scores and the exact effects agree with ρ = 0.42: do not read the order of small edges.' },
    { name: 'converged', title: 'Steps of the path', value: 0.013, limit: null, passed: null, sentence: 'Doubling the steps changes the scores by 1.3 % of the largest.' },
  ];
  return encodeResult({ format: 'certificate/1', name: 'certificate', title: 'Certificate', checks, warnings: ['Clean and corrupted differ by only 0.4 logits: ratios divide by little.'], trusted: false, facts: {} }, {});
}

function grid() {
  const rows = { name: 'query', title: 'Query', ticks: ticks(WORDS) };
  const columns = { name: 'neuron', title: 'Neuron', ticks: ticks(Array.from({ length: 30 }, (_, i) => String(i * 3))) };
  const plane = { shape: [WORDS.length, 30], values: Float32Array.from({ length: WORDS.length * 30 }, (_, i) => (i % 17 === 3 ? Number.NaN : wave(i) ** 3 * 2)) };
  return encodeResult({ format: 'grid/1', name: 'scores', title: 'Scores of a finished map', rows, columns, quantities: [LOGITS], facts: {} }, { 'planes.effect': plane });
}

const MADE = { grid, bars, curve, lens, saliency, attention, edges, texts, certificate };
export type MadeName = keyof typeof MADE;

export const FILES: Record<MadeName, () => ArrayBuffer> = MADE;

/** The list of results as the API gives it, and each one's file by its address. */
export function madeResults(): { infos: ResultInfo[]; files: Map<string, ArrayBuffer> } {
  const files = new Map<string, ArrayBuffer>();
  const infos = Object.values(MADE).map((make, seq): ResultInfo => {
    const file = make();
    const length = Number(new DataView(file).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length))) as { __metadata__: { patchbay: string } };
    const { name, format, title } = JSON.parse(header.__metadata__.patchbay) as Record<string, string>;
    const url = `/made/${name}.safetensors`;
    files.set(url, file);
    return { name: name!, type: format!, title: title!, seq, summary: {}, numbers: 1, url: `/made/${name}`, csv: `/made/${name}.csv`, artifact: { name: `${name}.safetensors`, sha256: String(seq), size: file.byteLength, url } };
  });
  return { infos, files };
}
