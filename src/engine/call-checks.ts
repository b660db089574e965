/**
 * What the methods of a bus take: one table. The library's face (src/index.ts) checks each call against it
 * before the method runs, so that a wrong argument is an MmsbError, whatever the method does with it.
 *
 * Invariants: every method of EngineBus is in the table; the type of the table makes sure. A method that
 * returns a promise rejects it; the others throw. Options with an unknown name are refused.
 */
import { MmsbError } from '../errors.js'
import { showValue } from '../state/value.js'
import {
  type Check,
  type Checks,
  checkFields,
  checkFrame,
  isCallable,
  isFlag,
  isNumber,
  isSignal,
  isTextLists,
  isTexts,
  isWhole,
} from './arguments.js'
import type { EngineBus } from './bus.js'
import type { Admission } from './call-types.js'
import type { PastEpochsQuery, PastOptions, ReadRange } from './types.js'

type Method = {
  [name in keyof EngineBus]: EngineBus[name] extends (...args: never[]) => unknown ? name : never
}[keyof EngineBus]

/** Checks the value of one argument. @throws MmsbError INVALID_REQUEST */
type Argument = (value: unknown) => void

interface Call {
  readonly rejects: boolean
  readonly args: readonly Argument[]
}

const rejects = (...args: readonly Argument[]): Call => ({ rejects: true, args })
const throws = (...args: readonly Argument[]): Call => ({ rejects: false, args })

const one =
  (what: string, check: Check): Argument =>
  (value) => {
    const fault = value === undefined ? 'is missing' : check(value, what)
    if (fault === undefined) return
    const shown = value === undefined ? '' : `${showValue(value)} `
    throw new MmsbError('INVALID_REQUEST', `${what}: ${shown}${fault}`)
  }

const fields =
  <T>(what: string, checks: Checks<T>): Argument =>
  (value) =>
    checkFields(what, value, checks)

const optional =
  (argument: Argument): Argument =>
  (value) => {
    if (value !== undefined) argument(value)
  }

/** The method itself checks this argument completely. */
const checkedByMethod: Argument = () => {}

const name = one('name', isString)
const isEpoch = isWhole(0)
const epoch = one('epoch', isNumber)
const RANGE: Checks<ReadRange> = { offset: isNumber, count: isNumber }
const PAST: Checks<PastOptions> = { signal: isSignal, caller: isCaller, onServed: isCallable }
const past = optional(fields('options', PAST))
const isAdmission: Check = (value) => {
  const { admit, admitsPlain } = Object(value) as Partial<Admission>
  return isCallable(admit, '') ?? isCallable(admitsPlain, '')
}
const admission = optional(one('admission', isAdmission))
const visible = optional(one('visible', isPatternSet))
const SPAN = { from: isNumber, to: isNumber }

