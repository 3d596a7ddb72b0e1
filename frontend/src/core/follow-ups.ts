/** Runs that a selected region of a map suggests, on what its run was run on. */
import type { Rect } from './tiles';
import type { PanelPayload, RunDetail } from './types';
import { newRunLink } from './view-url';

export interface FollowUp {
  text: string;
  href: string;
}

/** `region` is first and last layer, first and last column, as `activation_patching` takes it. */
export function followUps(run: RunDetail, panel: PanelPayload, rect: Rect): FollowUp[] {
  const { rows, columns } = panel;
  const { id, method, status } = run;
  if (method !== 'activation_patching' || rows.name !== 'layer') return [];
  const labels = Array.from({ length: rect.r1 - rect.r0 }, (_, i) => rows.ticks[rect.r0 + i]?.label ?? String(rect.r0 + i));
  const layers = labels.join(',');
  const region = `${labels[0] ?? ''},${labels.at(-1) ?? ''},${rect.c0},${rect.c1 - 1}`;
  const links: FollowUp[] = [];
  // A run that has ended has every cell; one that goes on can be asked again with this part of the map first.
  if (status === 'running' || status === 'queued') links.push({ text: 'Compute this first', href: newRunLink({ from: id, method, region }) });
  if (columns.name !== 'position') return links;
  links.push({ text: 'Run finer here', href: newRunLink({ from: id, method, sites: 'z', over: 'layer_head_position', layers, region }) });
  links.push({ text: 'Heads here', href: newRunLink({ from: id, method, sites: 'z', over: 'layer_head', layers }) });
  return links;
}
