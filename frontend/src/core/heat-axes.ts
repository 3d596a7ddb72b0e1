/** Axes of the heatmap: layer numbers that stay put while the figure scrolls, tokens under their columns. */
import { words } from './format';
import type { HeatFigure, Ink } from './heat';
import { type ColumnLabel, type Geometry, PAIR_GAP, rowLabel, xOf, yOf } from './heat-layout';
import { isTokenAxis } from './tokens';

const GROUP = 4;
const LINE = 15;

export function paintAxes(ctx: CanvasRenderingContext2D, figure: HeatFigure, ink: Ink): void {
  paintRows(ctx, figure, ink);
  paintColumns(ctx, figure, ink);
  paintTitles(ctx, figure, ink);
}

function paintRows(ctx: CanvasRenderingContext2D, figure: HeatFigure, ink: Ink): void {
  const { geometry: g, rows } = figure;
  ctx.fillStyle = ink.background;
  ctx.fillRect(0, g.plot.y, g.plot.x, g.plot.h);
  ctx.fillStyle = ink.surface;
  // Layers are counted in fours; rows of another kind have no such groups.
  for (let r = g.view.r0; rows.name === 'layer' && r < g.view.r1; r += 1) {
    if (Math.floor(r / GROUP) % 2 === 0) ctx.fillRect(g.plot.x - 30, yOf(g, r), 30, g.cellH);
  }
  ctx.textAlign = 'right';
  ctx.textBaseline = 'middle';
  const active = figure.hover ?? figure.focus;
  const shown = new Set(g.rowTicks);
  if (active && !shown.has(active.row)) {
    for (const row of g.rowTicks) if (Math.abs(row - active.row) * g.cellH < 14) shown.delete(row);
    shown.add(active.row);
  }
  for (const row of shown) {
    const bold = row === active?.row;
    ctx.font = `${bold ? '600 ' : ''}12px ${isTokenAxis(rows) ? ink.mono : ink.sans}`;
    ctx.fillStyle = bold ? ink.text : ink.muted;
    ctx.fillText(rowLabel(rows, row), g.plot.x - 8, yOf(g, row) + g.cellH / 2);
  }
  ctx.fillStyle = ink.line;
  ctx.fillRect(g.plot.x - 1, g.plot.y, 1, g.plot.h + 1);
  ctx.fillRect(g.plot.x - 1, g.plot.y + g.plot.h, g.plot.w + 1, 1);
}

function paintColumns(ctx: CanvasRenderingContext2D, figure: HeatFigure, ink: Ink): void {
  const { geometry: g, scroll } = figure;
  const active = figure.hover ?? figure.focus;
  for (const label of g.labels) {
    const x = xOf(g, label.column, scroll) + g.cellW / 2;
    if (x < g.plot.x || x > g.plot.x + g.plot.w) continue;
    const bold = label.column === active?.column;
    if (g.labelMode === 'flat') flatLabel(ctx, figure, label, x, ink, bold);
    else steepLabel(ctx, figure, label, x, ink, bold);
  }
  if (isTokenAxis(figure.columns)) paintIndices(ctx, figure, ink);
}

function fontOf(ink: Ink, bold: boolean): string {
  return `${bold ? '600 ' : ''}12px ${ink.mono}`;
}

function flatLabel(
  ctx: CanvasRenderingContext2D, figure: HeatFigure, label: ColumnLabel, x: number, ink: Ink, bold: boolean,
): void {
  const { geometry: g } = figure;
  const y = g.plot.y + g.plot.h + 4 + LINE / 2;
  ctx.textAlign = 'center';
  ctx.textBaseline = 'middle';
  ctx.font = fontOf(ink, bold);
  ctx.fillStyle = label.varies ? ink.muted : ink.text;
  ctx.fillText(label.clean, x, y);
  const half = ctx.measureText(label.clean).width / 2;
  if (label.chip) chip(ctx, x - half - 3, y - 7, half * 2 + 6, 14, ink);
  if (label.corrupted === null) return;
  ctx.fillStyle = ink.accent;
  ctx.fillRect(x - half, y + 7, half * 2, 1.5);
  ctx.fillStyle = ink.muted;
  ctx.fillText(label.corrupted, x, y + LINE + 1);
}

function steepLabel(
  ctx: CanvasRenderingContext2D, figure: HeatFigure, label: ColumnLabel, x: number, ink: Ink, bold: boolean,
): void {
  const { geometry: g } = figure;
  const top = g.plot.y + g.plot.h + (isTokenAxis(figure.columns) ? LINE + 2 : 4);
  ctx.save();
  ctx.translate(x + 4, top + 5);
  ctx.rotate(-Math.PI / 4);
  ctx.textAlign = 'right';
  ctx.textBaseline = 'middle';
  ctx.font = fontOf(ink, bold);
  ctx.fillStyle = label.varies ? ink.muted : ink.text;
  ctx.fillText(label.clean, 0, 0);
  const width = ctx.measureText(label.clean).width;
  if (label.chip) chip(ctx, -width - 3, -7, width + 6, 14, ink);
  if (label.corrupted !== null) {
    ctx.fillStyle = ink.accent;
    ctx.fillRect(-width, 7, width, 1.5);
    ctx.fillStyle = ink.muted;
    ctx.fillText(label.corrupted, -width - PAIR_GAP, 0);
  }
  ctx.restore();
}

function chip(ctx: CanvasRenderingContext2D, x: number, y: number, w: number, h: number, ink: Ink): void {
  ctx.strokeStyle = ink.muted;
  ctx.lineWidth = 1;
  ctx.beginPath();
  ctx.roundRect(x, y, w, h, 3);
  ctx.stroke();
}

/** Position numbers: beside their tokens, faint, thinned to what fits. */
function paintIndices(ctx: CanvasRenderingContext2D, figure: HeatFigure, ink: Ink): void {
  const { geometry: g, scroll } = figure;
  const y = g.plot.y + g.plot.h + (g.labelMode === 'flat' ? 4 + LINE * (g.twoLines ? 2.6 : 1.5) : 4 + LINE / 2 - 1);
  ctx.textAlign = 'center';
  ctx.textBaseline = 'middle';
  ctx.font = `11px ${ink.sans}`;
  ctx.fillStyle = ink.muted;
  let free = -Infinity;
  for (const { column } of g.labels) {
    const x = xOf(g, column, scroll) + g.cellW / 2;
    if (x < g.plot.x || x > g.plot.x + g.plot.w || x < free) continue;
    ctx.fillText(String(column), x, y);
    free = x + 8 + 6 * String(column).length;
  }
}

function paintTitles(ctx: CanvasRenderingContext2D, figure: HeatFigure, ink: Ink): void {
  const { geometry: g, rows, columns } = figure;
  ctx.font = `600 12px ${ink.sans}`;
  ctx.fillStyle = ink.muted;
  ctx.textBaseline = 'alphabetic';
  ctx.textAlign = 'left';
  ctx.fillText(`${words(rows.title)} ${g.flip ? '↓' : '↑'}`, 2, g.plot.y - 10);
  ctx.textAlign = 'right';
  ctx.fillText(`${words(columns.title)} →`, endOf(g), g.height - 6);
}

function endOf(g: Geometry): number {
  return Math.min(g.width - 2, g.plot.x + g.plot.w);
}
