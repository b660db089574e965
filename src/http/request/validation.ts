/**
 * Checks requests and messages against the schemas. Each is compiled when it is first needed: compiling all
 * of them was a good part of a start.
 *
 * Invariants: a body gets no defaults and no conversions, and loses nothing but the nulls of
 * optional-nulls.ts. A value that fits is walked once; of one that does not, only the first faults are looked
 * for (faults.ts). Path and query string are text: values that are exactly a number or a boolean are
 * converted where the schema asks for one. An error names the field.
 */
import type { FastifySchemaCompiler } from 'fastify'
import { MmsbError } from '../../errors.js'
import { Compile, type TSchema } from '../typebox.js'
import { faultFinder, type SchemaFault } from './faults.js'
import { nullDropper } from './optional-nulls.js'

/**
 * A compiled check: returns the value if it fits, else throws INVALID_REQUEST naming the field. The detail
 * begins with `where`.
 */
export function compileCheck<T>(schema: TSchema, where: string): (value: unknown) => T {
  const check = compiledCheck(schema, where)
  return (value) => {
    const checked = check(value)
    if ('error' in checked) throw checked.error
    return checked.value as T
  }
}

/** Fastify's validator compiler over the same checks. */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  if (isBinary(schema) || httpPart === 'headers') return () => true
  const where = httpPart === 'querystring' ? 'query' : httpPart === 'params' ? 'path' : 'body'
  const coerce = httpPart === 'querystring' || httpPart === 'params' ? coercerOf(schema) : undefined
  const check = compiledCheck(schema, where)
  if (coerce !== undefined) return (value: unknown) => check(coerce(value as Record<string, unknown>))
  return (value: unknown) =>
    where === 'body' && isMissing(value)
      ? { error: missingBody('is missing, or null; must be object') }
      : check(value)
}

type Checked = { readonly value: unknown } | { readonly error: MmsbError }

function compiledCheck(schema: TSchema, where: string): (value: unknown) => Checked {
  let compiled: ReturnType<typeof Compile> | undefined
  let dropNulls: ReturnType<typeof nullDropper> | undefined
  let faultsOf: ReturnType<typeof faultFinder> | undefined
  return (given) => {
    compiled ??= Compile(schema)
    if (compiled.Check(given)) return { value: given }
    dropNulls ??= nullDropper(schema)
    const value = dropNulls(given)
    if (value !== given && compiled.Check(value)) return { value }
    faultsOf ??= faultFinder(schema)
    return { error: refusal(faultsOf(value), value, where) }
  }
}

/** The framework passes null for a body that is absent. */
const isMissing = (body: unknown): boolean => body === undefined || body === null

const missingBody = (what: string): MmsbError => new MmsbError('INVALID_REQUEST', `body: ${what}`)

/**
 * The framework does not check an absent body where the schema depends on the content type. @throws MmsbError
 * INVALID_REQUEST
 */
export function presentBody(body: unknown): unknown {
  if (isMissing(body)) throw missingBody('is missing')
  return body
}

const isBinary = (schema: object): boolean => 'format' in schema && schema.format === 'binary'

const INTEGER_TEXT = /^(0|-?[1-9]\d*)$/
const DECIMAL_TEXT = /^-?(0|[1-9]\d*)(\.\d+)?$/

type Query = Record<string, unknown>

/** The value of a text, by the type in the schema; undefined if it has none. */
const PARSERS: Readonly<Record<string, (text: string) => unknown>> = {
  integer: (text) => (INTEGER_TEXT.test(text) ? numberOf(text) : undefined),
  number: (text) => (DECIMAL_TEXT.test(text) ? numberOf(text) : undefined),
  boolean: (text) => (text === 'true' ? true : text === 'false' ? false : undefined),
}

/** The nearest double: no limit of the API is larger than what a double holds exactly. */
const numberOf = (text: string): number =>
  Math.max(-Number.MAX_VALUE, Math.min(Number(text), Number.MAX_VALUE))

/**
 * Converts the text of number and boolean fields. Text that is not exactly a value stays text and then fails
 * the check.
 */
