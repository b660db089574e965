/**
 * A subscription as an async iterator.
 *
 * Invariants: every change is yielded once, in order, across lost connections. The queue for a slow reader is
 * bounded: beyond READER_QUEUE_MAX_BYTES the subscription pauses, and later resumes where it stopped. It ends
 * with `break`, `close()`, its AbortSignal, an error, or when the client closes.
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
import type { Connection } from './connection.js'
import { ResumingSubscription, type SubscriptionOwner } from './resuming-subscription.js'

/** A subscription: an async iterator of changes, which reconnects by itself. */
export interface Subscription extends AsyncIterableIterator<Change> {
  /**
   * The last epoch that the reader is past: the last one yielded, or a later one that changed nothing for it.
   */
  readonly epoch: number | undefined
  /**
   * For a durable subscription: everything up to `epoch` (default: the last one yielded) has been processed
   * and need not come again. Resolves when the server has this on disk.
   */
  commit(epoch?: number): Promise<void>
  /** Whether the connection is open. When it is lost, the subscription resumes by itself on the next one. */
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
  history: isText,
  signal: isSignal,
}

/** The server checks patterns and windows. @throws MmsbError INVALID_REQUEST */
function checkOptions(options: SubscribeOptions): void {
  checkFields('options', options, OPTIONS)
  checkTexts('pages', options.pages)
  for (const [page, window] of Object.entries(options.slice ?? {})) {
    if (Array.isArray(window) && window.every(isWindowOfAxis)) continue
    throw invalidRequest(`slice.${page}: must be a list of [start, stop], one for each axis`)
  }
}

const isWindowOfAxis = (axis: unknown): boolean =>
  Array.isArray(axis) && axis.length === 2 && axis.every((bound) => isCount(bound) === undefined)

/** A subscription as a program sees it. */
export function subscriptionOf(
  connection: Connection,
  options: SubscribeOptions,
  { queueMaxBytes = READER_QUEUE_MAX_BYTES, onEnd }: SubscriptionOptions,
): Subscription {
  checkOptions(options)
  const reader = new QueuedReader(connection, options, queueMaxBytes, onEnd)
  reader.start()
  return {
    get epoch() {
      return reader.epoch
    },
    get isConnected() {
      return reader.isConnected
    },
    next: () => reader.next(),
    commit: (done = reader.epoch) => reader.commit(done),
    return: () => {
      reader.close()
      return Promise.resolve(DONE)
    },
    close: reader.close,
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

/** The queue between the connection and the reader of a subscription. */
class QueuedReader implements SubscriptionOwner {
  epoch: number | undefined
  isConnected = false
  readonly #subscription: ResumingSubscription
  readonly #signal: AbortSignal | undefined
  readonly #queueMaxBytes: number
  readonly #onEnd: (close: () => void) => void
  readonly #queue: { readonly change: Change; readonly bytes: number }[] = []
  #queuedBytes = 0
  readonly #waiters: Waiter[] = []
  #ended: { readonly error: unknown } | 'done' | undefined
  #ignoreSignal = (): void => {}

  constructor(
    connection: Connection,
    options: SubscribeOptions,
    queueMaxBytes: number,
    onEnd: (close: () => void) => void,
  ) {
    this.#subscription = new ResumingSubscription(connection, options, false, this)
    this.#signal = options.signal
    this.#queueMaxBytes = queueMaxBytes
    this.#onEnd = onEnd
  }

  start(): void {
    this.#ignoreSignal = onAbort(this.#signal, this.#abort)
    if (this.#signal?.aborted === true) this.#abort()
    else this.#subscription.start()
  }

  change(change: Change): void {
    const waiter = this.#waiters.shift()
    if (waiter !== undefined) {
      this.epoch = change.epoch
      waiter.resolve({ done: false, value: change })
      return
    }
    const bytes = bytesOf(change)
    this.#queue.push({ change, bytes })
    this.#queuedBytes += bytes
    if (this.#queuedBytes > this.#queueMaxBytes) this.#subscription.pause()
  }

  progress(reached: number): void {
    if (this.#queue.length === 0) this.epoch = reached
  }

  connected(isConnected: boolean): void {
    this.isConnected = isConnected
  }

  failed(error: unknown): void {
    this.#finish({ error })
  }

  commit(epoch: number | undefined): Promise<void> {
    return this.#subscription.commit(epoch)
  }

  next(): Promise<IteratorResult<Change>> {
    const item = this.#queue.shift()
    if (item !== undefined) {
      this.#queuedBytes -= item.bytes
      this.epoch = item.change.epoch
      if (this.#subscription.isPaused && this.#queuedBytes <= this.#queueMaxBytes / 2) {
        this.#subscription.resume()
      }
      return Promise.resolve({ done: false, value: item.change })
    }
    return new Promise((resolve, reject) => {
      if (this.#ended === undefined) this.#waiters.push({ resolve, reject })
      else this.#settle({ resolve, reject })
    })
  }

  readonly close = (): void => this.#finish('done')

  readonly #abort = (): void => {
    this.#queue.length = 0
    this.#finish({ error: this.#signal?.reason })
  }

  #finish(how: { readonly error: unknown } | 'done'): void {
    if (this.#ended !== undefined) return
    this.#ended = how
    this.isConnected = false
    this.#ignoreSignal()
    this.#onEnd(this.close)
    this.#subscription.end()
    if (how === 'done') this.#queue.length = 0
    for (const waiter of this.#waiters.splice(0)) this.#settle(waiter)
  }

  /** Answers a reader after the end: the error once, then `done`. */
  #settle({ resolve, reject }: Waiter): void {
    if (this.#ended === 'done' || this.#ended === undefined) {
      resolve(DONE)
      return
    }
    const { error } = this.#ended
    this.#ended = 'done'
    reject(error)
  }
}

function bytesOf({ changes }: Change): number {
  let bytes = 0
  for (const { values } of changes) bytes += CHANGE_OVERHEAD_BYTES + (values?.byteLength ?? 0)
  return bytes
}
