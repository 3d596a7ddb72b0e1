/**
 * Gate: the script a page loads is at most 60 kB gzipped. That is the entry, one island, everything both import, and of
 * what the island fetches for its first view: one figure, with its certificate where it is of a kind that has one (maps and
 * edges). Logs, tables, tooltips and exports come when they are asked for.
 */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const LIMIT_KB = 60;
const manifest = JSON.parse(readFileSync('dist/manifest.json', 'utf8'));

function closure(key, seen = new Set()) {
  if (seen.has(key)) return seen;
  seen.add(key);
  for (const next of manifest[key].imports ?? []) closure(next, seen);
  return seen;
}

const gzipped = (key) => gzipSync(readFileSync(`dist/${manifest[key].file}`), { level: 9 }).length / 1000;
const entry = 'src/main.ts';
// Under the server's second hash the entry has two addresses: a chunk that imports it would run it twice.
const importers = Object.keys(manifest).filter((key) => (manifest[key].imports ?? []).includes(entry));
if (importers.length > 0) {
  console.error(`These chunks import the entry, which must not happen: ${importers.join(', ')}.`);
  process.exit(1);
}
let worst = 0;
const FIGURE = /(HeatView|views\/\w+View)\.svelte$/;
const CERTIFIED = /(HeatView|EdgesView)\.svelte$/;
const BESIDE = /core\/results\.ts$/;
const CERTIFICATE = /Certificates\.svelte$/;
const size = (keys) => [...keys].reduce((sum, key) => sum + gzipped(key), 0);
for (const island of manifest[entry].dynamicImports ?? []) {
  const keys = closure(island, closure(entry));
  worst = Math.max(worst, size(keys));
  console.log(`${size(keys).toFixed(1).padStart(6)} kB gz  ${island}  (${keys.size} files)`);
  const later = manifest[island].dynamicImports ?? [];
  for (const figure of later.filter((key) => FIGURE.test(key))) {
    const beside = later.filter((key) => BESIDE.test(key) || (CERTIFIED.test(figure) && CERTIFICATE.test(key)));
    const all = [figure, ...beside].reduce((seen, key) => closure(key, seen), new Set(keys));
    worst = Math.max(worst, size(all));
    console.log(`${size(all).toFixed(1).padStart(6)} kB gz    showing ${figure}`);
  }
}
for (const css of manifest[entry].css ?? []) {
  console.log(`${(gzipSync(readFileSync(`dist/${css}`)).length / 1000).toFixed(1).padStart(6)} kB gz  ${css}`);
}
if (worst > LIMIT_KB) {
  console.error(`A page loads ${worst.toFixed(1)} kB of gzipped script; the limit is ${LIMIT_KB} kB.`);
  process.exit(1);
}
