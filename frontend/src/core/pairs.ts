/** Prompt pairs out of a form: rows typed by hand, or a text in CSV or JSON Lines, so that they can be checked live. */

export interface PairInput {
  clean: string;
  corrupted: string;
  answer: string[];
  foil: string[];
}

/** Words separated by `|`; spaces count, so nothing is trimmed. */
export function wordsOf(text: string): string[] {
  return text.split('|').filter((word) => word !== '');
}

/** Pairs of a text; lines that cannot be read are left to the server, which names them when the form is sent. */
export function pairsFromText(text: string): PairInput[] {
  const body = text.replace(/^\ufeff/u, '');
  return /^\s*[{[]/u.test(body) ? fromJsonLines(body) : fromCsv(body);
}

function fromJsonLines(text: string): PairInput[] {
  return text.split('\n').flatMap((line) => {
    if (line.trim() === '') return [];
    try {
      const row = JSON.parse(line) as Record<string, unknown>;
      return [{ clean: textOf(row.clean), corrupted: textOf(row.corrupted), answer: listOf(row.answer), foil: listOf(row.foil) }];
    } catch {
      return [];
    }
  });
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function listOf(value: unknown): string[] {
  if (Array.isArray(value)) return value.filter((one): one is string => typeof one === 'string');
  return typeof value === 'string' && value !== '' ? [value] : [];
}

function fromCsv(text: string): PairInput[] {
  const [header, ...rows] = csvRows(text).map((row) => row.map(unquoted));
  if (!header) return [];
  const place = (name: string): number => header.findIndex((cell) => cell.trim().toLowerCase() === name);
  const [clean, corrupted, answer, foil] = [place('clean'), place('corrupted'), place('answer'), place('foil')];
  if (clean < 0 || corrupted < 0) return [];
  return rows
    .filter((row) => row.some((cell) => cell !== ''))
    .map((row) => ({
      clean: row[clean] ?? '',
      corrupted: row[corrupted] ?? '',
      answer: wordsOf(row[answer] ?? ''),
      foil: wordsOf(row[foil] ?? ''),
    }));
}

/** Without the quote that keeps a download's cell from being a formula (interp_app/catalog/csv_pairs.py). */
function unquoted(cell: string): string {
  return /^'+ *[=+\-@\t\r\n]/u.test(cell) ? cell.slice(1) : cell;
}

/** RFC 4180: quoted cells may hold commas, line ends and doubled quotes. */
export function csvRows(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let cell = '';
  let quoted = false;
  const endRow = (): void => {
    row.push(cell);
    rows.push(row);
    row = [];
    cell = '';
  };
  for (let i = 0; i < text.length; i += 1) {
    const c = text.charAt(i);
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text.charAt(i + 1) === '"') {
        cell += '"';
        i += 1;
      } else quoted = false;
    } else if (c === '"' && cell === '') quoted = true;
    else if (c === ',') {
      row.push(cell);
      cell = '';
    } else if (c === '\n') endRow();
    else if (c !== '\r') cell += c;
  }
  if (cell !== '' || row.length > 0) endRow();
  return rows;
}
