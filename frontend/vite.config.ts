/** Build: one entry (`src/main.ts`), hashed files, and the manifest the server's templates read. Tests run in Node. */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

const BASE = /node_modules\/(svelte|clsx|esm-env)\/|islands\/(Icon|Token|Lazy)\.svelte|core\/(api|format|tokens|theme|colour|socket|frames|frame|backoff|kinds|heat-layout|scale)\.ts/;
const MAP = /islands\/(Figure|HeatCanvas|Inspector|Legend)\.svelte|core\/(heat|heat-axes|heat-raster|describe|keys)\.ts/;

export default defineConfig({
  base: '/static/',
  plugins: [svelte()],
  build: {
    manifest: 'manifest.json',
    outDir: 'dist',
    emptyOutDir: true,
    target: 'es2022',
    rolldownOptions: {
      input: { main: 'src/main.ts' },
      // What fetches further chunks is shared by the entry and the islands, and nothing may import the entry.
      // Few larger chunks compress better than many small ones: what every island needs is one, the heatmap another.
      output: {
        codeSplitting: {
          groups: [
            { name: 'preload', test: /vite\/preload-helper/, priority: 3 },
            { name: 'base', test: BASE, priority: 2 },
            { name: 'around', test: /islands\/(ExportMenu|Facts)\.svelte/, priority: 2 },
            { name: 'map', test: MAP, priority: 1 },
          ],
        },
      },
    },
  },
  test: { environment: 'node', include: ['tests/**/*.test.ts'] },
});
