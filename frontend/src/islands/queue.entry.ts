/** Mounts the live queue. */
import { mount as mountComponent } from 'svelte';

import Queue, { type QueueProps } from './Queue.svelte';

export function mount(target: HTMLElement, props: QueueProps): void {
  mountComponent(Queue, { target, props: { ...props, host: target } });
}
