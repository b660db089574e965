/**
 * Mirrors: live copies of pages of the server.
 *
 * Invariants: whenever the program looks, all pages of a mirror belong to one epoch, `epoch`. It never goes
 * back, over any number of connections, unless the server has another history, which the mirror reports. The
 * array of a page stays the same object as long as its dtype and shape do.
 */

import type { TypedArray } from '../../wire/dtype.js'
import {
  type Checks,
  checkFields,
  checkTexts,
  isCallable,
  isCount,
  isRate,
  isSignal,
  showValue,
} from '../arguments.js'
import { closedError, invalidRequest, MmsbError } from '../errors.js'
import { onAbort } from '../http/abort.js'
import { backoffMs, sleep } from '../http/backoff.js'
import type { Change } from '../types.js'
import type { Connection, ConnectionUser } from './connection.js'
import { LargeSnapshot, type WholePages } from './large-snapshot.js'
import { applyChange, applySnapshot, type MirroredPage } from './mirrored-page.js'
import { ResumingSubscription, type SubscriptionOwner } from './resuming-subscription.js'

interface MirrorControl {
  /** The epoch that the pages belong to. */
  readonly epoch: number
  /** False while the connection is lost. The pages still belong to `epoch`, which may not be the newest. */
  readonly isConnected: boolean
  /** Calls `listener` after each change; returns a function that stops this. */
  onChange(listener: (change: Change) => void): () => void
  /**
   * Calls `listener` when the server has another history: it was restored, repaired or replaced, and the
   * mirror loads all pages again. Until then it keeps its last state; epochs start over, and every `until`
   * that waits rejects with HISTORY_CHANGED. Returns a function that stops this.
   */
  onHistoryChange(listener: (error: MmsbError) => void): () => void
  /**
   * Resolves when the mirror has reached `epoch`; rejects with the signal's reason, or when the mirror ends.
   */
  until(epoch: number, options?: { readonly signal?: AbortSignal }): Promise<void>
  /** Ends the mirror; its values stay as they are. */
  close(): void
}

/** Several pages, all of one epoch. */
export interface MirrorSet extends MirrorControl {
  /** By name. Pages come and go with those of the server. */
  readonly pages: ReadonlyMap<string, MirroredPage>
}

/** One page. After its deletion `isDeleted` is true and `values` keeps the last state. */
export interface Mirror<T extends TypedArray = TypedArray> extends MirrorControl, MirroredPage<T> {
  readonly isDeleted: boolean
}

/** Options of a mirror. */
export interface MirrorOptions {
  readonly maxRate?: number
  readonly signal?: AbortSignal
}

const OPTIONS: Checks = { maxRate: isRate, signal: isSignal }
const UNTIL: Checks = { signal: isSignal }

interface Waiter {
  readonly epoch: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export interface MirrorDeps {
  readonly connection: Connection
  /** Reads pages one by one, if together they are too large for a message. */
  readonly readWhole: (patterns: readonly string[], signal: AbortSignal) => Promise<WholePages>
  /** Called when the mirror has ended. */
  readonly onEnd: (close: () => void) => void
}

/** Starts a mirror. `ready` resolves when the first snapshot has arrived. */
export function mirrorSetOf(
  deps: MirrorDeps,
  patterns: readonly string[],
  options: MirrorOptions,
): { readonly ready: Promise<MirrorSet>; readonly close: () => void } {
  checkTexts('patterns', patterns)
  checkFields('options', options, OPTIONS)
  const state = new MirrorState(deps, patterns, options)
  const set: MirrorSet = {
    get epoch() {
      return state.epoch
    },
    get isConnected() {
      return state.isConnected
    },
    pages: state.pages,
    onChange: (listener) => state.onChange(listener),
    onHistoryChange: (listener) => state.onHistoryChange(listener),
    until: (epoch, options) => state.until(epoch, options),
    close: () => state.finish(closedError('mirror')),
  }
  const ready = state.until(0).then(() => set)
  state.start()
  return { ready, close: state.close }
}

/** The pages of a mirror and the subscription that feeds them. */
class MirrorState implements SubscriptionOwner {
  readonly pages = new Map<string, MirroredPage>()
  epoch = -1
  isConnected = false
  readonly #deps: MirrorDeps
  readonly #patterns: readonly string[]
  readonly #options: MirrorOptions
  readonly #listeners = new Set<(change: Change) => void>()
  readonly #historyListeners = new Set<(error: MmsbError) => void>()
  readonly #ended = new AbortController()
  #end: { readonly error: unknown } | undefined
  #waiters: Waiter[] = []
  #subscription: ResumingSubscription
  /** Set while pages that no message can carry are read one by one. */
  #largeSnapshot: LargeSnapshot | undefined
  /** How often pages were read one by one since the last change was applied. */
  #reloads = 0
  #ignoreSignal = (): void => {}

