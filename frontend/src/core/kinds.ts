/** The types of results (`tracing/results/`). */

const KINDS = ['grid', 'bars', 'curve', 'token_table', 'attention', 'edges', 'text', 'certificate'] as const;
export type ResultKind = (typeof KINDS)[number];

/** The type without its version; null for one that this page does not know. */
export function kindOf(type: string): ResultKind | null {
  const name = type.split('/')[0] ?? '';
  return KINDS.find((kind) => kind === name) ?? null;
}
