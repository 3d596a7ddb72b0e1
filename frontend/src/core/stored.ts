/** Maps made from results: the heatmap draws them as it draws the panels of a run. */
import { TileStore } from './tiles';
import type { Tick } from './types';

export function plainTick(label: string): Tick {
  return { label, corrupted: null, differs: false, varies: false };
}

/** Planes as float32 in a store. Cells of which `exists` is 0 stay unknown; without it, NaN everywhere means unknown. */
export function stored(planes: ArrayLike<number>[], rows: number, columns: number, exists?: ArrayLike<number>): TileStore {
  const store = new TileStore(planes.length, rows, columns);
  planes.forEach((plane, p) => store.plane(p).set(plane));
  for (let i = 0; i < store.cells; i += 1) {
    const known = exists ? exists[i] === 1 : planes.some((plane) => !Number.isNaN(plane[i]));
    if (!known) continue;
    store.known[i] = 1;
    store.done += 1;
  }
  store.version += 1;
  return store;
}
