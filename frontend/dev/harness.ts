/** The run page over a recording: `/static/dev/harness.html?case=running&theme=dark`. Served by `npm run dev` only. */
import '../src/app.css';
import '../src/figures.css';

import { mount } from '../src/islands/run.entry';
import { install, record } from './replay';

const query = new URLSearchParams(window.location.search);
const theme = query.get('theme');
if (theme) document.documentElement.dataset.theme = theme;
const name = query.get('case') ?? 'running';
const recording = record(name);
install(recording, name !== 'offline');
const target = document.querySelector<HTMLElement>('[data-island-later]');
if (target) {
  mount(target, {
    run: recording.run,
    panels: { seq: 0, panels: recording.panels },
    api: '/api/v1/',
    socket: '/ws/',
    user: { id: 'u1', name: 'Local' },
  });
}
