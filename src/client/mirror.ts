/**
 * Pages of the server held here, live.
 *
 * Invariants: whenever the program looks, all pages of a mirror are those of one epoch, `epoch`; that epoch never goes back, over any
 * number of connections, unless the server's own has (a crash without fsync); the array of a page stays the same object as long as its dtype and shape do.
 */
import { closedError, MmsbError, protocolError } from './errors.js'
import { Feed } from './feed.js'
import type { Link } from './link.js'
import type { Change, ChangedPage } from './types.js'
import { type Dtype, elementsOf, emptyArray, type TypedArray } from './values.js'

/** A page of a mirror. */
export interface MirroredPage<T extends TypedArray = TypedArray> {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Live: changes by itself. Do not write to it. */
  readonly values: T
}

interface MirrorControl {
  /** The epoch whose state this is. */
  readonly epoch: number
  /** False while the connection is lost: then the state is that of `epoch`, but may not be the newest. */
  readonly isConnected: boolean
  /** Called after each change with what has changed; returns what ends that. */
  onChange(listener: (change: Change) => void): () => void
  /** Resolves when `epoch` is at least this; rejects with the signal's reason, or when the mirror ends. */
  until(epoch: number, options?: { readonly signal?: AbortSignal }): Promise<void>
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

export interface MirrorOptions {
  readonly maxRate?: number
  readonly signal?: AbortSignal
}

interface Waiter {
  readonly epoch: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/** Resolves when the first snapshot is there. `onEnd` is told when the mirror has ended. */
export function mirrorSetOf(
  link: Link,
  patterns: readonly string[],
  { maxRate, signal }: MirrorOptions,
  onEnd: (close: () => void) => void,
): { readonly ready: Promise<MirrorSet>; readonly close: () => void } {
  const pages = new Map<string, MirroredPage>()
  const listeners = new Set<(change: Change) => void>()
  let waiters: Waiter[] = []
  let epoch = -1
  let isConnected = false
  let end: { readonly error: unknown } | undefined

  const reached = (now: number): void => {
    epoch = now
    const due = waiters.filter((waiter) => waiter.epoch <= now)
    waiters = waiters.filter((waiter) => waiter.epoch > now)
    for (const { resolve } of due) resolve()
  }
  const options = { pages: patterns, from: 'snapshot', data: 'values', policy: 'latest' } as const
  const feed = new Feed(link, maxRate === undefined ? options : { ...options, maxRate }, true, {
    change: (change) => {
      if (change.type === 'snapshot') applySnapshot(pages, change.changes)
      else for (const part of change.changes) applyChange(pages, part)
      reached(change.epoch)
      for (const listener of [...listeners]) listener(change)
    },
    progress: reached,
    connected: (is) => {
      isConnected = is
    },
    failed: (error) => finish(error),
  })
  const finish = (error: unknown): void => {
    if (end !== undefined) return
    end = { error }
    isConnected = false
    signal?.removeEventListener('abort', onAbort)
    onEnd(close)
    feed.end()
    listeners.clear()
    for (const { reject } of waiters) reject(error)
    waiters = []
  }
  const onAbort = (): void => finish(signal?.reason)
  const close = (): void => finish(closedError())
  const until: MirrorControl['until'] = (wanted, { signal: limit } = {}) =>
    new Promise((resolve, reject) => {
      const onLimit = (): void => {
        waiters = waiters.filter((other) => other !== waiter)
        reject(limit?.reason)
      }
      const settled =
        <A extends unknown[]>(then: (...args: A) => void) =>
        (...args: A): void => {
          limit?.removeEventListener('abort', onLimit)
          then(...args)
        }
      const waiter: Waiter = { epoch: wanted, resolve: settled(resolve), reject: settled(reject) }
      if (limit?.aborted === true) reject(limit.reason)
      else if (epoch >= wanted) resolve()
      else if (end !== undefined) reject(end.error)
      else {
        limit?.addEventListener('abort', onLimit, { once: true })
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
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    until,
    close,
  }
  signal?.addEventListener('abort', onAbort, { once: true })
  const ready = until(0).then(() => set)
  if (signal?.aborted === true) onAbort()
  else feed.start()
  return { ready, close }
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

function applySnapshot(pages: Map<string, MirroredPage>, changes: readonly ChangedPage[]): void {
  const names = new Set(changes.map(({ page }) => page))
  for (const name of pages.keys()) if (!names.has(name)) pages.delete(name)
  for (const change of changes) applyChange(pages, { ...change, kind: 'created' })
}

function applyChange(pages: Map<string, MirroredPage>, change: ChangedPage): void {
  const { page: name, kind, dtype, shape, ranges, values } = change
  if (kind === 'deleted') {
    pages.delete(name)
    return
  }
  let page = pages.get(name)
  if (kind === 'created' && (page === undefined || !isAlike(page, change))) {
    page = { name, dtype, shape, values: emptyArray(dtype, elementsOf(shape)) }
    pages.set(name, page)
  }
  if (page === undefined || values === undefined)
    throw protocolError(`a change of page "${name}", which is not there`)
  let from = 0
  for (const [offset, count] of ranges) {
    setPart(page.values, values, from, count, offset)
    from += count
  }
}

const isAlike = (page: MirroredPage, { dtype, shape }: ChangedPage): boolean =>
  page.dtype === dtype && page.shape.join() === shape.join()

function setPart(target: TypedArray, values: TypedArray, from: number, count: number, offset: number): void {
  // One of ten array types, the same on both sides; `set` of their union cannot be called.
  const part = values.subarray(from, from + count)
  ;(target as { set(part: TypedArray, offset: number): void }).set(part, offset)
}
