/**
 * Subscriptions for programs that hold the bus themselves: an async iterator of changes.
 *
 * Invariants: the subscription starts when `subscribe` is called. It ends with `return()` (and so with
 * `break`), `throw()`, its signal, an error, or when the bus closes. A promise of `next` always settles. The
 * queue is bounded like that of any reader: a lossless iterator that falls behind ends with OVERLOADED, whose
 * `resumeFrom` is the last epoch that was delivered completely.
 */
/// <reference lib="esnext.disposable" preserve="true" />
import { isSignal } from '../engine/arguments.js'
import type { PageChange } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import { showValue } from '../state/value.js'
import type { Dtype, TypedArray } from '../wire/dtype.js'
import type { Connection } from './connection.js'
import { hubOf } from './hub.js'
import type { ChangeMessage, PagePart, SnapshotMessage, SnapshotPage, StreamMessage } from './messages.js'
import { checkSubscribeOptions } from './options.js'
import type { Sink, StreamBus, SubscribeOptions } from './types.js'

/** What one change message says about one page. */
export interface ChangedPage {
  readonly page: string
  /** In a snapshot `source` or `derived`. */
  readonly kind: PageChange['kind']
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Element ranges: offset, count. Absent with data `none`. */
  readonly ranges?: readonly (readonly [offset: number, count: number])[]
  /**
   * The elements of the ranges, one after another. Present with data `values`. All readers share it: do not
   * write to it.
   */
  readonly values?: TypedArray
}

/** One epoch; with `first` < `epoch`, several epochs folded into one; or the snapshot, which comes first. */
export interface Change {
  readonly type: 'change' | 'snapshot'
  readonly epoch: number
  readonly first: number
  readonly changes: readonly ChangedPage[]
}

const ID = 'iterator'
/** What a queued change costs besides its values. */
const PART_BYTES = 128

/** A subscription of the program that holds the bus. */
export interface LocalSubscribeOptions extends SubscribeOptions {
  /** Ends the subscription: the iterator rejects with the signal's reason. */
  readonly signal?: AbortSignal
}

/** The changes, as they are committed. Also an async disposable: `await using` ends the subscription. */
export interface Changes extends AsyncIterableIterator<Change>, AsyncDisposable {
  /** Ends the subscription and rejects with `error`. */
  throw(error?: unknown): Promise<IteratorResult<Change>>
  /**
   * For a durable subscription: everything up to this epoch has been processed. Resolves when
   * that is durable.
   * @throws MmsbError INVALID_REQUEST if the epoch has not been delivered
   */
  commit(epoch: number): Promise<void>
}

/**
 * @throws MmsbError INVALID_REQUEST, EPOCH_NOT_FOUND, BUS_FAILED; the iterator throws EPOCH_COMPACTED,
 *   OVERLOADED, BUS_FAILED, or the reason of its signal
 */
export function subscribe(bus: StreamBus, given: LocalSubscribeOptions): Changes {
  const { signal, options } = split(given)
  if (bus.failure !== null) throw new MmsbError('BUS_FAILED', `The bus has stopped: ${bus.failure}`)
  const sink = new IteratorSink(() => signal?.removeEventListener('abort', abort))
  const connection = hubOf(bus).connect(sink)
  sink.connection = connection
  const abort = (): void => {
    sink.abort(signal?.reason)
    connection.close()
  }
  try {
    connection.subscribe(ID, options)
  } catch (error) {
    connection.close()
    throw error
  }
  if (signal?.aborted === true) abort()
  else signal?.addEventListener('abort', abort, { once: true })
  return {
    next: () => sink.next(),
    commit: async (epoch) => {
      await connection.commit(ID, epoch)
    },
    return: () => {
      connection.close()
      return Promise.resolve(DONE)
    },
    throw: (error) => {
      connection.close()
      return Promise.reject(error)
    },
    [Symbol.asyncIterator]() {
      return this
    },
    [Symbol.asyncDispose]: async () => connection.close(),
  }
}

function split(given: LocalSubscribeOptions): { signal: AbortSignal | undefined; options: SubscribeOptions } {
  if (typeof given !== 'object' || given === null || !('signal' in given)) {
    checkSubscribeOptions(given)
    return { signal: undefined, options: given }
  }
  const { signal, ...options } = given
  checkSubscribeOptions(options)
  const fault = signal === undefined ? undefined : isSignal(signal, 'signal')
  if (fault !== undefined) throw new MmsbError('INVALID_REQUEST', `signal: ${showValue(signal)} ${fault}`)
  return { signal, options }
}

type Result = IteratorResult<Change>

interface Waiter {
  readonly resolve: (result: Result) => void
  readonly reject: (error: unknown) => void
}

