/**
 * A field that is null and may not be is one that was left out: said here, once, for every body and message. A required one is
 * then missing.
 *
 * Invariants: only fields that the schema names are dropped, never elements of lists or fields of open objects; what is given is
 * not changed, and shared where nothing is dropped.
 */
import type { TSchema } from 'typebox'
import { Value } from 'typebox/value'

/** What a schema says of the fields below it; undefined: nothing. */
interface Plan {
  readonly fields: ReadonlyMap<string, Field>
  readonly items: Plan | undefined
}

interface Field {
  readonly takesNull: boolean
  readonly plan: Plan | undefined
}

/** The parts of a JSON schema that lead to fields. */
interface Shape extends TSchema {
  readonly properties?: Readonly<Record<string, Shape>>
  readonly required?: readonly string[]
  readonly items?: Shape
  readonly anyOf?: readonly Shape[]
}

/** Makes what drops the fields of a value that are null and, by the schema, may not be. */
export function nullDropper(schema: TSchema): (value: unknown) => unknown {
  const plan = planOf(schema)
  return plan === undefined ? (value) => value : (value) => dropped(plan, value)
}

function planOf({ properties = {}, items, anyOf = [] }: Shape): Plan | undefined {
  const fields = new Map<string, Field>()
  for (const [name, schema] of Object.entries(properties))
    fields.set(name, { takesNull: Value.Check(schema, null), plan: planOf(schema) })
  const own = { fields, items: items === undefined ? undefined : planOf(items) }
  const plan = anyOf.reduce((sum: Plan, branch) => merged(sum, planOf(branch)), own)
  return plan.fields.size === 0 && plan.items === undefined ? undefined : plan
}

/** What either says: of a union it is not known yet which branch is meant. */
function merged(a: Plan, b: Plan | undefined): Plan {
  if (b === undefined) return a
  const fields = new Map(a.fields)
  for (const [name, field] of b.fields) {
    const { takesNull = false, plan } = fields.get(name) ?? {}
    fields.set(name, {
      takesNull: takesNull || field.takesNull,
      plan: plan === undefined ? field.plan : merged(plan, field.plan),
    })
  }
  return { fields, items: a.items === undefined ? b.items : merged(a.items, b.items) }
}

function dropped(plan: Plan, value: unknown): unknown {
  if (Array.isArray(value)) {
    const { items } = plan
    return items === undefined ? value : value.map((item: unknown) => dropped(items, item))
  }
  return typeof value === 'object' && value !== null ? droppedFields(plan, value) : value
}

function droppedFields({ fields }: Plan, value: object): object {
  let out: Record<string, unknown> | undefined
  for (const [name, field] of Object.entries(value)) {
    const known = fields.get(name)
    if (known === undefined) continue
    const isLeftOut = field === null && !known.takesNull
    const kept = isLeftOut || known.plan === undefined ? field : dropped(known.plan, field)
    if (!isLeftOut && kept === field) continue
    out ??= { ...value }
    if (isLeftOut) delete out[name]
    else out[name] = kept
  }
  return out ?? value
}

/** The schema as documents show it: what may be left out may be null. */
export function withNulls(schema: TSchema): TSchema {
  const { properties, required = [], items, anyOf } = schema as Shape
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
  if (Value.Check(schema, null)) return schema
  const isPlain = type !== undefined && !('enum' in rest || 'const' in rest)
  return isPlain ? { type: [type, 'null'].flat(), ...rest } : { anyOf: [schema, { type: 'null' }] }
}
