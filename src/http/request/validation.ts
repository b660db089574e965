/**
 * Checks requests and messages against the schemas, compiled once at start.
 *
 * Invariants: nothing is defaulted or coerced in a body, and nothing removed but the nulls of optional-nulls.ts; path and query string,
 * being text, are turned into the numbers and booleans its schema names, and only when the text is exactly one. A failure names
 * the field.
 */
import type { FastifySchemaCompiler } from 'fastify'
import type { TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import { MmsbError } from '../../errors.js'
import { nullDropper } from './optional-nulls.js'

interface SchemaError {
  readonly keyword: string
  readonly schemaPath: string
  readonly instancePath: string
  readonly message: string
  readonly params: unknown
}

/** A compiled check: returns the value when it fits, else throws INVALID_REQUEST naming the field. `where` leads the detail. */
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
  const compiled = Compile(schema)
  const dropNulls = nullDropper(schema)
  return (given) => {
    if (compiled.Check(given)) return { value: given }
    const value = dropNulls(given)
    if (value !== given && compiled.Check(value)) return { value }
    return { error: refusal(compiled.Errors(value), value, where) }
  }
}

/** The framework hands over null where there is no body. */
const isMissing = (body: unknown): boolean => body === undefined || body === null

const missingBody = (what: string): MmsbError => new MmsbError('INVALID_REQUEST', `body: ${what}`)

/** A body chosen by content-type is not checked where there is no content. @throws MmsbError INVALID_REQUEST */
export function presentBody(body: unknown): unknown {
  if (isMissing(body)) throw missingBody('is missing')
  return body
}

const isBinary = (schema: object): boolean => 'format' in schema && schema.format === 'binary'

const INTEGER_TEXT = /^(0|-?[1-9]\d*)$/
const DECIMAL_TEXT = /^-?(0|[1-9]\d*)(\.\d+)?$/

type Query = Record<string, unknown>

/** What text stands for, by the type in the schema; undefined where it stands for nothing. */
const PARSERS: Readonly<Record<string, (text: string) => unknown>> = {
  integer: (text) => (INTEGER_TEXT.test(text) ? numberOf(text) : undefined),
  number: (text) => (DECIMAL_TEXT.test(text) ? numberOf(text) : undefined),
  boolean: (text) => (text === 'true' ? true : text === 'false' ? false : undefined),
}

/** Of more digits than a double holds the nearest one: nothing is counted that far. */
const numberOf = (text: string): number =>
  Math.max(-Number.MAX_VALUE, Math.min(Number(text), Number.MAX_VALUE))

/** Turns the text of number and boolean fields into such; text that is not exactly one stays, and then fails the check. */
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

/** Fields whose numbers are held against the page: one that overflows a double is refused as any other too large for it. */
const OF_THE_PAGE = /\/(fill|offset|(values|indices)\/\d+)$/

/** What is wrong with a value that does not fit its schema. */
function refusal(errors: readonly SchemaError[], value: unknown, where: string): MmsbError {
  const error = mostTelling(errors)
  if (error === undefined) return new MmsbError('INVALID_REQUEST', `${where} does not fit its schema`)
  const field = `${where}${error.instancePath.replaceAll('/', '.')}`
  const found = OF_THE_PAGE.test(error.instancePath) ? valueAt(value, error.instancePath) : undefined
  // JSON.parse makes infinities of numbers beyond a double; JSON has no others.
  if (found === Number.POSITIVE_INFINITY || found === Number.NEGATIVE_INFINITY) {
    const hint = 'infinities are the strings "Infinity" and "-Infinity"'
    return new MmsbError('INVALID_DELTA', `${field}: the number is out of range of every dtype; ${hint}`)
  }
  const sentences = new Set(alternatives(error, errors).map(sentenceOf))
  return new MmsbError('INVALID_REQUEST', `${field}: ${[...sentences].join('; or ')}`)
}

/** Where a field may be one thing or another, the failures of all: none was meant more than the others. */
function alternatives(error: SchemaError, all: readonly SchemaError[]): readonly SchemaError[] {
  const union = unionOf(error)
  if (union === undefined) return [error]
  return all.filter((other) => unionOf(other) === union && other.instancePath === error.instancePath)
}

/** The union of which this is a branch, and one that has no parts; not the whole body's, of which one branch was chosen. */
function unionOf({ keyword, schemaPath }: SchemaError): string | undefined {
  if (keyword === 'required' || keyword === 'additionalProperties') return undefined
  return /^(#.+)\/anyOf\/\d+$/.exec(schemaPath)?.[1]
}

const valueAt = (value: unknown, path: string): unknown =>
  path
    .split('/')
    .slice(1)
    .reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], value)

/**
 * The failure that tells most. In a union every branch fails in its own way; the one with the fewest failures is the one the
 * caller meant. Of several failures the deepest tells most.
 */
function mostTelling(errors: readonly SchemaError[]): SchemaError | undefined {
  const telling = meantBranch(errors.filter((e) => e.keyword !== 'anyOf' && e.keyword !== 'boolean'))
  let best = telling[0] ?? errors[0]
  for (const error of telling) if (best === undefined || depthOf(error) > depthOf(best)) best = error
  return best
}

const depthOf = (error: SchemaError): number => error.instancePath.split('/').length

function meantBranch(errors: readonly SchemaError[]): readonly SchemaError[] {
  const branches = new Map<string | undefined, SchemaError[]>()
  for (const error of errors) {
    const branch = /^#\/anyOf\/\d+/.exec(error.schemaPath)?.[0]
    branches.set(branch, [...(branches.get(branch) ?? []), error])
  }
  const [first, ...others] = branches.values()
  return others.reduce((best, branch) => (branch.length < best.length ? branch : best), first ?? [])
}

function sentenceOf({ keyword, params, message }: SchemaError): string {
  const list = (key: string): string => {
    const value = (params as Record<string, unknown>)[key]
    return Array.isArray(value) ? value.map((v) => JSON.stringify(v)).join(', ') : ''
  }
  if (keyword === 'additionalProperties') return `unknown field ${list('additionalProperties')}`
  if (keyword === 'required') return `missing ${list('requiredProperties')}`
  if (keyword === 'enum') return `must be one of ${list('allowedValues')}`
  return message
}