  constructor(deps: MirrorDeps, patterns: readonly string[], options: MirrorOptions) {
    this.#deps = deps
    this.#patterns = patterns
    this.#options = options
    this.#subscription = this.#subscribe('snapshot')
  }

  start(): void {
    const { signal } = this.#options
    const abort = (): void => this.finish(signal?.reason)
    this.#ignoreSignal = onAbort(signal, abort)
    if (signal?.aborted === true) abort()
    else this.#subscription.start()
  }

  onChange(listener: (change: Change) => void): () => void {
    const fault = isCallable(listener)
    if (fault !== undefined) throw invalidRequest(`listener: ${showValue(listener)} ${fault}`)
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  onHistoryChange(listener: (error: MmsbError) => void): () => void {
    const fault = isCallable(listener)
    if (fault !== undefined) throw invalidRequest(`listener: ${showValue(listener)} ${fault}`)
    this.#historyListeners.add(listener)
    return () => this.#historyListeners.delete(listener)
  }

  until(wanted: number, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      const fault = isCount(wanted)
      if (fault !== undefined) throw invalidRequest(`until: ${showValue(wanted)} ${fault}`)
      checkFields('options', options, UNTIL)
      const { signal } = options
      if (signal?.aborted === true) reject(signal.reason)
      else if (this.epoch >= wanted) resolve()
      else if (this.#end !== undefined) reject(this.#end.error)
      else this.#wait(wanted, signal, resolve, reject)
    })
  }

  #wait(
    epoch: number,
    signal: AbortSignal | undefined,
    resolve: () => void,
    reject: (error: unknown) => void,
  ): void {
    const ignoreSignal = onAbort(signal, () => {
      this.#waiters = this.#waiters.filter((other) => other !== waiter)
      reject(signal?.reason)
    })
    const waiter: Waiter = {
      epoch,
      resolve: () => {
        ignoreSignal()
        resolve()
      },
      reject: (error) => {
        ignoreSignal()
        reject(error)
      },
    }
    this.#waiters.push(waiter)
  }

  change(change: Change): void {
    if (change.type === 'snapshot') this.#largeSnapshot = undefined
    if (this.#largeSnapshot === undefined) {
      this.#apply(change)
      return
    }
    this.#largeSnapshot.take(change)
    this.#completeLargeSnapshot(change.epoch)
  }

