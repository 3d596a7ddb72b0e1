/** Numbers and times as text: three significant digits, a true minus sign, durations a person reads at a glance. */

export const MINUS = '\u2212';

/** `0.8134` → `0.813`, `-1234.5` → `−1230`, tiny and huge values in e-notation. */
export function number(value: number, digits = 3): string {
  if (Number.isNaN(value)) return 'not a number';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : `${MINUS}∞`;
  const size = Math.abs(value);
  if (size === 0) return '0';
  const text =
    size >= 1e6 || size < 1e-4
      ? size.toExponential(digits - 1).replace('e+', 'e').replace('-', MINUS)
      : fixed(size, digits);
  return value < 0 ? MINUS + text : text;
}

function fixed(size: number, digits: number): string {
  const rounded = Number(size.toPrecision(digits));
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(rounded)));
  return rounded.toFixed(Math.min(decimals, 8));
}

/** A value inside a cell: as many decimals as the scale's size makes worth reading, never more than two. */
export function inCell(value: number, size: number): string {
  const decimals = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? (0).toFixed(decimals) : text.replace('-', MINUS);
}

/** Short form for scale ticks: `1`, `0.5`, `−1`. */
export function tick(value: number): string {
  const text = String(Number(value.toPrecision(3)));
  return text.replace('-', MINUS);
}

export function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** Seconds as `4 s`, `2 min 10 s`, `1 h 05 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (seconds > 0 && seconds < 1) return 'under 1 s';
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')} min`;
}

export function bytes(size: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = size;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit] ?? ''}`;
}

export function flops(value: number): string {
  const units = ['', 'k', 'M', 'G', 'T', 'P', 'E'];
  let rest = value;
  let unit = 0;
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${Number(rest.toPrecision(3))} ${units[unit] ?? ''}FLOP`;
}

/** `14:02:07` in the reader's own time zone. */
export function clock(iso: string): string {
  const at = new Date(iso);
  const two = (value: number): string => String(value).padStart(2, '0');
  return Number.isNaN(at.getTime()) ? '' : `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function dateTime(iso: string | null): string {
  if (iso === null) return '';
  const at = new Date(iso);
  return Number.isNaN(at.getTime())
    ? ''
    : `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, '0')}-${String(at.getDate()).padStart(2, '0')} ${clock(iso).slice(0, 5)}`;
}

/** `positive_outcome` → `Positive outcome`. */
export function words(name: string): string {
  const spaced = name.replaceAll('_', ' ');
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}
