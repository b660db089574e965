/**
 * Checks of the arguments that programs pass to the library: options completely, by name and value; other
 * arguments only as far as the code behind relies on their shape. JSON from the network was checked against
 * its schema before.
 *
 * Invariant: every refusal is an MmsbError that names the argument, the value and what is allowed.
 */
import { MmsbError } from '../errors.js'
import { SEGMENT_BYTES_LEAST, THREADS_MAX } from '../limits.js'
import { LIMIT_NAMES, type Limits, OPERATOR_LIMITS } from '../operator-limits.js'
import type { DeltaInput } from '../state/types.js'
import { showValue } from '../state/value.js'
import type { BusOptions, FsyncMode, TransactionInput, WhatIfInput, WriteOptions } from './types.js'

export const BACKENDS = ['auto', 'cpu', 'cuda'] as const
export const FSYNC_MODES = ['always', 'interval', 'off'] as const satisfies readonly FsyncMode[]

/**
 * Returns what is wrong with a value, phrased to follow it; undefined when it is fine. Throws for a nested
 * fault.
 */
export type Check = (value: unknown, where: string) => string | undefined
export type Checks<T> = { readonly [name in keyof Required<T>]: Check }

export const isText: Check = (value) =>
  typeof value === 'string' && value !== '' ? undefined : 'is not a non-empty string'
export const isFlag: Check = (value) => (typeof value === 'boolean' ? undefined : 'is not true or false')
export const isCallable: Check = (value) => (typeof value === 'function' ? undefined : 'is not a function')

export const isNumber: Check = (value) => (typeof value === 'number' ? undefined : 'is not a number')
export const isTexts: Check = (value) =>
  Array.isArray(value) && value.every((text) => typeof text === 'string')
    ? undefined
    : 'is not a list of names'
export const isTextLists: Check = (value) =>
  Array.isArray(value) && value.every((list) => isTexts(list, '') === undefined)
    ? undefined
    : 'is not a list of lists of names'
/** Also one of another realm. */
export const isSignal: Check = (value) =>
  Object.prototype.toString.call(value) === '[object AbortSignal]' ? undefined : 'is not an AbortSignal'

export const isOneOf =
  (choices: readonly string[]): Check =>
  (value) =>
    (choices as readonly unknown[]).includes(value) ? undefined : `is not one of ${choices.join(', ')}`

export const isWhole =
  (min: number, max = Number.MAX_SAFE_INTEGER): Check =>
  (value) =>
    Number.isSafeInteger(value) && Number(value) >= min && Number(value) <= max
      ? undefined
      : `is not a whole number from ${min} to ${max}`

const hasFields =
  <T>(checks: Checks<T>): Check =>
  (value, where) => {
    checkFields(where, value, checks, `${where}.`)
    return undefined
  }

const LIMITS = Object.fromEntries(
  LIMIT_NAMES.map((name) => [name, isWhole(OPERATOR_LIMITS[name].least, OPERATOR_LIMITS[name].most)]),
) as Checks<Limits>

const OPTIONS: Checks<BusOptions> = {
  dataDir: isText,
  readOnly: isFlag,
  untilEpoch: isWhole(0),
  backend: isOneOf(BACKENDS),
  fsync: isOneOf(FSYNC_MODES),
  memoryLimitBytes: isWhole(1),
  limits: hasFields<Limits>(LIMITS),
  threads: isWhole(1, THREADS_MAX),
  checkpoints: hasFields<NonNullable<BusOptions['checkpoints']>>({
    everyEpochs: isWhole(0),
    everyBytes: isWhole(0),
    atClose: isFlag,
  }),
  retention: hasFields<NonNullable<BusOptions['retention']>>({
    maxAgeMs: isWhole(1),
    maxBytes: isWhole(1),
    maxEpochs: isWhole(1),
  }),
  segmentBytes: isWhole(SEGMENT_BYTES_LEAST),
  durableHoldMs: isWhole(1),
  durableHoldBytes: isWhole(1),
  onNotice: isCallable,
  onProgress: isCallable,
  signal: isSignal,
}