  progress(epoch: number): void {
    if (this.#largeSnapshot === undefined) this.#reached(epoch)
    else this.#completeLargeSnapshot(epoch)
  }

  connected(isConnected: boolean): void {
    this.isConnected = isConnected
  }

  /** The epochs of the other history start over; whoever waits for one of the old ones would wait in vain. */
  historyChanged(error: MmsbError): void {
    this.#largeSnapshot = undefined
    if (this.epoch < 0) return
    this.epoch = 0
    const waiters = this.#waiters
    this.#waiters = []
    for (const { reject } of waiters) reject(error)
    for (const listener of [...this.#historyListeners]) call(listener, error)
  }

  failed(error: unknown): void {
    if (error instanceof MmsbError && error.code === 'PAYLOAD_TOO_LARGE') {
      this.#reload().catch((cause: unknown) => this.finish(cause))
    } else {
      this.finish(error)
    }
  }

  readonly close = (): void => this.finish(closedError())

  finish(error: unknown): void {
    if (this.#end !== undefined) return
    this.#end = { error }
    this.isConnected = false
    this.#ignoreSignal()
    this.#deps.onEnd(this.close)
    this.#ended.abort(error)
    this.#subscription.end()
    this.#listeners.clear()
    this.#historyListeners.clear()
    for (const { reject } of this.#waiters) reject(error)
    this.#waiters = []
  }

  #subscribe(from: 'snapshot' | number): ResumingSubscription {
    const { maxRate } = this.#options
    const options = { pages: this.#patterns, from, data: 'values', policy: 'latest' } as const
    const wanted = maxRate === undefined ? options : { ...options, maxRate }
    return new ResumingSubscription(this.#deps.connection, wanted, true, this)
  }

  #reached(epoch: number): void {
    this.epoch = epoch
    const due = this.#waiters.filter((waiter) => waiter.epoch <= epoch)
    this.#waiters = this.#waiters.filter((waiter) => waiter.epoch > epoch)
    for (const { resolve } of due) resolve()
  }

  #apply(change: Change): void {
    if (change.type === 'snapshot') applySnapshot(this.pages, change.changes)
    else for (const part of change.changes) applyChange(this.pages, part)
    this.#reloads = 0
    this.#reached(change.epoch)
    for (const listener of [...this.#listeners]) call(listener, change)
  }

  /**
   * No message can carry the snapshot: reads the pages one by one, and subscribes from the epoch
   * before the first.
   */
  async #reload(): Promise<void> {
    this.isConnected = false
    const { connection, readWhole } = this.#deps
    // It holds the connection for the next subscription. While it is attached, the connection looks for a
    // server that is away, and the reads wait for that.
    const keeper: ConnectionUser = {
      isListening: false,
      up: () => {},
      down: () => {},
      receive: () => {},
      fail: (error) => this.finish(error),
    }
    connection.attach(keeper)
    try {
      if (this.#reloads++ > 0) await sleep(backoffMs(this.#reloads), this.#ended.signal)
      const whole = await readWhole(this.#patterns, this.#ended.signal)
      if (this.#end !== undefined) return
      this.#largeSnapshot = new LargeSnapshot(whole)
      this.#subscription = this.#subscribe(whole.from)
      this.#completeLargeSnapshot(whole.from)
      this.#subscription.start()
    } finally {
      connection.detach(keeper)
    }
  }

  #completeLargeSnapshot(epoch: number): void {
    if (this.#largeSnapshot?.isComplete(epoch) !== true) return
    const snapshot = this.#largeSnapshot.snapshot(epoch)
    this.#largeSnapshot = undefined
    this.#apply(snapshot)
  }
}

/**
 * Calls a listener. Its errors are uncaught, as those of any event listener, and do not disturb
 * the connection.
 */
function call<T>(listener: (value: T) => void, value: T): void {
  try {
    listener(value)
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}

/** The view of one page of a set. @throws MmsbError PAGE_NOT_FOUND */
export function mirrorOf<T extends TypedArray>(set: MirrorSet, name: string): Mirror<T> {
  let last = set.pages.get(name) as MirroredPage<T> | undefined
  if (last === undefined) {
    set.close()
    throw new MmsbError({ code: 'PAGE_NOT_FOUND', status: 404, detail: `there is no page "${name}"` })
  }
  const page = (): MirroredPage<T> => {
    last = (set.pages.get(name) as MirroredPage<T> | undefined) ?? last
    return last as MirroredPage<T>
  }
  return {
    name,
    get dtype() {
      return page().dtype
    },
    get shape() {
      return page().shape
    },
    get values() {
      return page().values
    },
    get isDeleted() {
      return !set.pages.has(name)
    },
    get epoch() {
      return set.epoch
    },
    get isConnected() {
      return set.isConnected
    },
    onChange: (listener) => set.onChange(listener),
    onHistoryChange: (listener) => set.onHistoryChange(listener),
    until: (epoch, options) => set.until(epoch, options),
    close: () => set.close(),
  }
}
