/** Linear and logarithmic scales with round ticks, for bars and curves. */

export interface Scale {
  domain: readonly [number, number];
  range: readonly [number, number];
  log: boolean;
  ticks: number[];
  /** Place of a value; clamped to just outside of the range, so that a far value cannot blow up a drawing. */
  at: (value: number) => number;
  /** The value at a place. */
  invert: (place: number) => number;
}

const FAR = 1e4;

export function scale(domain: readonly [number, number], range: readonly [number, number], log: boolean, count: number): Scale {
  const [low, high] = log ? [Math.log10(domain[0]), Math.log10(domain[1])] : domain;
  const span = high - low || 1;
  const at = (value: number): number => {
    const place = range[0] + (((log ? Math.log10(value) : value) - low) / span) * (range[1] - range[0]);
    return Math.max(-FAR, Math.min(FAR, place));
  };
  const invert = (place: number): number => {
    const value = low + ((place - range[0]) / (range[1] - range[0] || 1)) * span;
    return log ? 10 ** value : value;
  };
  return { domain, range, log, ticks: log ? logTicks(domain) : linearTicks(domain, count), at, invert };
}

/** About `count` multiples of 1, 2 or 5 times a power of ten, inside of the domain. */
export function linearTicks([low, high]: readonly [number, number], count: number): number[] {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const step = roundStep(span / Math.max(1, count));
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function roundStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((one) => one * power >= least * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** Powers of ten; with 2 and 5 between them where there are few. */
export function logTicks([low, high]: readonly [number, number]): number[] {
  const decades = Math.log10(high) - Math.log10(low);
  const factors = decades <= 2.5 ? [1, 2, 5] : [1];
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(6));
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push(value);
    }
  }
  return ticks;
}

/** The smallest and largest number of the lists; `start` where they hold none. */
export function extent(lists: Iterable<ArrayLike<number> | null | undefined>, start: readonly [number, number]): [number, number] {
  let [low, high] = start;
  for (const list of lists) {
    if (!list) continue;
    for (let i = 0; i < list.length; i += 1) {
      const value = list[i]!;
      if (!Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}
