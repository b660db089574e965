/**
 * What programs hand to the client, looked at before it is used. Kinds and names of fields are held against what there is; what only
 * the server can know of values is left to it.
 *
 * Invariant: whatever is handed in, what leaves is an MmsbError that says which argument, what came and what is allowed: INVALID_DELTA
 * for `values`, INVALID_REQUEST for the rest.
 */

import { dtypesOf } from './codec/values.js'
import { invalidDelta, invalidRequest, MmsbError } from './errors.js'

/** What is wrong with a value, said after it; undefined: nothing. */
export type Check = (value: unknown) => string | undefined
export type Checks = Readonly<Record<string, Check>>

const SHOWN_CHARACTERS = 40

/** A value as messages show it: short, texts in quotes, objects by their kind. */
export function showValue(value: unknown): string {
  if (typeof value === 'string') {
    return JSON.stringify(value.length > SHOWN_CHARACTERS ? `${value.slice(0, SHOWN_CHARACTERS)}...` : value)
  }
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return 'a list'
  if (typeof value !== 'object' || value === null) return Object.is(value, -0) ? '-0' : String(value)
  const kind = Object.prototype.toString.call(value).slice('[object '.length, -1)
  return kind === 'Object' ? 'an object' : `an object of kind ${kind}`
}

const missingOr = (what: string, value: unknown, fault: string): MmsbError =>
  invalidRequest(value === undefined ? `${what}: is missing` : `${what}: ${showValue(value)} ${fault}`)

export const isAny: Check = () => undefined
export const isText: Check = (value) => (typeof value === 'string' ? undefined : 'is not a text')
export const isFlag: Check = (value) => (typeof value === 'boolean' ? undefined : 'is not true or false')
export const isCallable: Check = (value) => (typeof value === 'function' ? undefined : 'is not a function')
export const isList: Check = (value) => (Array.isArray(value) ? undefined : 'is not a list')
export const isObject: Check = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? undefined : 'is not an object'
export const isInteger: Check = (value) =>
  Number.isSafeInteger(value) ? undefined : 'is not a whole number that is exact'
export const isCount: Check = (value) =>
  Number.isSafeInteger(value) && Number(value) >= 0 ? undefined : 'is not a whole number of at least 0'
export const isRate: Check = (value) =>
  typeof value === 'number' && value > 0 && value < Number.POSITIVE_INFINITY
    ? undefined
    : 'is not a number above 0'
/** Infinity is one. */
export const isAtLeastZero: Check = (value) =>
  typeof value === 'number' && value >= 0 ? undefined : 'is not a number of at least 0'
export const isOneOf =
  (choices: readonly string[]): Check =>
  (value) =>
    (choices as readonly unknown[]).includes(value) ? undefined : `is none of ${choices.join(', ')}`

export const isSignal: Check = (value) => {
  const { aborted, addEventListener } = (value ?? {}) as Partial<AbortSignal>
  const isOne = typeof aborted === 'boolean' && typeof addEventListener === 'function'
  return isOne ? undefined : 'is not an AbortSignal'
}

/** @throws MmsbError INVALID_REQUEST */
export function textOf(what: string, value: unknown): string {
  if (typeof value === 'string') return value
  throw missingOr(what, value, 'is not a text')
}

/** @throws MmsbError INVALID_REQUEST */
export function listOf(what: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw missingOr(what, value, 'is not a list')
}

/** @throws MmsbError INVALID_REQUEST */
export function objectOf(what: string, value: unknown): Readonly<Record<string, unknown>> {
  if (isObject(value) === undefined) return value as Readonly<Record<string, unknown>>
  throw missingOr(what, value, 'is not an object')
}

/** @throws MmsbError INVALID_REQUEST */
export function checkTexts(what: string, value: unknown): void {
  for (const [i, text] of listOf(what, value).entries()) textOf(`${what}[${i}]`, text)
}

/** Names of pages, functions and durable subscriptions. The rest of their rule is the server's. @throws MmsbError INVALID_REQUEST */
export function checkName(name: unknown, what = 'name'): void {
  const text = textOf(what, name)
  if (/^$|^\.\.?$|[,\p{Cs}]/u.test(text)) {
    throw invalidRequest(
      `${what}: ${showValue(text)} is not a name: letters, digits, _ . : and -, the first of them a letter, a digit or _`,
    )
  }
}

/** Fields that are undefined were not given. @throws MmsbError INVALID_REQUEST */
export function checkFields(what: string, given: unknown, checks: Checks, prefix = ''): void {
  for (const [name, value] of Object.entries(objectOf(what, given))) {
    const check = Object.hasOwn(checks, name) ? checks[name] : undefined
    if (check === undefined) {
      const known = Object.keys(checks).join(', ')
      throw invalidRequest(`${prefix}${name}: there is no such field of ${what}; there are ${known}`)
    }
    const fault = value === undefined ? undefined : check(value)
    if (fault !== undefined) throw invalidRequest(`${prefix}${name}: ${showValue(value)} ${fault}`)
  }
}

/** Typed arrays of a dtype, and lists. What is in a list is looked at where it is written. @throws MmsbError INVALID_DELTA */
export function checkValues(values: unknown, where = 'values'): void {
  if (Array.isArray(values)) return
  if (ArrayBuffer.isView(values) && dtypesOf(values).length > 0) return
  throw invalidDelta(
    values === undefined
      ? `${where}: is missing`
      : `${where}: ${showValue(values)} is neither a list nor a typed array of a dtype`,
  )
}

