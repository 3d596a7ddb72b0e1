/** Shapes of what the server sends: the `/api/v1/` JSON and the payloads of a run's event log. */

export interface Tick {
  label: string;
  corrupted: string | null;
  differs: boolean;
  varies: boolean;
}

export interface Axis {
  name: string;
  title: string;
  ticks: Tick[];
}

export interface Quantity {
  key: string;
  title: string;
  unit: string;
  scale: 'diverging' | 'sequential';
  domain: [number, number];
  anchors: Record<string, string>;
}

/** A grid a run fills: rows × columns, one plane a quantity. */
export interface PanelPayload {
  index: number;
  name: string;
  title: string;
  rows: Axis;
  columns: Axis;
  quantities: Quantity[];
  facts: Record<string, unknown>;
  /** What a cell without a value means here, where it is not "not computed". The server sends none. */
  blank?: string;
  /** The map of a finished result: nothing more will come. The server sends none. */
  whole?: boolean;
}

export type Status = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled';

export interface Failure {
  code: string;
  text: string;
  detail: Record<string, unknown>;
}

/** A run as lists, sockets and the event feed show it. */
export interface SlimRun {
  id: string;
  title: string;
  method: string;
  status: Status;
  stage: string;
  cancelling: boolean;
  cells_done: number;
  cells_total: number;
  /** In the unit that the run counts in; a total of 0 is unknown. Missing from older servers. */
  progress?: { done: number; total: number; unit: 'cells' | 'steps' };
  attempt: number;
  owner: { id: string; name: string };
  model: { slug: string; title: string };
  /** `id` is null, and the title says so, where the viewer may see the run but not its prompt set. */
  prompts: { id: string | null; title: string; version: number; pairs: number };
  visibility: 'private' | 'lab' | 'public';
  tags: string[];
  summary: Record<string, unknown>;
  failure: Failure | null;
  reused_from: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  last_seq: number;
  url: string;
}

export interface QueuePlace {
  position: number | null;
  reason: string;
  eta_seconds: number | null;
}

export interface ArtifactInfo {
  name: string;
  sha256: string;
  size: number;
  media_type: string;
  url: string;
}

export interface RunDetail extends SlimRun {
  spec: Record<string, unknown>;
  spec_hash: string;
  provenance: Record<string, unknown>;
  cloned_from: string | null;
  queue: QueuePlace | null;
  artifacts: ArtifactInfo[];
  can: { edit: boolean; cancel: boolean; resume: boolean };
}

/** A finished result as the list of a run's results names it. */
export interface ResultInfo {
  name: string;
  /** `bars/1` … */
  type: string;
  title: string;
  seq: number;
  summary: Record<string, unknown>;
  numbers: number | null;
  url: string;
  csv: string;
  artifact: { name: string; sha256: string; size: number; url: string };
}

export interface PanelsPayload {
  seq: number;
  panels: PanelPayload[];
}

export interface ProgressPayload {
  done: number;
  total: number;
  stage: string;
  message: string;
  /** What is counted: cells of maps, or steps where a method draws none. */
  unit?: 'cells' | 'steps';
  rate?: number | null;
  eta_seconds?: number | null;
}

export interface LogPayload {
  level: 'debug' | 'info' | 'warning' | 'error';
  message: string;
}

export interface StatusPayload {
  status: Status;
  stage?: string;
  attempt?: number;
  reason?: string;
  failure?: Failure | null;
}

/** One entry of the event log as text; tiles carry their values in `tile` on HTTP and as a binary frame on the socket. */
export interface LogEvent {
  seq: number;
  kind: string;
  at: string;
  data: Record<string, unknown>;
  tile?: { panel: number; r0: number; c0: number; nr: number; nc: number; planes: number; values: string };
}

export interface EventPage {
  run: SlimRun;
  events: LogEvent[];
  last_seq: number;
}

export interface QueueEntry extends QueuePlace {
  run: SlimRun;
}

export interface QueuePayload {
  queued: QueueEntry[];
  running: SlimRun[];
  hidden_queued: number;
  workers_online: number;
}

export interface WorkerInfo {
  name: string;
  device: string;
  device_memory_bytes: number;
  online: boolean;
  models_available: string[];
  models_warm: string[];
  flops_per_second: number | null;
  started_at: string;
  heartbeat_at: string;
}

export interface ModelInfo {
  slug: string;
  title: string;
  facts: Record<string, unknown>;
}

export interface PromptSetInfo {
  id: string;
  title: string;
  task?: string;
  version: number | null;
  pairs: number | null;
}

export interface TokenInfo {
  id: number;
  text: string;
  special: boolean;
  differs: boolean;
}

/** Pairs as a model's tokenizer sees them, and what is wrong with them. */
export interface TokenView {
  model: string;
  usable: boolean;
  total: number;
  pairs: {
    number: number;
    clean: TokenInfo[];
    corrupted: TokenInfo[];
    answer: TokenInfo[];
    foil: TokenInfo[];
    aligned: boolean;
  }[];
  problems: { number: number; field: string; message: string; remedy: string }[];
  problems_total: number;
}