const DONE: Result = { done: true, value: undefined }

class IteratorSink implements Sink {
  connection: Connection | undefined
  queuedBytes = 0
  readonly #queue: { readonly change: Change; readonly bytes: number }[] = []
  #waiters: Waiter[] = []
  /** What `next` rejects with after the queue; set once. */
  #end: { readonly error: unknown } | undefined
  #isDone = false
  readonly #onClosed: () => void

  /** `onClosed` is called once, however the subscription ends. */
  constructor(onClosed: () => void) {
    this.#onClosed = onClosed
  }

  get isCongested(): boolean {
    return this.#queue.length > 0
  }

  send(_id: string, message: StreamMessage): void {
    if (message.type === 'change') this.#push(changeOf(message), message.valueBytes, message.parts.length)
    else if (message.type === 'snapshot') this.#pushSnapshot(message)
    else {
      const error = errorOf(message)
      if (error !== undefined) this.#fail(error)
    }
  }

  closed(): void {
    this.#isDone = true
    this.#onClosed()
    this.#queue.length = 0
    this.queuedBytes = 0
    for (const { resolve } of this.#waiters) resolve(DONE)
    this.#waiters = []
  }

  next(): Promise<Result> {
    const item = this.#queue.shift()
    if (item !== undefined) {
      this.queuedBytes -= item.bytes
      if (this.#queue.length === 0) this.connection?.drained()
      return Promise.resolve({ done: false, value: item.change })
    }
    const end = this.#end
    if (end !== undefined) {
      this.#end = undefined
      this.connection?.close()
      return Promise.reject(end.error)
    }
    if (this.#isDone) return Promise.resolve(DONE)
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject })
    })
  }

  #pushSnapshot(message: SnapshotMessage): void {
    const change = message.encoded('iterator', () => ({
      type: 'snapshot' as const,
      epoch: message.epoch,
      first: message.epoch,
      changes: message.pages.map(wholePage),
    }))
    this.#push(change, message.valueBytes, message.pages.length)
  }

  #push(change: Change, valueBytes: number, partCount: number): void {
    const waiter = this.#waiters.shift()
    if (waiter !== undefined) {
      waiter.resolve({ done: false, value: change })
      return
    }
    const bytes = valueBytes + partCount * PART_BYTES
    this.#queue.push({ change, bytes })
    this.queuedBytes += bytes
  }

  /** Changes queued before the error are still delivered. */
  #fail(error: MmsbError): void {
    const waiter = this.#waiters.shift()
    if (waiter === undefined) {
      this.#end ??= { error }
      return
    }
    waiter.reject(error)
    this.connection?.close()
  }

  /** Ends now: what is queued is dropped, and one `next` rejects. */
  abort(reason: unknown): void {
    if (this.#isDone) return
    this.#queue.length = 0
    this.queuedBytes = 0
    const waiter = this.#waiters.shift()
    if (waiter === undefined) this.#end = { error: reason }
    else waiter.reject(reason)
  }
}

function changeOf(message: ChangeMessage): Change {
  return message.encoded('iterator', () => ({
    type: 'change',
    epoch: message.epoch,
    first: message.first,
    changes: message.parts.map((part) => changedPage(part, message.mode)),
  }))
}

function changedPage(part: PagePart, mode: ChangeMessage['mode']): ChangedPage {
  const { page, kind, dtype, shape, ranges } = part.change
  const head = { page, kind, dtype, shape }
  if (mode === 'none') return head
  const pairs = pairsOf(ranges)
  return mode === 'ranges' ? { ...head, ranges: pairs } : { ...head, ranges: pairs, values: part.values() }
}

const wholePage = ({ name, kind, dtype, shape, values }: SnapshotPage): ChangedPage => ({
  page: name,
  kind,
  dtype,
  shape,
  ranges: [[0, values.length]],
  values,
})

function pairsOf(ranges: Uint32Array): [number, number][] {
  const pairs: [number, number][] = []
  for (let i = 0; i < ranges.length; i += 2) pairs.push([ranges[i]!, ranges[i + 1]!])
  return pairs
}

function errorOf(message: StreamMessage): MmsbError | undefined {
  if (message.type === 'error') return message.error
  if (message.type === 'compacted') {
    return new MmsbError('EPOCH_COMPACTED', `the oldest epoch to start from is ${message.minEpoch}`, {
      minEpoch: message.minEpoch,
    })
  }
  if (message.type === 'overflow') {
    return new MmsbError(
      'OVERLOADED',
      `too slow: changes after epoch ${message.resumeFrom} were not delivered`,
      {
        resumeFrom: message.resumeFrom,
      },
    )
  }
  return undefined
}
