/** Build: one entry (`src/main.ts`), hashed files, and the manifest the server's templates read. Tests run in Node. */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  base: '/static/',
  plugins: [svelte()],
  build: {
    manifest: 'manifest.json',
    outDir: 'dist',
    emptyOutDir: true,
    target: 'es2022',
    rolldownOptions: { input: { main: 'src/main.ts' } },
  },
  test: { environment: 'node', include: ['tests/**/*.test.ts'] },
});
