/**
 * Entry of every page: mounts each `<div data-island="NAME" data-props="ID">` with the props of the JSON script of that
 * id. An island's code is fetched only where it is used. This file imports nothing that islands import too: the server
 * may serve the entry under a second hashed name, and nothing shared must then exist twice.
 */
import './app.css';
import './figures.css';

type Mount = (target: HTMLElement, props: never) => void;

const islands = import.meta.glob<{ mount: Mount }>('./islands/*.entry.ts');

async function mountOne(target: HTMLElement): Promise<void> {
  const name = target.dataset.island ?? '';
  const load = islands[`./islands/${name}.entry.ts`];
  if (!load || target.dataset.mounted !== undefined) return;
  target.dataset.mounted = '';
  const source = document.getElementById(target.dataset.props ?? '');
  const props = JSON.parse(source?.textContent ?? '{}') as never;
  const { mount } = await load();
  mount(target, props);
  for (const fallback of target.querySelectorAll('[data-fallback]')) fallback.remove();
}

/** Says in place what did not start; the page around it still works without scripts. */
function explain(target: HTMLElement): void {
  const note = document.createElement('p');
  note.className = 'notice notice-error';
  note.setAttribute('role', 'alert');
  note.textContent = 'This part of the page did not load. Reload the page; if it stays, the server was updated meanwhile.';
  target.prepend(note);
}

for (const target of document.querySelectorAll<HTMLElement>('[data-island]')) {
  mountOne(target).catch((error: unknown) => {
    explain(target);
    reportError(error);
  });
}
