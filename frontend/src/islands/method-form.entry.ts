/** Mounts the form of a new run. */
import { mount as mountComponent } from 'svelte';

import MethodForm, { type MethodFormProps } from './MethodForm.svelte';

export function mount(target: HTMLElement, props: MethodFormProps): void {
  mountComponent(MethodForm, { target, props });
}
