/** One attention head as a map. */
import type { AttentionResult } from './results';
import type { PanelState } from './run-state';
import { plainTick, stored } from './stored';

/** One head, query × key. Keys a mask forbids are NaN in every plane and stay blank. */
export function headPanel(result: AttentionResult, layer: number, head: number): PanelState {
  const size = result.tokens.length;
  const from = (layer * result.heads + head) * size * size;
  const planes = result.planes.map((plane) => plane.subarray(from, from + size * size));
  const ticks = result.tokens.map(plainTick);
  const payload = {
    index: 0,
    name: `${result.name}-L${layer}H${head}`,
    title: `${result.title}: layer ${layer}, head ${head}`,
    rows: { name: 'query', title: 'Query', ticks },
    columns: { name: 'key', title: 'Key', ticks },
    quantities: result.quantities,
    facts: { ...result.facts, layer, head },
    blank: 'no attention: masked',
    whole: true,
  };
  return { payload, store: stored(planes, size, size) };
}
