/**
 * Treats a null in an optional field as if the field were absent, in every body and message. A required field
 * that is null is missing.
 *
 * Invariants: only fields that the schema names are dropped, never elements of lists or fields of open
 * objects. The given value is not changed; parts in which nothing is dropped are shared with it.
 *
 * Null because JSON has it.
 */
import { Check, type TSchema } from '../typebox.js'

/** Where below a schema nulls are dropped; undefined for a schema without fields. */
interface NullRules {
  readonly fields: ReadonlyMap<string, Field>
  readonly items: NullRules | undefined
}

interface Field {
  readonly takesNull: boolean
  readonly rules: NullRules | undefined
}

/** The parts of a JSON schema that lead to fields. */
interface FieldSchema extends TSchema {
  readonly properties?: Readonly<Record<string, FieldSchema>>
  readonly required?: readonly string[]
  readonly items?: FieldSchema
  readonly anyOf?: readonly FieldSchema[]
}

/** Returns a function that drops the fields of a value that are null where the schema does not allow null. */
export function nullDropper(schema: TSchema): (value: unknown) => unknown {
  const rules = rulesOf(schema)
  return rules === undefined ? (value) => value : (value) => withoutNulls(rules, value)
}

function rulesOf({ properties = {}, items, anyOf = [] }: FieldSchema): NullRules | undefined {
  const fields = new Map<string, Field>()
  for (const [name, schema] of Object.entries(properties))
    fields.set(name, { takesNull: Check(schema, null), rules: rulesOf(schema) })
  const own = { fields, items: items === undefined ? undefined : rulesOf(items) }
  const rules = anyOf.reduce((sum: NullRules, branch) => merged(sum, rulesOf(branch)), own)
  return rules.fields.size === 0 && rules.items === undefined ? undefined : rules
}

/** The rules of both: which branch of a union a value belongs to is not known yet. */
function merged(a: NullRules, b: NullRules | undefined): NullRules {
  if (b === undefined) return a
  const fields = new Map(a.fields)
  for (const [name, field] of b.fields) {
    const { takesNull = false, rules } = fields.get(name) ?? {}
    fields.set(name, {
      takesNull: takesNull || field.takesNull,
      rules: rules === undefined ? field.rules : merged(rules, field.rules),
    })
  }
  return { fields, items: a.items === undefined ? b.items : merged(a.items, b.items) }
}

function withoutNulls(rules: NullRules, value: unknown): unknown {
  if (Array.isArray(value)) {
    const { items } = rules
    return items === undefined ? value : value.map((item: unknown) => withoutNulls(items, item))
  }
  return typeof value === 'object' && value !== null ? withoutNullFields(rules, value) : value
}

function withoutNullFields({ fields }: NullRules, value: object): object {
  let out: Record<string, unknown> | undefined
  for (const [name, field] of Object.entries(value)) {
    const known = fields.get(name)
    if (known === undefined) continue
    const isLeftOut = field === null && !known.takesNull
    const kept = isLeftOut || known.rules === undefined ? field : withoutNulls(known.rules, field)
    if (!isLeftOut && kept === field) continue
    out ??= { ...value }
    if (isLeftOut) delete out[name]
    else out[name] = kept
  }
  return out ?? value
}

/** The schema for documents: an optional field may also be null. */
export function withNulls(schema: TSchema): TSchema {
  const { properties, required = [], items, anyOf } = schema as FieldSchema
  const fields = Object.entries(properties ?? {}).map(([name, field]) => {
    const inner = withNulls(field)
    return [name, required.includes(name) ? inner : orNull(inner)]
  })
  return {
    ...schema,
    ...(properties === undefined ? {} : { properties: Object.fromEntries(fields) }),
    ...(items === undefined || Array.isArray(items) ? {} : { items: withNulls(items) }),
    ...(anyOf === undefined ? {} : { anyOf: anyOf.map(withNulls) }),
  }
}

function orNull(schema: TSchema): TSchema {
  const { type, ...rest } = schema as { readonly type?: string | readonly string[] }
  if (Check(schema, null)) return schema
  const isPlain = type !== undefined && !('enum' in rest || 'const' in rest)
  return isPlain ? { type: [type, 'null'].flat(), ...rest } : { anyOf: [schema, { type: 'null' }] }
}
