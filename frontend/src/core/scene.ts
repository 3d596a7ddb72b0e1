/**
 * A drawing as a list of shapes in named colours: the page draws it in the theme's colours, the export on white. One
 * list, so that a figure in a paper is the figure on screen.
 */

/** A role of the theme (`text`, `positive`, `series-0` …) or a fixed `#rrggbb`. */
export type Paint = string;

interface Common {
  opacity?: number;
  /** What assistive tech and tests may know of the shape: written as `data-*`. */
  data?: Record<string, string | number>;
}

export type Shape = Common &
  (
    | { kind: 'rect'; x: number; y: number; w: number; h: number; fill: Paint; stroke?: Paint; r?: number }
    | { kind: 'line'; x1: number; y1: number; x2: number; y2: number; stroke: Paint; width?: number; dash?: string }
    | { kind: 'path'; d: string; fill?: Paint; stroke?: Paint; width?: number; dash?: string }
    | {
        kind: 'text'; x: number; y: number; text: string; fill?: Paint; size?: number;
        anchor?: 'start' | 'middle' | 'end'; mono?: boolean; bold?: boolean;
      }
  ); // prettier-ignore

export interface Scene {
  width: number;
  height: number;
  shapes: Shape[];
}

/** The roles on white paper; the page's own values are `--<role>` or `--fig-<role>` of its style sheets. */
export const PAPER: Record<string, string> = {
  bg: '#ffffff',
  surface: '#f6f7f9',
  text: '#1a2230',
  muted: '#566173',
  line: '#d5dae1',
  'line-strong': '#7d8896',
  accent: '#1f5fbf',
  done: '#17703f',
  failed: '#b3261e',
  cancelled: '#855500',
  'fig-positive': '#a03f16',
  'fig-negative': '#0d568f',
  'fig-hatch': '#c3cad4',
  'fig-series-0': '#1f5fbf',
  'fig-series-1': '#a8480a',
  'fig-series-2': '#00695c',
  'fig-series-3': '#7a1fa2',
  'fig-series-4': '#5b6370',
  'fig-series-5': '#8a5a00',
};

export const SERIES = 6;

export function seriesPaint(index: number): Paint {
  return `fig-series-${index % SERIES}`;
}

/** The colour on the page. */
export function cssOf(paint: Paint | undefined): string {
  if (paint === undefined) return 'none';
  return paint.startsWith('#') ? paint : `var(--${paint})`;
}

/** The colour in a file. */
export function paperOf(paint: Paint | undefined): string {
  if (paint === undefined) return 'none';
  return paint.startsWith('#') ? paint : (PAPER[paint] ?? '#000000');
}

export function round(value: number): number {
  return Math.round(value * 100) / 100;
}
