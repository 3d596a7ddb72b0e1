/** Waiting between connection tries: exponential with full jitter, so that many tabs do not return at once. */

export const BASE_MS = 500;
export const CAP_MS = 30_000;

/** A wait drawn evenly from 0 to min(cap, base · 2ⁿ); `tries` counts failures so far, from 0. */
export function backoff(tries: number, random: () => number = Math.random): number {
  return random() * Math.min(CAP_MS, BASE_MS * 2 ** Math.min(tries, 16));
}
