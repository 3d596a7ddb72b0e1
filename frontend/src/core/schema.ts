/**
 * A method's JSON schema as form fields, and form values as the parameters the API takes. Kinds: a choice (`enum`),
 * several choices (an array of `enum`), whole and decimal numbers, lists of them, switches and texts; `X or null` may be
 * left empty.
 */

export interface JsonSchema {
  properties?: Record<string, JsonProperty>;
  $defs?: Record<string, JsonProperty>;
}

export interface JsonProperty {
  title?: string;
  description?: string;
  type?: string;
  enum?: unknown[];
  items?: JsonProperty;
  prefixItems?: JsonProperty[];
  minItems?: number;
  maxItems?: number;
  anyOf?: JsonProperty[];
  $ref?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  advanced?: boolean;
  /** Other fields and the values of theirs with which this one is used at all. */
  only_if?: Record<string, unknown[]>;
}

export type FieldKind = 'choice' | 'choices' | 'integer' | 'number' | 'integers' | 'numbers' | 'texts' | 'switch' | 'text';

export interface FieldSpec {
  name: string;
  title: string;
  description: string;
  kind: FieldKind;
  options: string[];
  optional: boolean;
  advanced: boolean;
  minimum: number | null;
  maximum: number | null;
  initial: unknown;
  onlyIf: Record<string, unknown[]>;
}

export type FieldValue = string | string[] | boolean;

export function fieldsOf(schema: JsonSchema): FieldSpec[] {
  return Object.entries(schema.properties ?? {}).map(([name, declared]) => fieldOf(name, resolve(declared, schema)));
}

interface Resolved extends JsonProperty {
  optional: boolean;
}

/** Follow `$ref` and reduce `X or null` to X, marked as optional. */
function resolve(property: JsonProperty, schema: JsonSchema): Resolved {
  const { $ref, anyOf, ...own } = property;
  if ($ref) return resolve({ ...schema.$defs?.[$ref.split('/').at(-1) ?? ''], ...own }, schema);
  if (!anyOf) return { ...own, optional: false };
  const kinds = anyOf.filter((option) => option.type !== 'null');
  return { ...resolve(kinds[0] ?? {}, schema), ...own, optional: kinds.length < anyOf.length };
}

function fieldOf(name: string, property: Resolved): FieldSpec {
  const options = property.enum ?? property.items?.enum ?? [];
  return {
    name,
    title: property.title ?? name,
    description: property.description ?? '',
    kind: kindOf(property),
    options: options.map(String),
    optional: property.optional || (property.type === 'array' && !property.items?.enum && !property.minItems),
    advanced: property.advanced === true || name === 'seed',
    minimum: property.minimum ?? property.exclusiveMinimum ?? null,
    maximum: property.maximum ?? null,
    initial: property.default ?? null,
    onlyIf: property.only_if ?? {},
  };
}

function kindOf(property: JsonProperty): FieldKind {
  if (property.type === 'array' && property.items?.enum) return 'choices';
  if (property.type === 'array') {
    const kind = (property.items ?? property.prefixItems?.[0])?.type;
    return kind === 'integer' ? 'integers' : kind === 'number' ? 'numbers' : 'texts';
  }
  if (property.enum) return 'choice';
  if (property.type === 'integer') return 'integer';
  if (property.type === 'number') return 'number';
  return property.type === 'boolean' ? 'switch' : 'text';
}

/** What an input shows at first: a given value (of an address or a cloned run), else the schema's default. */
export function valueOf(field: FieldSpec, given: unknown): FieldValue {
  const value = given ?? field.initial;
  if (field.kind === 'choices') {
    const list = Array.isArray(value) ? value.map(String) : value === null || value === '' ? [] : [String(value)];
    return list.filter((one) => field.options.includes(one));
  }
  if (Array.isArray(value)) return value.map(String).join(', ');
  if (field.kind === 'switch') return value === true || value === 'true';
  return value === null || value === undefined ? '' : String(value);
}

/** The parameters of the API. What is left empty is left out, so that the method's own default applies. */
export function paramsOf(fields: FieldSpec[], values: Record<string, FieldValue>): Record<string, unknown> {
  const params: Record<string, unknown> = {};
  for (const field of fields) {
    const value = values[field.name];
    if (value === undefined || value === '') continue;
    if (field.kind === 'integers' || field.kind === 'numbers' || field.kind === 'texts') params[field.name] = listOf(String(value), field.kind);
    else if (field.kind === 'integer' || field.kind === 'number') {
      const number = Number(value);
      // What is not a number is sent as typed: the server's sentence about it is better than silence.
      params[field.name] = Number.isFinite(number) ? number : value;
    } else params[field.name] = value;
  }
  return params;
}

/** `0, 3, 5-7` → [0, 3, 5, 6, 7]; a part that is no number is sent as typed, for the server to name. */
function listOf(text: string, kind: 'integers' | 'numbers' | 'texts'): unknown[] {
  const parts = text.split(kind === 'texts' ? ',' : /[,;\s]+/u).map((part) => part.trim()).filter(Boolean); // prettier-ignore
  return parts.flatMap((part): unknown[] => {
    if (kind === 'texts') return [part];
    const range = kind === 'integers' ? /^(\d{1,6})(?:-|–|\.\.)(\d{1,6})$/u.exec(part) : null;
    if (range) {
      const [from, to] = [Number(range[1]), Number(range[2])];
      if (to >= from && to - from < MOST_OF_A_RANGE) return Array.from({ length: to - from + 1 }, (_, i) => from + i);
    }
    const number = Number(part);
    return [Number.isFinite(number) ? number : part];
  });
}

const MOST_OF_A_RANGE = 10_000;

/** Why a field has no effect as the form stands: `used only where What is put in is mean`; empty where it has. */
export function unusedBecause(field: FieldSpec, fields: FieldSpec[], valueOfField: (name: string) => FieldValue): string {
  const unmet = Object.entries(field.onlyIf).find(([name, wanted]) => {
    const value = valueOfField(name);
    const values = Array.isArray(value) ? value : [value];
    return !wanted.some((one) => values.map(String).includes(String(one)));
  });
  if (!unmet) return '';
  const [name, wanted] = unmet;
  const title = fields.find((one) => one.name === name)?.title ?? name;
  return `Used only where “${title}” is ${wanted.map((one) => (one === true ? 'on' : optionText(String(one)))).join(' or ')}.`;
}

const AXES = new Set(['layer', 'head', 'position', 'span', 'neuron', 'example']);

const NAMES = new Map([
  ['logit_diff', 'logit difference'],
  ['prob', 'probability'],
  ['prob_diff', 'probability difference'],
  ['log_prob', 'log probability'],
  ['kl_divergence', 'KL divergence'],
]);

/** Options in words; the field's own names (`resid_pre`) stay as they are. */
export function optionText(option: string): string {
  const parts = option.split('_');
  return NAMES.get(option) ?? (parts.every((part) => AXES.has(part)) ? parts.join(' × ') : option);
}
