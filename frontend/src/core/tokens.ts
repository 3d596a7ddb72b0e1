/**
 * Token text that shows what is really there: a leading space as `·`, newline `↵`, tab `⇥`, specials as chips,
 * invisible and direction-changing characters as escapes. The result is plain text: callers set it by `textContent`.
 */

export interface Glyph {
  /** What to print. */
  text: string;
  /** True for special tokens, which are drawn as an outlined chip. */
  chip: boolean;
}

const CHIPS = new Map([
  ['<|endoftext|>', '‹eos›'],
  ['<|begin_of_text|>', '‹bos›'],
  ['<|end_of_text|>', '‹eos›'],
  ['<bos>', '‹bos›'],
  ['<eos>', '‹eos›'],
  ['<pad>', '‹pad›'],
  ['<unk>', '‹unk›'],
  ['<s>', '‹bos›'],
  ['</s>', '‹eos›'],
  ['[CLS]', '‹cls›'],
  ['[SEP]', '‹sep›'],
  ['[PAD]', '‹pad›'],
  ['[UNK]', '‹unk›'],
  ['[MASK]', '‹mask›'],
]);
const SPECIAL = /^<\|[^|<>\s]{1,40}\|>$/u;
const BYTE = /^<0x([0-9A-Fa-f]{2})>$/u;
// Format characters (zero-width, bidi controls), separators, controls, surrogates and unassigned code points.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00a0\u2000-\u200a\u202f\u205f\u3000\ufffd]/gu;
const NAMED = new Map([
  ['\n', '↵'],
  ['\t', '⇥'],
  ['\r', '␍'],
]);

const CACHE_LIMIT = 4096;
const cache = new Map<string, Glyph>();

/** The printable form of one token. An empty token prints as `∅`. */
export function glyph(token: string): Glyph {
  let found = cache.get(token);
  if (found === undefined) {
    if (cache.size >= CACHE_LIMIT) cache.clear();
    found = printable(token);
    cache.set(token, found);
  }
  return found;
}

function printable(token: string): Glyph {
  const chip = CHIPS.get(token);
  if (chip !== undefined) return { text: chip, chip: true };
  if (SPECIAL.test(token)) return { text: `‹${token.slice(2, -2)}›`, chip: true };
  const byte = BYTE.exec(token);
  if (byte?.[1]) return { text: `⟨0x${byte[1].toUpperCase()}⟩`, chip: false };
  if (token === '') return { text: '∅', chip: false };
  return { text: repeats(spaces(token).replace(INVISIBLE, escape)), chip: false };
}

/** A leading run of spaces and a trailing run are dots; single spaces inside a token stay spaces. */
function spaces(token: string): string {
  return token
    .replace(/^ +/u, (run) => '·'.repeat(run.length))
    .replace(/ +$/u, (run) => '·'.repeat(run.length))
    .replace(/ {2,}/gu, (run) => '·'.repeat(run.length));
}

function escape(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  return NAMED.get(character) ?? `U+${code.toString(16).toUpperCase().padStart(4, '0')}`;
}

/** `↵↵↵↵` → `↵×4`, so that a run of newlines does not fill a label. */
function repeats(text: string): string {
  return text.replace(/([↵⇥·])\1{2,}/gu, (run: string) => `${run.charAt(0)}×${run.length}`);
}

/** The token for a label of at most `limit` characters. */
export function short(token: string, limit: number): string {
  const text = [...glyph(token).text];
  return text.length <= limit ? text.join('') : `${text.slice(0, Math.max(1, limit - 1)).join('')}…`;
}

const TOKEN_AXES = new Set(['position', 'query', 'key', 'token']);

/** Ticks of such an axis are tokens, which their number tells apart. */
export function isTokenAxis(axis: { name: string }): boolean {
  return TOKEN_AXES.has(axis.name);
}

/** How a token is quoted in sentences and tables: with quotes, escapes kept visible. */
export function quoted(token: string): string {
  const shown = glyph(token);
  return shown.chip ? shown.text : `‘${shown.text}’`;
}
