/** A heatmap's files: fetched only when one is asked for. */
import { chooseLut } from './colour';
import { toSvg } from './export-svg';
import { type FigureSource, toCsv, toJson } from './export-text';
import { layout } from './heat-layout';
import type { Rect } from './tiles';

export interface HeatView {
  plane: number;
  view: Rect;
  flip: boolean;
  paper: boolean;
  domain: readonly [number, number];
}

export function heatFiles(from: FigureSource, at: HeatView): { svg: () => string; csv: () => string; json: () => string } {
  return { svg: () => drawing(from, at), csv: () => toCsv(from), json: () => toJson(from) };
}

function drawing(from: FigureSource, { plane, view, flip, paper, domain }: HeatView): string {
  // Wide enough for upright labels of a short prompt; at an angle up to 64 columns; an overview beyond.
  const columns = Math.min(view.c1 - view.c0, 64);
  const geometry = layout({
    rows: from.panel.rows,
    columns: from.panel.columns,
    view,
    width: Math.max(680, 60 + columns * (columns <= 24 ? 66 : 26)),
    maxPlotHeight: 420,
    flip,
    measure: (text) => text.length * 7.3,
  });
  // A figure for paper is on white, whatever the screen's theme.
  const lut = chooseLut(from.panel.quantities[plane]?.scale ?? 'diverging', 'light', paper);
  return toSvg({ ...from, plane, lut, domain, geometry });
}