/** @throws MmsbError INVALID_REQUEST */
export function checkBusOptions(options: BusOptions): void {
  checkFields('options', options, OPTIONS)
  const { dataDir, readOnly = false, untilEpoch } = options
  if (readOnly && dataDir === undefined) throw wrong('readOnly: there is no dataDir to read')
  if (untilEpoch !== undefined && !readOnly) throw wrong('untilEpoch: needs readOnly')
}

/** A field that is undefined counts as absent. @throws MmsbError INVALID_REQUEST */
export function checkFields<T>(what: string, given: unknown, checks: Checks<T>, prefix = ''): void {
  for (const [name, value] of Object.entries(objectOf(what, given))) {
    const check = Object.hasOwn(checks, name) ? checks[name as keyof T] : undefined
    if (check === undefined) {
      const known = Object.keys(checks).join(', ')
      throw wrong(`${prefix}${name}: there is no such field of ${what}; there are ${known}`)
    }
    const fault = value === undefined ? undefined : check(value, `${prefix}${name}`)
    if (fault !== undefined) throw wrong(`${prefix}${name}: ${showValue(value)} ${fault}`)
  }
}

const wrong = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', detail)

function objectOf(what: string, value: unknown): object {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw wrong(value === undefined ? `${what}: is missing` : `${what}: ${showValue(value)} is not an object`)
}

function textOf(what: string, value: unknown): string {
  if (typeof value === 'string') return value
  throw wrong(value === undefined ? `${what}: is missing` : `${what}: ${showValue(value)} is not a string`)
}

function listOf(what: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw wrong(value === undefined ? `${what}: is missing` : `${what}: ${showValue(value)} is not a list`)
}

const any: Check = () => undefined
const SOURCE: Readonly<Record<string, Check>> = { dtype: any, shape: any, location: any, fill: any }
const FUNCTION: Readonly<Record<string, Check>> = { params: any, expr: any }
const DERIVED: Readonly<Record<string, Check>> = { derive: any, dtype: any, shape: any, location: any }

/** Compiling the definition checks the values of the fields. @throws MmsbError INVALID_REQUEST */
export function checkDefinition(name: unknown, definition: unknown): void {
  textOf('name', name)
  const fields = objectOf('definition', definition)
  checkFields('definition', fields, 'derive' in fields ? DERIVED : SOURCE)
}

/** Pages to create together. @throws MmsbError INVALID_REQUEST */
export function checkDefinitions(pages: unknown): void {
  for (const [i, page] of listOf('pages', pages).entries()) {
    const { name, definition } = objectOf(`pages[${i}]`, page) as Record<string, unknown>
    checkDefinition(name, definition)
  }
}

/** The names that each kind of argument may have. The types make sure that none is missing. */
const namesOf = <T>(names: Record<keyof Required<T>, true>): ReadonlySet<string> =>
  new Set(Object.keys(names))
const DELTA = { offset: true, indices: true, mask: true, values: true, merge: true } as const
const DELTA_FIELDS = namesOf<DeltaInput>(DELTA)
const OP_FIELDS = namesOf<TransactionInput['ops'][number]>({ ...DELTA, page: true })
const WRITE_FIELDS = namesOf<WriteOptions>({ key: true, source: true, intent: true, expectVersion: true })
const TRANSACTION_FIELDS = namesOf<TransactionInput>({
  ops: true,
  expect: true,
  source: true,
  intent: true,
  key: true,
})
const WHAT_IF_FIELDS = namesOf<WhatIfInput>({ ops: true, read: true })

/** Part of every write, so it makes nothing. @throws MmsbError INVALID_REQUEST */
function checkNames(what: string, given: object, names: ReadonlySet<string>): void {
  for (const name in given) {
    if (names.has(name)) continue
    throw wrong(`${name}: there is no such field of ${what}; there are ${[...names].join(', ')}`)
  }
}

