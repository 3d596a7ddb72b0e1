/**
 * A method's JSON schema as form fields, and form values as the parameters the API takes. Kinds: a choice (`enum`),
 * several choices (an array of `enum`), whole and decimal numbers, switches and texts; `X or null` may be left empty.
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
  anyOf?: JsonProperty[];
  $ref?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  advanced?: boolean;
}

export type FieldKind = 'choice' | 'choices' | 'integer' | 'number' | 'switch' | 'text';

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
    optional: property.optional,
    advanced: property.advanced === true || name === 'seed',
    minimum: property.minimum ?? null,
    maximum: property.maximum ?? null,
    initial: property.default ?? null,
  };
}

function kindOf(property: JsonProperty): FieldKind {
  if (property.type === 'array' && property.items?.enum) return 'choices';
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
  if (field.kind === 'switch') return value === true || value === 'true';
  return value === null || value === undefined ? '' : String(value);
}

/** The parameters of the API. What is left empty is left out, so that the method's own default applies. */
export function paramsOf(fields: FieldSpec[], values: Record<string, FieldValue>): Record<string, unknown> {
  const params: Record<string, unknown> = {};
  for (const field of fields) {
    const value = values[field.name];
    if (value === undefined || value === '') continue;
    if (field.kind === 'integer' || field.kind === 'number') {
      const number = Number(value);
      // What is not a number is sent as typed: the server's sentence about it is better than silence.
      params[field.name] = Number.isFinite(number) ? number : value;
    } else params[field.name] = value;
  }
  return params;
}

const NAMES = new Map([
  ['layer_position', 'layer × position'],
  ['layer_head', 'layer × head'],
  ['logit_diff', 'logit difference'],
  ['prob', 'probability'],
  ['prob_diff', 'probability difference'],
  ['log_prob', 'log probability'],
  ['kl_divergence', 'KL divergence'],
]);

/** Options in words; the field's own names (`resid_pre`) stay as they are. */
export function optionText(option: string): string {
  return NAMES.get(option) ?? option;
}