/** A method, and its arguments in order. */
const CALLS: Readonly<Record<Method, Call>> = {
  create: rejects(checkedByMethod, checkedByMethod, admission),
  derive: rejects(checkedByMethod, checkedByMethod, checkedByMethod, admission),
  createMany: rejects(checkedByMethod, admission),
  delete: rejects(name, optional(fields('options', { cascade: isFlag })), admission),
  defineFunction: rejects(checkedByMethod, checkedByMethod, admission),
  deleteFunction: rejects(name, admission),
  migrate: rejects(),
  function: throws(name),
  functions: throws(),
  functionList: throws(),
  patch: rejects(checkedByMethod, checkedByMethod, checkedByMethod),
  write: rejects(checkedByMethod, checkedByMethod, checkedByMethod),
  writeOnce: rejects(
    name,
    optional(one('key', isString)),
    one('make', isCallable),
    optional(one('origin', isObject)),
  ),
  refuseWrite: throws(name, optional(one('key', isString)), one('bytes', isWhole(0))),
  transact: rejects(checkedByMethod, admission),
  submit: rejects(checkedByMethod),
  submitAll: throws(
    one('sender', isObject),
    one('first', isWhole(0)),
    checkFrame,
    optional(one('access', isObject)),
  ),
  whatIf: rejects(checkedByMethod, past, admission),
  read: throws(name, optional(fields('options', { ...RANGE, epoch: isNumber }))),
  readAt: rejects(name, epoch, optional(fields('options', { ...RANGE, ...PAST }))),
  data: rejects(name, optional(fields('options', { ...RANGE, ...PAST, epoch: isNumber }))),
  readMany: rejects(one('names', isTexts), optional(fields('options', { ...PAST, epoch: isNumber }))),
  peekAt: rejects(name, epoch, past),
  gather: throws(one('pageId', isWhole(0)), one('ranges', isRanges)),
  page: throws(name),
  peek: throws(name),
  withDependents: throws(name),
  hasPage: throws(name),
  pageNames: throws(),
  pages: throws(
    optional(fields('options', { prefix: isString, limit: isWhole(1), cursor: isString })),
    visible,
  ),
  graph: throws(),
  graphLists: throws(visible),
  epochInfo: rejects(epoch, past),
  epochs: rejects(
    optional(fields('query', { ...SPAN, page: isString, source: isString, limit: isNumber })),
    past,
  ),
  history: rejects(name, optional(fields('query', { ...SPAN, limit: isNumber })), past),
  diff: rejects(fields('query', { ...SPAN, pages: isTexts }), past),
  pastJson: rejects(one('question', isObject), past),
  pastChanges: rejects(
    fields<PastEpochsQuery>('query', {
      after: isEpoch,
      to: isEpoch,
      pages: isTexts,
      visible: isTextLists,
      values: isFlag,
    }),
    past,
  ),
  verify: rejects(optional(fields('query', SPAN)), past),
  status: throws(),
  executionLog: throws(),
  stats: throws(),
  stageHistograms: throws(),
  onCommit: throws(one('listener', isCallable), optional(one('ahead', isCallable))),
  onFailure: throws(one('listener', isCallable)),
  between: throws(one('run', isCallable)),
  checkpoint: rejects(optional(fields('options', { onProgress: isCallable }))),
  holdHistory: throws(one('lowestNeeded', isCallable)),
  checkpoints: throws(),
  cancelCommit: throws(),
  close: rejects(optional(fields('options', { graceMs: isWhole(0) }))),
}

function isPatternSet(value: unknown): string | undefined {
  const { matches } = Object(value) as { readonly matches?: unknown }
  return typeof matches === 'function' ? undefined : 'is not a set of patterns'
}

function isObject(value: unknown): string | undefined {
  return typeof value === 'object' && value !== null ? undefined : 'is not an object'
}

function isCaller(value: unknown): string | undefined {
  return typeof value === 'string' || isObject(value) === undefined
    ? undefined
    : 'is neither an object nor a string'
}

function isString(value: unknown): string | undefined {
  return typeof value === 'string' ? undefined : 'is not a string'
}

function isRanges(value: unknown): string | undefined {
  return value instanceof Uint32Array ? undefined : 'is not a Uint32Array of offset, count, offset, ...'
}

/** Options that a method does not take would be ignored silently. Other arguments too many are not. */
function refuseOptions(method: string, extra: unknown): void {
  if (typeof extra !== 'object' || extra === null || Array.isArray(extra)) return
  throw new MmsbError('INVALID_REQUEST', `${method} takes no options: ${Object.keys(extra).join(', ')}`)
}

type AnyMethod = (...args: unknown[]) => unknown

/** Puts the checks before the methods that `face` has or inherits. */
export function checkCalls(face: EngineBus): void {
  for (const [method, { rejects, args }] of Object.entries(CALLS)) {
    const call = Reflect.get(face, method) as AnyMethod
    const checked = function (this: unknown, ...given: unknown[]): unknown {
      try {
        for (let i = 0; i < args.length; i++) (args[i] as Argument)(given[i])
        for (let i = args.length; i < given.length; i++) refuseOptions(method, given[i])
        return call.apply(this, given)
      } catch (error) {
        if (rejects) return Promise.reject(error)
        throw error
      }
    }
    // Part of every write: without a look at arguments that the method itself checks, and without a list.
    const passed = function (this: unknown, ...given: unknown[]): unknown {
      if (given.length > args.length) return checked.apply(this, given)
      try {
        return call.apply(this, given)
      } catch (error) {
        if (rejects) return Promise.reject(error)
        throw error
      }
    }
    const value = args.every((argument) => argument === checkedByMethod) ? passed : checked
    Object.defineProperty(face, method, { value, writable: true, configurable: true })
  }
}