/**
 * The frame writer checks the delta itself. Part of every write, so it costs next to nothing. @throws
 * MmsbError INVALID_REQUEST
 */
export function checkPatch(name: unknown, delta: unknown, options: unknown): void {
  textOf('name', name)
  checkNames('delta', objectOf('delta', delta), DELTA_FIELDS)
  checkMeta(objectOf('options', options))
}

/** @throws MmsbError INVALID_REQUEST */
export function checkWrite(name: unknown, values: unknown, options: unknown): void {
  textOf('name', name)
  if (!ArrayBuffer.isView(values)) listOf('values', values)
  checkMeta(objectOf('options', options))
}

/** @throws MmsbError INVALID_REQUEST */
export function checkFrame(frame: unknown): void {
  // By its tag, because instanceof would miss one of another realm. A Buffer is one too.
  if (Object.prototype.toString.call(frame) === '[object Uint8Array]') return
  throw wrong(frame === undefined ? 'frame: is missing' : `frame: ${showValue(frame)} is not a Uint8Array`)
}

/** The parser checks the expression. @throws MmsbError INVALID_REQUEST */
export function checkFunctionBody(name: unknown, body: unknown): void {
  textOf('name', name)
  checkFields('function', body, FUNCTION)
  const { params, expr } = body as { readonly params?: unknown; readonly expr?: unknown }
  for (const [i, param] of listOf('params', params).entries()) textOf(`params[${i}]`, param)
  textOf('expr', expr)
}

/** @throws MmsbError INVALID_REQUEST */
export function checkTransaction(transaction: unknown): void {
  const given = objectOf('transaction', transaction) as Record<string, unknown>
  checkNames('transaction', given, TRANSACTION_FIELDS)
  checkOps(given.ops)
  checkMetaValues(given)
  if (given.expect === undefined) return
  for (const [i, entry] of listOf('expect', given.expect).entries()) {
    const { page, version } = objectOf(`expect[${i}]`, entry) as Record<string, unknown>
    textOf(`expect[${i}].page`, page)
    const fault = isWhole(0)(version, '')
    if (fault !== undefined) throw wrong(`expect[${i}].version: ${showValue(version)} ${fault}`)
  }
}

/** @throws MmsbError INVALID_REQUEST */
export function checkWhatIf(input: unknown): void {
  const given = objectOf('what-if', input) as Record<string, unknown>
  checkNames('what-if', given, WHAT_IF_FIELDS)
  const { ops, read } = given
  checkOps(ops)
  for (const [i, name] of listOf('read', read).entries()) textOf(`read[${i}]`, name)
}

function checkOps(ops: unknown): void {
  const list = listOf('ops', ops)
  for (let i = 0; i < list.length; i++) {
    const op = list[i]
    if (typeof op !== 'object' || op === null) throw wrong(`ops[${i}]: ${showValue(op)} is not an object`)
    const { page } = op as { readonly page?: unknown }
    if (typeof page !== 'string') throw wrong(`ops[${i}].page: ${showValue(page)} is not a string`)
    checkNames(`ops[${i}]`, op, OP_FIELDS)
  }
}

interface Meta {
  readonly key?: unknown
  readonly source?: unknown
  readonly expectVersion?: unknown
}

function checkMeta(meta: Meta): void {
  checkNames('options', meta, WRITE_FIELDS)
  checkMetaValues(meta)
}

function checkMetaValues({ key, source, expectVersion }: Meta): void {
  if (key !== undefined) textOf('key', key)
  if (source !== undefined) textOf('source', source)
  if (expectVersion === undefined) return
  const fault = isWhole(0)(expectVersion, '')
  if (fault !== undefined) throw wrong(`expectVersion: ${showValue(expectVersion)} ${fault}`)
}
