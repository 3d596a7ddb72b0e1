/** The run page over a recording: `/static/dev/harness.html?case=running&theme=dark`. Served by `npm run dev` only. */
import '../src/app.css';
import '../src/figures.css';

import { mount } from '../src/islands/run.entry';
import { install, record } from './replay';
import { madeResults } from './results';

const query = new URLSearchParams(window.location.search);
const theme = query.get('theme');
if (theme) document.documentElement.dataset.theme = theme;
const name = query.get('case') ?? 'running';
const recording = record(name);
install(recording, name !== 'offline');
const made = madeResults();
const replayed = window.fetch.bind(window);
window.fetch = (input, init) => {
  const file = made.files.get(String(input));
  if (file) return Promise.resolve(new Response(file.slice(0)));
  if (String(input).endsWith('/results/')) return Promise.resolve(Response.json({ results: made.infos }));
  return replayed(input, init);
};
const target = document.querySelector<HTMLElement>('[data-island-later]');
if (target) {
  mount(target, {
    run: recording.run,
    panels: { seq: 0, panels: recording.panels },
    results: query.has('results') ? made.infos : [],
    api: '/api/v1/',
    socket: '/ws/',
    user: { id: 'u1', name: 'Local' },
  });
}
