/** Mounts the live token check. */
import { mount as mountComponent } from 'svelte';

import PromptCheck, { type PromptCheckProps } from './PromptCheck.svelte';

export function mount(target: HTMLElement, props: PromptCheckProps): void {
  mountComponent(PromptCheck, { target, props: { ...props, host: target } });
}
