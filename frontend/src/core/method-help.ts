/** A method's help text in parts, as the method's page lays it out (`interp_app/web/method_help.py`). */

export interface HelpBlock {
  kind: 'list' | 'heading' | 'formula' | 'paragraph';
  texts: string[];
}

const joined = (text: string): string => text.split(/\s+/u).filter(Boolean).join(' ');

/** Lists of lines that begin with `- `, headings that end with a colon, formulas (one line with ` = `), paragraphs. */
export function helpBlocks(text: string): HelpBlock[] {
  return text
    .split('\n\n')
    .map((part) => part.trim())
    .filter(Boolean)
    .map(blockOf);
}

function blockOf(part: string): HelpBlock {
  if (part.startsWith('- ')) return { kind: 'list', texts: `\n${part}`.split('\n- ').slice(1).map(joined) };
  const one = !part.includes('\n');
  if (one && part.endsWith(':')) return { kind: 'heading', texts: [part.slice(0, -1)] };
  if (one && part.includes(' = ')) return { kind: 'formula', texts: [part] };
  return { kind: 'paragraph', texts: [joined(part)] };
}