function coercerOf(schema: object): (query: Query) => Query {
  const properties = 'properties' in schema ? (schema.properties as Record<string, { type?: string }>) : {}
  const typed = Object.entries(properties).flatMap(([field, { type = '' }]) => {
    const parse = PARSERS[type]
    return parse === undefined ? [] : [[field, parse] as const]
  })
  return (query) => {
    let out = query
    for (const [field, parse] of typed) {
      const text = query[field]
      if (typeof text !== 'string') continue
      const value = parse(text)
      if (value === undefined) continue
      if (out === query) out = { ...query }
      out[field] = value
    }
    return out
  }
}

/**
 * Fields whose numbers are checked against the page: one that overflows a double is refused like any other
 * that is too large.
 */
const PAGE_NUMBERS = /\/(fill|offset|(values|indices)\/\d+)$/

/** Names come from the client and may be of any length. */
const shown = (name: string): string => (name.length > 200 ? `${name.slice(0, 200)}...` : name)

/** The error for a value that does not fit its schema. */
function refusal(errors: readonly SchemaFault[], value: unknown, where: string): MmsbError {
  const error = mostTelling(errors)
  if (error === undefined) return new MmsbError('INVALID_REQUEST', `${where} does not fit its schema`)
  const field = shown(`${where}${error.instancePath.replaceAll('/', '.')}`)
  const found = PAGE_NUMBERS.test(error.instancePath) ? valueAt(value, error.instancePath) : undefined
  // JSON has no infinities: JSON.parse makes them of numbers too large for a double.
  if (found === Number.POSITIVE_INFINITY || found === Number.NEGATIVE_INFINITY) {
    const hint = 'infinities are the strings "Infinity" and "-Infinity"'
    return new MmsbError('INVALID_DELTA', `${field}: the number is out of range of every dtype; ${hint}`)
  }
  const sentences = new Set(alternatives(error, errors).map(sentenceOf))
  return new MmsbError('INVALID_REQUEST', `${field}: ${[...sentences].join('; or ')}`)
}

/** For a field with several allowed kinds, the failures of all kinds: any of them may have been meant. */
function alternatives(error: SchemaFault, all: readonly SchemaFault[]): readonly SchemaFault[] {
  const union = unionOf(error)
  if (union === undefined) return [error]
  return all.filter((other) => unionOf(other) === union && other.instancePath === error.instancePath)
}

/**
 * The schema path of the union this failure is a branch of. Not for the whole body: there, one branch has
 * been chosen already.
 */
function unionOf({ keyword, schemaPath }: SchemaFault): string | undefined {
  if (keyword === 'required' || keyword === 'additionalProperties') return undefined
  return /^(#.+)\/anyOf\/\d+$/.exec(schemaPath)?.[1]
}

const valueAt = (value: unknown, path: string): unknown =>
  path
    .split('/')
    .slice(1)
    .reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], value)

/**
 * The failure that explains most. In a union every branch fails in its own way; the caller probably meant the
 * branch with the fewest failures. Of several failures the deepest explains most.
 */
function mostTelling(errors: readonly SchemaFault[]): SchemaFault | undefined {
  const telling = meantBranch(errors.filter((e) => e.keyword !== 'anyOf' && e.keyword !== 'boolean'))
  let best = telling[0] ?? errors[0]
  for (const error of telling) if (best === undefined || depthOf(error) > depthOf(best)) best = error
  return best
}

const depthOf = (error: SchemaFault): number => error.instancePath.split('/').length

function meantBranch(errors: readonly SchemaFault[]): readonly SchemaFault[] {
  const branches = new Map<string | undefined, SchemaFault[]>()
  for (const error of errors) {
    const branch = /^#\/anyOf\/\d+/.exec(error.schemaPath)?.[0]
    branches.set(branch, [...(branches.get(branch) ?? []), error])
  }
  const [first, ...others] = branches.values()
  return others.reduce((best, branch) => (branch.length < best.length ? branch : best), first ?? [])
}

function sentenceOf({ keyword, params, message }: SchemaFault): string {
  const list = (key: string): string => {
    const value = (params as Record<string, unknown>)[key]
    return Array.isArray(value) ? value.map((v) => shown(JSON.stringify(v))).join(', ') : ''
  }
  if (keyword === 'additionalProperties') return `unknown field ${list('additionalProperties')}`
  if (keyword === 'required') return `missing ${list('requiredProperties')}`
  if (keyword === 'enum') return `must be one of ${list('allowedValues')}`
  return message
}
