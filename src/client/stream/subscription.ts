/**
 * A subscription as an async iterator.
 *
 * Invariants: every change is yielded once, in order, whatever happens to connections; what waits for a slow reader is bounded: beyond
 * READER_QUEUE_MAX_BYTES the subscription is put aside and taken up again where it stopped; it ends with `break`, `close()`, its AbortSignal,
 * an error, or the close of the client.
 */

import { DATA_MODES, POLICIES } from '../../wire/messages.js'
import {
  type Checks,
  checkFields,
  checkTexts,
  isCount,
  isList,
  isObject,
  isOneOf,
  isRate,
  isSignal,
  isText,
} from '../arguments.js'
import { invalidRequest } from '../errors.js'
import { onAbort } from '../http/abort.js'
import { CHANGE_OVERHEAD_BYTES, READER_QUEUE_MAX_BYTES } from '../limits.js'
import type { Change, SubscribeOptions } from '../types.js'
import type { Link } from './connection.js'
import { Feed } from './resuming-subscription.js'

/** A subscription: an async iterator of changes, which reconnects by itself. */
export interface Subscription extends AsyncIterableIterator<Change> {
  /** The last epoch that is behind the reader: the last one yielded, or a later one that had nothing for it. */
  readonly epoch: number | undefined
  /**
   * Of a durable subscription: everything up to `epoch` (default: the last one yielded) is done with and need not come again.
   * Resolves when the server has that on disk.
   */
  commit(epoch?: number): Promise<void>
  /** Whether there is a connection. The subscription goes on by itself when there is one again. */
  readonly isConnected: boolean
  /** Ends the subscription and its iterator. */
  close(): void
}

interface Waiter {
  readonly resolve: (result: IteratorResult<Change>) => void
  readonly reject: (error: unknown) => void
}

export interface SubscriptionOptions {
  readonly queueMaxBytes?: number | undefined
  readonly onEnd: (close: () => void) => void
}

const DONE: IteratorResult<Change> = { done: true, value: undefined }

const OPTIONS: Checks = {
  pages: isList,
  from: (value) =>
    value === 'now' || value === 'snapshot' || isCount(value) === undefined
      ? undefined
      : "is neither 'now' nor 'snapshot' nor an epoch",
  data: isOneOf(DATA_MODES),
  policy: isOneOf(POLICIES),
  maxRate: isRate,
  slice: isObject,
  durable: isText,
  signal: isSignal,
}

/** Patterns and windows are the server's to judge. @throws MmsbError INVALID_REQUEST */
function checkOptions(options: SubscribeOptions): void {
  checkFields('options', options, OPTIONS)
  checkTexts('pages', options.pages)
  for (const [page, window] of Object.entries(options.slice ?? {})) {
    if (Array.isArray(window) && window.every(isWindowOfAxis)) continue
    throw invalidRequest(`slice.${page}: is not a list of [start, stop], one for each axis`)
  }
}

const isWindowOfAxis = (axis: unknown): boolean =>
  Array.isArray(axis) && axis.length === 2 && axis.every((bound) => isCount(bound) === undefined)

export function subscriptionOf(
  link: Link,
  options: SubscribeOptions,
  { queueMaxBytes = READER_QUEUE_MAX_BYTES, onEnd }: SubscriptionOptions,
): Subscription {
  checkOptions(options)
  const queue: { readonly change: Change; readonly bytes: number }[] = []
  const waiters: Waiter[] = []
  let queuedBytes = 0
  let epoch: number | undefined
  let isConnected = false
  let end: { readonly error: unknown } | 'done' | undefined

  const feed = new Feed(link, options, false, {
    change: (change) => {
      const waiter = waiters.shift()
      if (waiter !== undefined) {
        epoch = change.epoch
        waiter.resolve({ done: false, value: change })
        return
      }
      const bytes = bytesOf(change)
      queue.push({ change, bytes })
      queuedBytes += bytes
      if (queuedBytes > queueMaxBytes) feed.pause()
    },
    progress: (reached) => {
      if (queue.length === 0) epoch = reached
    },
    connected: (is) => {
      isConnected = is
    },
    failed: (error) => finish({ error }),
  })

  const finish = (how: typeof end): void => {
    if (end !== undefined) return
    end = how
    isConnected = false
    ignoreSignal()
    onEnd(close)
    feed.end()
    if (how === 'done') queue.length = 0
    for (const waiter of waiters.splice(0)) settle(waiter)
  }

  /** For a reader who comes after the end: the error is told once. */
  const settle = ({ resolve, reject }: Waiter): void => {
    if (end === 'done' || end === undefined) {
      resolve(DONE)
      return
    }
    const { error } = end
    end = 'done'
    reject(error)
  }

  const close = (): void => finish('done')
  const abort = (): void => {
    queue.length = 0
    finish({ error: options.signal?.reason })
  }

  const next = (): Promise<IteratorResult<Change>> => {
    const item = queue.shift()
    if (item !== undefined) {
      queuedBytes -= item.bytes
      epoch = item.change.epoch
      if (feed.isPaused && queuedBytes <= queueMaxBytes / 2) feed.resume()
      return Promise.resolve({ done: false, value: item.change })
    }
    return new Promise((resolve, reject) => {
      if (end === undefined) waiters.push({ resolve, reject })
      else settle({ resolve, reject })
    })
  }

  const ignoreSignal = onAbort(options.signal, abort)
  if (options.signal?.aborted === true) abort()
  else feed.start()
  return {
    get epoch() {
      return epoch
    },
    get isConnected() {
      return isConnected
    },
    next,
    commit: (done = epoch) => feed.commit(done),
    return: () => {
      close()
      return Promise.resolve(DONE)
    },
    close,
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

function bytesOf({ changes }: Change): number {
  let bytes = 0
  for (const { values } of changes) bytes += CHANGE_OVERHEAD_BYTES + (values?.byteLength ?? 0)
  return bytes
}
