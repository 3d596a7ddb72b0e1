/** The page's theme and its colours as a canvas needs them. Explicit `data-theme` on <html> wins over the system's. */
import type { Theme } from './colour';
import type { Ink } from './heat';

export function themeOf(root: HTMLElement = document.documentElement): Theme {
  const explicit = root.dataset.theme;
  if (explicit === 'light' || explicit === 'dark') return explicit;
  return window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

/** Calls back when the theme may have changed; returns how to stop. */
export function watchTheme(changed: () => void): () => void {
  const query = window.matchMedia('(prefers-color-scheme: dark)');
  const observer = new MutationObserver(changed);
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
  query.addEventListener('change', changed);
  return () => {
    observer.disconnect();
    query.removeEventListener('change', changed);
  };
}

export function inkOf(root: HTMLElement = document.documentElement): Ink {
  const style = getComputedStyle(root);
  const read = (name: string): string => style.getPropertyValue(name).trim();
  return {
    background: read('--bg'),
    surface: read('--surface'),
    line: read('--line'),
    text: read('--text'),
    muted: read('--muted'),
    accent: read('--accent'),
    hatch: read('--fig-hatch'),
    notNumber: read('--fig-nan'),
    pins: ['a', 'b', 'c', 'd'].map((letter) => read(`--fig-pin-${letter}`)),
    sans: read('--sans'),
    mono: read('--mono'),
  };
}
