/** Calls of `/api/v1/`: session and CSRF from the page, errors as `ApiProblem` with what the server says to do. */

export interface ProblemBody {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  remedy?: string;
  fields?: Record<string, unknown>;
}

export class ApiProblem extends Error {
  readonly status: number;
  readonly code: string;
  readonly remedy: string;
  readonly fields: Record<string, string>;

  constructor(status: number, body: ProblemBody) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    this.status = status;
    this.code = body.code ?? (status === 0 ? 'offline' : `http_${status}`);
    this.remedy = body.remedy ?? '';
    this.fields = flatten(body.fields ?? {});
  }
}

/** Nested field errors as `{"params.sites": "sentence"}`. */
function flatten(fields: Record<string, unknown>, prefix = ''): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [name, value] of Object.entries(fields)) {
    const path = prefix + name;
    if (typeof value === 'string') found[path] = value;
    else if (Array.isArray(value)) found[path] = value.map(sentence).join(' ');
    else if (value !== null && typeof value === 'object') {
      Object.assign(found, flatten(value as Record<string, unknown>, `${path}.`));
    }
  }
  return found;
}

function sentence(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

export function cookie(name: string, source = document.cookie): string {
  const start = `${name}=`;
  const pair = source.split('; ').find((part) => part.startsWith(start));
  return pair ? decodeURIComponent(pair.slice(start.length)) : '';
}

/** The CSRF token: of the cookie where scripts may read it, else of the page. */
function csrf(): string {
  const field = document.querySelector<HTMLInputElement>('input[name="csrfmiddlewaretoken"]');
  const meta = document.querySelector<HTMLMetaElement>('meta[name="csrf-token"]');
  return cookie('csrftoken') || field?.value || meta?.content || '';
}

export interface CallOptions {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  body?: unknown;
  signal?: AbortSignal | null;
  headers?: Record<string, string>;
}

async function request(url: string, options: CallOptions): Promise<Response> {
  const method = options.method ?? 'GET';
  const headers: Record<string, string> = { Accept: 'application/json', ...options.headers };
  const init: RequestInit = { method, headers, credentials: 'same-origin', signal: options.signal ?? null };
  if (method !== 'GET') headers['X-CSRFToken'] = csrf();
  if (options.body !== undefined) {
    headers['Content-Type'] = 'application/json';
    init.body = JSON.stringify(options.body);
  }
  try {
    return await fetch(url, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new ApiProblem(0, {
      detail: 'The server cannot be reached.',
      remedy: 'Nothing was lost; try again once the connection is back.',
    });
  }
}

async function refuse(response: Response): Promise<never> {
  let body: ProblemBody = {};
  try {
    body = (await response.json()) as ProblemBody;
  } catch {
    // Not JSON: a proxy's page. The status alone has to do.
  }
  throw new ApiProblem(response.status, body);
}

/** JSON of an API address. Throws `ApiProblem`. */
export async function call<T>(url: string, options: CallOptions = {}): Promise<T> {
  const response = await request(url, options);
  if (!response.ok) return refuse(response);
  return (response.status === 204 ? null : await response.json()) as T;
}

/** The bytes of an address and the sequence number they are valid at. Throws `ApiProblem`. */
export async function callBytes(url: string): Promise<{ bytes: ArrayBuffer; seq: number }> {
  const response = await request(url, { headers: { Accept: 'application/octet-stream, application/json' } });
  if (!response.ok) return refuse(response);
  return { bytes: await response.arrayBuffer(), seq: Number(response.headers.get('X-Patchbay-Seq') ?? 0) };
}

export function problemOf(error: unknown): ApiProblem {
  if (error instanceof ApiProblem) return error;
  return new ApiProblem(0, { code: 'page_error', detail: error instanceof Error ? error.message : String(error) });
}
