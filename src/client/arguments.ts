/**
 * Checks the arguments that programs hand to the client: names and types of fields. The server checks what
 * depends on its state.
 *
 * Invariant: a bad argument throws an MmsbError that names the argument, shows the value and says what is
 * allowed: INVALID_DELTA for `values`, INVALID_REQUEST for everything else.
 */

import { DTYPE_INFO, DTYPES, type Dtype } from '../wire/dtype.js'
import { invalidDelta, invalidRequest, MmsbError } from './errors.js'

/** Returns what is wrong with a value, as a phrase that follows it; undefined if nothing is. */
export type Check = (value: unknown) => string | undefined
export type Checks = Readonly<Record<string, Check>>

const SHOWN_CHARACTERS = 40

/** A value as messages show it: short, strings in quotes, objects by their class. */
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

/** The class of an array, of any realm: by its tag, since `instanceof` misses arrays of another realm. */
export const arrayNameOf = (values: ArrayBufferView): string =>
  (values as { [Symbol.toStringTag]?: string })[Symbol.toStringTag] ?? 'DataView'

/** The dtypes whose pages take this kind of array; empty for a DataView. */
export function dtypesOf(values: ArrayBufferView): Dtype[] {
  const name = arrayNameOf(values)
  return DTYPES.filter((dtype) => DTYPE_INFO[dtype].arrayName === name)
}

const missingOr = (what: string, value: unknown, fault: string): MmsbError =>
  invalidRequest(value === undefined ? `${what}: is missing` : `${what}: ${showValue(value)} ${fault}`)

export const isAny: Check = () => undefined
export const isText: Check = (value) => (typeof value === 'string' ? undefined : 'is not a string')
export const isFlag: Check = (value) => (typeof value === 'boolean' ? undefined : 'is not true or false')
export const isCallable: Check = (value) => (typeof value === 'function' ? undefined : 'is not a function')
export const isList: Check = (value) => (Array.isArray(value) ? undefined : 'is not a list')
export const isObject: Check = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? undefined : 'is not an object'
export const isInteger: Check = (value) => (Number.isSafeInteger(value) ? undefined : 'is not a safe integer')
export const isCount: Check = (value) =>
  Number.isSafeInteger(value) && Number(value) >= 0 ? undefined : 'is not an integer of at least 0'
export const isRate: Check = (value) =>
  typeof value === 'number' && value > 0 && value < Number.POSITIVE_INFINITY
    ? undefined
    : 'is not a number above 0'
/** Infinity is allowed. */
export const isAtLeastZero: Check = (value) =>
  typeof value === 'number' && value >= 0 ? undefined : 'is not a number of at least 0'
export const isOneOf =
  (choices: readonly string[]): Check =>
  (value) =>
    (choices as readonly unknown[]).includes(value) ? undefined : `is not one of ${choices.join(', ')}`

export const isSignal: Check = (value) => {
  const { aborted, addEventListener } = (value ?? {}) as Partial<AbortSignal>
  const isOne = typeof aborted === 'boolean' && typeof addEventListener === 'function'
  return isOne ? undefined : 'is not an AbortSignal'
}

/** @throws MmsbError INVALID_REQUEST */
export function textOf(what: string, value: unknown): string {
  if (typeof value === 'string') return value
  throw missingOr(what, value, 'is not a string')
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

/**
 * Checks a name of a page, function or durable subscription, as far as a path can carry it. The server
 * checks the rest.
 * @throws MmsbError INVALID_REQUEST
 */
export function checkName(name: unknown, what = 'name'): void {
  const text = textOf(what, name)
  if (/^$|^\.\.?$|[,\p{Cs}]/u.test(text)) {
    throw invalidRequest(
      `${what}: ${showValue(text)} is not a name: use letters, digits, _ . : and -, beginning with a letter, a digit or _`,
    )
  }
}

/** Checks fields by name. A field that is undefined counts as absent. @throws MmsbError INVALID_REQUEST */
export function checkFields(what: string, given: unknown, checks: Checks, prefix = ''): void {
  for (const [name, value] of Object.entries(objectOf(what, given))) {
    const check = Object.hasOwn(checks, name) ? checks[name] : undefined
    if (check === undefined) {
      const known = Object.keys(checks).join(', ')
      throw invalidRequest(`${prefix}${name}: ${what} has no such field; it has ${known}`)
    }
    const fault = value === undefined ? undefined : check(value)
    if (fault !== undefined) throw invalidRequest(`${prefix}${name}: ${showValue(value)} ${fault}`)
  }
}

/**
 * Allows lists and typed arrays of a dtype. Elements of lists are checked when they are encoded. @throws
 * MmsbError INVALID_DELTA
 */
export function checkValues(values: unknown, where = 'values'): void {
  if (Array.isArray(values)) return
  if (ArrayBuffer.isView(values) && dtypesOf(values).length > 0) return
  throw invalidDelta(
    values === undefined
      ? `${where}: is missing`
      : `${where}: ${showValue(values)} is neither a list nor a typed array of a dtype`,
  )
}

/** Options of every call over HTTP. */
export const CALL: Checks = { signal: isSignal, timeoutMs: isAtLeastZero }
export const WRITE: Checks = { ...CALL, key: isText, expectVersion: isCount }
export const READ: Checks = { ...CALL, epoch: isInteger }
export const RANGE: Checks = { from: isInteger, to: isInteger }

const DELTA: Checks = {
  offset: isInteger,
  indices: (value) =>
    Array.isArray(value) || (ArrayBuffer.isView(value) && dtypesOf(value).length > 0)
      ? undefined
      : 'is neither a list nor a typed array of integers',
  mask: (value) =>
    typeof value === 'string' || (ArrayBuffer.isView(value) && dtypesOf(value).includes('u8'))
      ? undefined
      : 'is neither base64 nor a Uint8Array',
  values: isAny,
  merge: isText,
}
const OCTETS: Checks = { offset: isInteger, octets: isAny, merge: isText }
const OP: Checks = { page: isAny, ...DELTA }

/**
 * Checks a delta, except bounds and elements of `values`. @throws MmsbError INVALID_DELTA, INVALID_REQUEST
 */
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
    throw invalidRequest(`${prefix}indices[${i}]: ${showValue(list[i])} is not an integer`)
  }
}

/** Checks all but the bytes, which octetsOf checks. @throws MmsbError INVALID_REQUEST */
export const checkOctets = (delta: unknown): void => checkFields('delta', delta, OCTETS)

/** Page names as one query parameter. @throws MmsbError INVALID_REQUEST */
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

/** What a header carries unchanged: printable Latin-1 without blanks at the ends. */
const HEADER_TEXT = /^[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?$/

/** An idempotency key that is sent in a header. @throws MmsbError INVALID_REQUEST */
export function checkHeaderKey(key: unknown): void {
  checkKey(key)
  if (key === undefined || HEADER_TEXT.test(key as string)) return
  throw invalidRequest(
    `key: ${showValue(key)} cannot be sent in a header; transactions take any text, other calls printable Latin-1`,
  )
}

/**
 * The JSON text of a value from a program. Bigints, functions and non-finite numbers have no form in JSON;
 * JSON.stringify would drop some of them silently. @throws MmsbError INVALID_REQUEST
 */
export function jsonOf(what: string, value: unknown): string {
  const replacer = (name: string, part: unknown): unknown => {
    if (part === undefined && name !== '') return part
    const isJson = typeof part === 'number' ? Number.isFinite(part) : JSON_KINDS.includes(typeof part)
    if (isJson) return part
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
