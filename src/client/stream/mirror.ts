/**
 * Pages of the server held here, live.
 *
 * Invariants: whenever the program looks, all pages of a mirror are those of one epoch, `epoch`; that epoch never goes back, over any
 * number of connections, unless the server's own has (a crash without fsync); the array of a page stays the same object as long as its dtype and shape do.
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
import type { Link } from './connection.js'
import { Staging, type WholePages } from './large-snapshot.js'
import { applyChange, applySnapshot, type MirroredPage } from './mirrored-page.js'
import { Feed } from './resuming-subscription.js'

interface MirrorControl {
  /** The epoch whose state this is. */
  readonly epoch: number
  /** False while the connection is lost: then the state is that of `epoch`, but may not be the newest. */
  readonly isConnected: boolean
  /** Called after each change with what has changed; returns what ends that. */
  onChange(listener: (change: Change) => void): () => void
  /** Resolves when `epoch` is at least this; rejects with the signal's reason, or when the mirror ends. */
  until(epoch: number, options?: { readonly signal?: AbortSignal }): Promise<void>
  /** Ends the mirror; its values stay as they are. */
  close(): void
}

/** Several pages, always of one epoch. */
export interface MirrorSet extends MirrorControl {
  /** By name; pages come and go as the server's do. */
  readonly pages: ReadonlyMap<string, MirroredPage>
}

/** One page. After its deletion `values` stays as it was last, and `isDeleted` is true. */
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

export interface MirrorRooms {
  readonly link: Link
  /** Reads pages whole, where together they are too large for a message. */
  readonly readWhole: (patterns: readonly string[], signal: AbortSignal) => Promise<WholePages>
  /** Is told when the mirror has ended. */
  readonly onEnd: (close: () => void) => void
}

/** Resolves when the first snapshot is there. */
export function mirrorSetOf(
  { link, readWhole, onEnd }: MirrorRooms,
  patterns: readonly string[],
  options: MirrorOptions,
): { readonly ready: Promise<MirrorSet>; readonly close: () => void } {
  checkTexts('patterns', patterns)
  checkFields('options', options, OPTIONS)
  const { maxRate, signal } = options
  const pages = new Map<string, MirroredPage>()
  const listeners = new Set<(change: Change) => void>()
  let waiters: Waiter[] = []
  let epoch = -1
  let isConnected = false
  let end: { readonly error: unknown } | undefined
  const ended = new AbortController()
  let staging: Staging | undefined
  /** Times that pages were read whole since a change was taken. */
  let reloads = 0

  const reached = (now: number): void => {
    epoch = now
    const due = waiters.filter((waiter) => waiter.epoch <= now)
    waiters = waiters.filter((waiter) => waiter.epoch > now)
    for (const { resolve } of due) resolve()
  }
  const take = (change: Change): void => {
    if (change.type === 'snapshot') applySnapshot(pages, change.changes)
    else for (const part of change.changes) applyChange(pages, part)
    reloads = 0
    reached(change.epoch)
    for (const listener of [...listeners]) tell(listener, change)
  }
  const ripen = (now: number): void => {
    if (staging?.isRipe(now) !== true) return
    const snapshot = staging.snapshot(now)
    staging = undefined
    take(snapshot)
  }
  const feedFrom = (from: 'snapshot' | number): Feed => {
    const options = { pages: patterns, from, data: 'values', policy: 'latest' } as const
    return new Feed(link, maxRate === undefined ? options : { ...options, maxRate }, true, {
      change: (change) => {
        if (change.type === 'snapshot') staging = undefined
        if (staging === undefined) return take(change)
        staging.take(change)
        ripen(change.epoch)
      },
      progress: (now) => (staging === undefined ? reached(now) : ripen(now)),
      connected: (is) => {
        isConnected = is
      },
      failed: (error) => {
        if (error instanceof MmsbError && error.code === 'PAYLOAD_TOO_LARGE') reload().catch(finish)
        else finish(error)
      },
    })
  }
  let feed = feedFrom('snapshot')
  /** What no message can carry is read page by page, and changes go on from there. */
  const reload = async (): Promise<void> => {
    isConnected = false
    if (reloads++ > 0) await sleep(backoffMs(reloads), ended.signal)
    const whole = await readWhole(patterns, ended.signal)
    if (end !== undefined) return
    staging = new Staging(whole)
    feed = feedFrom(whole.from)
    ripen(whole.from)
    feed.start()
  }
  const finish = (error: unknown): void => {
    if (end !== undefined) return
    end = { error }
    isConnected = false
    ignoreSignal()
    onEnd(close)
    ended.abort(error)
    feed.end()
    listeners.clear()
    for (const { reject } of waiters) reject(error)
    waiters = []
  }
  const abort = (): void => finish(signal?.reason)
  const close = (): void => finish(closedError())
  const until: MirrorControl['until'] = (wanted, options = {}) =>
    new Promise((resolve, reject) => {
      const fault = isCount(wanted)
      if (fault !== undefined) throw invalidRequest(`until: ${showValue(wanted)} ${fault}`)
      checkFields('options', options, UNTIL)
      const { signal: limit } = options
      let ignoreLimit = (): void => {}
      const onLimit = (): void => {
        waiters = waiters.filter((other) => other !== waiter)
        reject(limit?.reason)
      }
      const settled =
        <A extends unknown[]>(then: (...args: A) => void) =>
        (...args: A): void => {
          ignoreLimit()
          then(...args)
        }
      const waiter: Waiter = { epoch: wanted, resolve: settled(resolve), reject: settled(reject) }
      if (limit?.aborted === true) reject(limit.reason)
      else if (epoch >= wanted) resolve()
      else if (end !== undefined) reject(end.error)
      else {
        ignoreLimit = onAbort(limit, onLimit)
        waiters.push(waiter)
      }
    })

  const set: MirrorSet = {
    get epoch() {
      return epoch
    },
    get isConnected() {
      return isConnected
    },
    pages,
    onChange: (listener) => {
      const fault = isCallable(listener)
      if (fault !== undefined) throw invalidRequest(`listener: ${showValue(listener)} ${fault}`)
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    until,
    close: () => finish(closedError('mirror')),
  }
  const ignoreSignal = onAbort(signal, abort)
  const ready = until(0).then(() => set)
  if (signal?.aborted === true) abort()
  else feed.start()
  return { ready, close }
}

/** What a listener throws is uncaught, as that of any event's listener, and nothing to do with the connection it was told over. */
function tell(listener: (change: Change) => void, change: Change): void {
  try {
    listener(change)
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
    until: (epoch, options) => set.until(epoch, options),
    close: () => set.close(),
  }
}
