/** Mounts the run page's island. */
import { mount as mountComponent } from 'svelte';

import Run, { type RunProps } from './Run.svelte';

export function mount(target: HTMLElement, props: RunProps): void {
  mountComponent(Run, { target, props: { ...props, host: target } });
}