/** What every call over HTTP takes. */
export const CALL: Checks = { signal: isSignal, timeoutMs: isAtLeastZero }
export const WRITE: Checks = { ...CALL, key: isText, expectVersion: isCount }
export const READ: Checks = { ...CALL, epoch: isInteger }
export const RANGE: Checks = { from: isInteger, to: isInteger }

const DELTA: Checks = {
  offset: isInteger,
  indices: (value) =>
    Array.isArray(value) || (ArrayBuffer.isView(value) && dtypesOf(value).length > 0)
      ? undefined
      : 'is neither a list nor a typed array of whole numbers',
  mask: (value) =>
    typeof value === 'string' || (ArrayBuffer.isView(value) && dtypesOf(value).includes('u8'))
      ? undefined
      : 'is neither base64 nor a Uint8Array',
  values: isAny,
  merge: isText,
}
const OCTETS: Checks = { offset: isInteger, octets: isAny, merge: isText }
const OP: Checks = { page: isAny, ...DELTA }

/** One change, but for bounds and elements of `values`. @throws MmsbError INVALID_DELTA, INVALID_REQUEST */
export function checkDelta(delta: unknown): void {
  checkFields('delta', delta, DELTA)
  checkParts(delta as Readonly<Record<string, unknown>>, '')
}

function checkParts({ values, indices }: Readonly<Record<string, unknown>>, prefix: string): void {
  checkValues(values, `${prefix}values`)
  if (indices === undefined) return
  const list = indices as ArrayLike<unknown>
  for (let i = 0; i < list.length; i++) {
    if (Number.isSafeInteger(list[i])) continue
    throw invalidRequest(`${prefix}indices[${i}]: ${showValue(list[i])} is not a whole number`)
  }
}

/** The bytes themselves are looked at where they are taken. @throws MmsbError INVALID_REQUEST */
export const checkOctets = (delta: unknown): void => checkFields('delta', delta, OCTETS)

/** Pages asked for together, in one parameter of a query. @throws MmsbError INVALID_REQUEST */
export function namesText(what: string, names: unknown): string {
  const list = listOf(what, names)
  for (const [i, name] of list.entries()) checkName(name, `${what}[${i}]`)
  return list.join(',')
}

/** @throws MmsbError INVALID_DELTA, INVALID_REQUEST */
export function checkOps(ops: unknown): void {
  for (const [i, op] of listOf('ops', ops).entries()) {
    const prefix = `ops[${i}].`
    checkFields(`ops[${i}]`, op, OP, prefix)
    const fields = op as Readonly<Record<string, unknown>>
    checkName(fields.page, `${prefix}page`)
    checkParts(fields, prefix)
  }
}

const TRANSACTION: Checks = { ops: isAny, expect: isList, source: isText, intent: isAny }
const EXPECTATION: Checks = { page: isAny, version: isCount }

/** @throws MmsbError INVALID_DELTA, INVALID_REQUEST */
export function checkTransaction(transaction: unknown): void {
  checkFields('transaction', transaction, TRANSACTION)
  const { ops, expect = [] } = transaction as Readonly<Record<string, unknown>>
  checkOps(ops)
  for (const [i, entry] of listOf('expect', expect).entries()) {
    checkFields(`expect[${i}]`, entry, EXPECTATION, `expect[${i}].`)
    const { page, version } = entry as Readonly<Record<string, unknown>>
    checkName(page, `expect[${i}].page`)
    if (version === undefined) throw invalidRequest(`expect[${i}].version: is missing`)
  }
}

/** An idempotency key. @throws MmsbError INVALID_REQUEST */
export function checkKey(key: unknown): void {
  if (key !== undefined && textOf('key', key) === '') throw invalidRequest('key: is empty')
}

/** What a header carries as it is: blanks at the ends would be cut off, and the rest has no bytes there. */
const HEADER_TEXT = /^[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?$/

/** An idempotency key that goes into a header. @throws MmsbError INVALID_REQUEST */
export function checkHeaderKey(key: unknown): void {
  checkKey(key)
  if (key === undefined || HEADER_TEXT.test(key as string)) return
  throw invalidRequest(
    `key: ${showValue(key)} holds what a header cannot carry; a transaction takes any text, the rest printable Latin-1`,
  )
}

/**
 * The JSON text of what a program handed in; JSON has no word for bigints, functions and numbers that are not finite, and would leave
 * some of them out without a sound. @throws MmsbError INVALID_REQUEST
 */
export function jsonOf(what: string, value: unknown): string {
  const replacer = (name: string, part: unknown): unknown => {
    if (part === undefined && name !== '') return part
    const isFine = typeof part === 'number' ? Number.isFinite(part) : JSON_KINDS.includes(typeof part)
    if (isFine) return part
    throw invalidRequest(`${name === '' ? what : `${what}: ${name}`}: ${showValue(part)} has no form in JSON`)
  }
  try {
    return JSON.stringify(value, replacer)
  } catch (error) {
    if (error instanceof MmsbError) throw error
    throw invalidRequest(`${what}: has no form in JSON: ${firstLineOf(error)}`)
  }
}

const JSON_KINDS: readonly string[] = ['string', 'boolean', 'object']

const firstLineOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n', 1)[0]!
