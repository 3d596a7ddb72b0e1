import { describe, expect, it } from 'vitest';

import { ApiProblem, cookie } from '../src/core/api';
import { actionOf } from '../src/core/keys';
import { SHORTCUTS } from '../src/core/shortcuts';
import { csvRows, pairsFromText } from '../src/core/pairs';
import { fieldsOf, type JsonSchema, paramsOf, valueOf } from '../src/core/schema';
import { clampRect, readView, writeView } from '../src/core/view-url';

const schema: JsonSchema = {
  $defs: { Level: { enum: ['low', 'high'], type: 'string' } },
  properties: {
    seed: { type: 'integer', default: 0, title: 'Seed' },
    sites: { type: 'array', items: { enum: ['resid_pre', 'z'] }, default: ['resid_pre'], title: 'Sites' },
    rows: { anyOf: [{ type: 'integer', minimum: 1 }, { type: 'null' }], default: null, advanced: true, title: 'Rows' },
    level: { $ref: '#/$defs/Level', default: 'low' },
    share: { type: 'number', default: 0.5 },
    strict: { type: 'boolean', default: false },
  },
};
const fields = fieldsOf(schema);
const field = (name: string) => fields.find((one) => one.name === name)!;

describe('a form made from a method’s schema', () => {
  it('knows each kind of field, and keeps the seed with the advanced ones', () => {
    expect(fields.map((one) => one.kind)).toEqual(['integer', 'choices', 'integer', 'choice', 'number', 'switch']);
    expect(fields.filter((one) => one.advanced).map((one) => one.name)).toEqual(['seed', 'rows']);
    expect(field('rows')).toMatchObject({ optional: true, minimum: 1 });
    expect(field('level').options).toEqual(['low', 'high']);
  });

  it('starts from what an address or a cloned run gives, else from the defaults', () => {
    expect(valueOf(field('sites'), 'z')).toEqual(['z']);
    expect(valueOf(field('sites'), ['z', 'gone'])).toEqual(['z']);
    expect(valueOf(field('sites'), undefined)).toEqual(['resid_pre']);
    expect(valueOf(field('rows'), null)).toBe('');
    expect(valueOf(field('seed'), undefined)).toBe('0');
  });

  it('sends numbers as numbers and leaves out what is empty', () => {
    expect(paramsOf(fields, { seed: '7', sites: ['z'], rows: '', share: '0.25', strict: true, level: 'high' })).toEqual({
      seed: 7, sites: ['z'], share: 0.25, strict: true, level: 'high',
    }); // prettier-ignore
    expect(paramsOf(fields, { seed: '1e' })).toEqual({ seed: '1e' });
  });
});

describe('pairs out of a text', () => {
  it('reads JSON Lines, and leaves broken lines to the server', () => {
    const text = '{"clean":"a","corrupted":"b","answer":" x","foil":[" y"," z"]}\n{broken\n';
    expect(pairsFromText(text)).toEqual([{ clean: 'a', corrupted: 'b', answer: [' x'], foil: [' y', ' z'] }]);
  });

  it('takes the quote of a downloaded formula away, and no other', () => {
    const text = "clean,corrupted,answer,foil\n'=1+1,'s,' -3,''+x\n";
    expect(pairsFromText(text)).toEqual([{ clean: '=1+1', corrupted: "'s", answer: [' -3'], foil: ["'+x"] }]);
  });

  it('reads CSV with quotes, spaces that count, and several answers', () => {
    const text = '\ufeffclean,corrupted,answer,foil\r\n"a, ""b""",c, x| y,\r\n';
    expect(pairsFromText(text)).toEqual([{ clean: 'a, "b"', corrupted: 'c', answer: [' x', ' y'], foil: [] }]);
    expect(csvRows('a,"b\nc"\n')).toEqual([['a', 'b\nc']]);
    expect(pairsFromText('no,header\n1,2')).toEqual([]);
  });
});

describe('the view in the address', () => {
  it('reads back as it was written, and leaves foreign parameters alone', () => {
    const view = { panel: 'z', plane: 'raw', pins: [{ row: 9, column: 14 }, { row: 0, column: 2 }], zoom: { r0: 1, r1: 3, c0: 0, c1: 9 }, flip: true, paper: false, extra: { head: '3.5', search: 'a0, m:1 ü' } }; // prettier-ignore
    const search = writeView('?utm=1', view);
    expect(search).toContain('pins=9.14,0.2');
    expect(search).toContain('utm=1');
    expect(readView(search)).toEqual(view);
  });

  it('ignores nonsense, and takes at most four pins', () => {
    expect(readView('?pins=a.b,1.2,-1.2&z=3:1,0:2').pins).toEqual([{ row: 1, column: 2 }]);
    expect(readView('?z=3:1,0:2').zoom).toBeNull();
    expect(readView('?pins=1.1,1.2,1.3,1.4,1.5').pins).toHaveLength(4);
    expect(clampRect({ r0: 50, c0: 0, r1: 60, c1: 5 }, 12, 15)).toBeNull();
  });
});

describe('keys', () => {
  const press = (key: string, change: Partial<KeyboardEvent> = {}) =>
    actionOf({ key, shiftKey: false, ctrlKey: false, metaKey: false, altKey: false, ...change });

  it('move, extend and act, and leave the browser’s own combinations alone', () => {
    expect(press('ArrowUp')).toBe('up');
    expect(press('ArrowUp', { shiftKey: true })).toBe('extend-up');
    expect(press('Enter')).toBe('pin');
    expect(press('?', { shiftKey: true })).toBe('help');
    expect(press('c', { ctrlKey: true })).toBeNull();
    expect(press('Tab')).toBeNull();
  });

  it('are all in the list that ? shows', () => {
    const listed = SHORTCUTS.flatMap((shortcut) => shortcut.keys);
    for (const key of ['Enter', 'z', '0', 'h', 'c', 'v', 'f', 't', 'e', 'Esc', '?']) expect(listed).toContain(key);
  });
});

describe('a problem of the API', () => {
  it('names fields by their path, whatever their nesting', () => {
    const problem = new ApiProblem(400, { detail: 'No.', remedy: 'Do.', code: 'invalid', fields: { params: { sites: ['a', 'b'] }, 'params.over': ['c'] } });
    expect(problem.fields).toEqual({ 'params.sites': 'a b', 'params.over': 'c' });
    expect(problem.message).toBe('No.');
  });

  it('finds the CSRF cookie among others', () => {
    expect(cookie('csrftoken', 'xcsrftoken=no; csrftoken=a%3D; b=c')).toBe('a=');
  });
});
