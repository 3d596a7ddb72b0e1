/** The view of a figure in the address (panel, plane, pins, zoom …), so that a link shows exactly what its sender saw. */
import type { Cell } from './heat-layout';
import type { Rect } from './tiles';

export interface FigureView {
  panel: string | null;
  plane: string | null;
  pins: Cell[];
  zoom: Rect | null;
  flip: boolean;
  paper: boolean;
  /** What only one kind of figure has: its head, order, search … */
  extra: Record<string, string>;
}

export const MAX_PINS = 4;

export function readView(search: string): FigureView {
  const query = new URLSearchParams(search);
  return {
    panel: query.get('panel'),
    plane: query.get('plane'),
    pins: parsePins(query.get('pins') ?? ''),
    zoom: parseRect(query.get('z') ?? ''),
    flip: query.get('flip') === '1',
    paper: query.get('map') === 'paper',
    extra: parseExtra(query.get('s') ?? ''),
  };
}

/** The query with the view written into it; parameters that are not ours stay. */
export function writeView(search: string, view: FigureView): string {
  const query = new URLSearchParams(search);
  const put = (name: string, value: string | null): void => {
    if (value === null || value === '') query.delete(name);
    else query.set(name, value);
  };
  put('panel', view.panel);
  put('plane', view.plane);
  put('pins', view.pins.map((pin) => `${pin.row}.${pin.column}`).join(','));
  put('z', view.zoom ? `${view.zoom.r0}:${view.zoom.r1},${view.zoom.c0}:${view.zoom.c1}` : null);
  put('flip', view.flip ? '1' : null);
  put('map', view.paper ? 'paper' : null);
  put('s', Object.entries(view.extra).map(([name, value]) => `${name}:${encodeURIComponent(value)}`).join(','));
  const text = query.toString().replaceAll('%2C', ',').replaceAll('%3A', ':');
  return text === '' ? '' : `?${text}`;
}

function parsePins(text: string): Cell[] {
  const found = text.split(',').flatMap((part) => {
    const match = /^(\d{1,6})\.(\d{1,6})$/.exec(part);
    return match ? [{ row: Number(match[1]), column: Number(match[2]) }] : [];
  });
  return found.slice(0, MAX_PINS);
}

function parseExtra(text: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const part of text.split(',')) {
    const match = /^([a-z]{1,12}):(.{1,200})$/u.exec(part);
    if (match?.[1] && match[2]) found[match[1]] = decoded(match[2]);
  }
  return found;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

function parseRect(text: string): Rect | null {
  const match = /^(\d{1,6}):(\d{1,6}),(\d{1,6}):(\d{1,6})$/.exec(text);
  if (!match) return null;
  const [r0, r1, c0, c1] = match.slice(1).map(Number) as [number, number, number, number];
  return r1 > r0 && c1 > c0 ? { r0, c0, r1, c1 } : null;
}

/** The rectangle cut to the grid, or `null` where nothing of it lies inside. */
export function clampRect(rect: Rect | null, rows: number, columns: number): Rect | null {
  if (!rect) return null;
  const cut = { r0: rect.r0, c0: rect.c0, r1: Math.min(rect.r1, rows), c1: Math.min(rect.c1, columns) };
  return cut.r1 > cut.r0 && cut.c1 > cut.c0 ? cut : null;
}

/** The new-run page, filled in from a run (`from`) and parameters by name. */
export function newRunLink(parameters: Record<string, string>): string {
  return `/runs/new/?${new URLSearchParams(parameters).toString()}`;
}
