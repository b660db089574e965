/**
 * The subscriptions of one reader, which share one outgoing queue.
 *
 * Invariants: the queue holds at most STREAM_QUEUE_MAX_BYTES and one more message, or one snapshot and as
 * much again. A snapshot waits until the queue has drained and the budget of all queues has room, and is
 * taken between epochs.
 *
 * Null because the store has it for a reader that has not committed its snapshot yet.
 */
import { historyChanged, MmsbError, readOnly } from '../errors.js'
import { STREAM_FREE_BYTES, STREAM_QUEUE_MAX_BYTES } from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import type { StreamMessage } from './messages.js'
import type { ReaderLimits } from './reader-limits.js'
import type { DurableReaders } from './resume/durable-readers.js'
import type { Snapshots } from './snapshots.js'
import { endOf, Subscription, type SubscriptionHub, type SubscriptionOwner } from './subscription.js'
import type { TurnBudget } from './turn-budget.js'
import type { Sink, SubscribeOptions } from './types.js'

/** What a connection needs from the hub. */
export interface ConnectionHub extends SubscriptionHub {
  /** Subscriptions of all connections, and their patterns. */
  readonly held: { subscriptions: number; patterns: number }
  readonly durables: DurableReaders
  readonly gathering: TurnBudget
  readonly snapshots: Snapshots
  /** Whether a reader of these pages can resume after epoch `after`. */
  reaches(patterns: PatternSet, needsValues: boolean, after: number): boolean
}

/** What the reader of a connection may see. */
export interface Reader {
  /** Undefined: every page. */
  readonly readable: PatternSet | undefined
  /** The name under which a durable subscription of the reader is stored. */
  ownName(durable: string): string
  /** Undefined: only what limits everybody. */
  readonly readerLimits?: ReaderLimits | undefined
}

/** A subscription whose reader is behind. */
export interface LateSubscription {
  /** As its client chose it. */
  readonly id: string
  /** The first of its names and patterns. */
  readonly pages: readonly string[]
  /** Epochs that it has not been sent: it catches up, or folds them. */
  readonly lag: number
  /** Bytes that were sent on its connection, and that the reader or its network has not taken. */
  readonly queuedBytes: number
}

/** Names and patterns that are shown of one of them. */
const LATE_PATTERNS = 3

/** A reader who may see everything. */
export const ANY_READER: Reader = { readable: undefined, ownName: (durable) => durable }

export class Connection implements SubscriptionOwner {
  readonly hub: ConnectionHub
  readonly sink: Sink
  readonly #subscriptions = new Map<string, Subscription>()
  readonly #reader: Reader
  readonly limits: ReaderLimits | undefined
  readonly #onClose: () => void
  /** Subscriptions whose snapshot waits for room in the queue, oldest first. */
  #waiting: Subscription[] = []
  /** The subscription whose snapshot is being gathered, and how to give it up. */
  #taken: { readonly subscription: Subscription; readonly cancel: () => void } | undefined
  /** What the queue may hold beyond its limit: the snapshot that is in it. */
  #allowanceBytes = 0
  #isClosed = false
  #isWaitingForRoom = false
  /** Patterns of its subscriptions. */
  #patterns = 0

  constructor(hub: ConnectionHub, sink: Sink, reader: Reader, onClose: () => void) {
    this.hub = hub
    this.sink = sink
    this.#reader = reader
    this.limits = reader.readerLimits
    this.limits?.hold('connections', 1)
    this.#onClose = onClose
  }

  get readable(): PatternSet | undefined {
    return this.#reader.readable
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  hasRoom(valueBytes: number): boolean {
    const { queuedBytes } = this.sink
    if (queuedBytes < STREAM_QUEUE_MAX_BYTES) this.#allowanceBytes = 0
    // A reader that keeps up.
    if (queuedBytes + valueBytes <= STREAM_FREE_BYTES) return true
    if (queuedBytes >= STREAM_QUEUE_MAX_BYTES + this.#allowanceBytes) return false
    const { queues } = this.hub
    if (queues.hasRoom(this.sink, valueBytes)) return true
    queues.countRefusal()
    return false
  }

  /** Its subscriptions whose reader is behind. */
  late(): LateSubscription[] {
    const { queuedBytes } = this.sink
    const { epoch } = this.hub.bus
    const late: LateSubscription[] = []
    for (const { id, patterns, position } of this.#subscriptions.values()) {
      const lag = epoch - position
      if (lag === 0 && queuedBytes === 0) continue
      late.push({ id, pages: patterns.patterns.slice(0, LATE_PATTERNS), lag, queuedBytes })
    }
    return late
  }

  waitForRoom(): void {
    if (this.#isWaitingForRoom) return
    this.#isWaitingForRoom = true
    this.hub.queues.whenRoom(() => {
      this.#isWaitingForRoom = false
      this.drained()
    })
  }

  /**
   * Starts a subscription; its messages go to the sink. @throws MmsbError INVALID_REQUEST, EPOCH_NOT_FOUND,
   * OVERLOADED, QUOTA_EXCEEDED
   */
  subscribe(id: string, given: SubscribeOptions): void {
    const options =
      given.durable === undefined ? given : { ...given, durable: this.#reader.ownName(given.durable) }
    if (this.#subscriptions.has(id)) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `id: this connection already has a subscription ${JSON.stringify(id)}`,
      )
    }
    const subscription = new Subscription(this, id, options)
    const { bus } = this.hub
    const { from = 'now', durable, history } = options
    if (history !== undefined && history !== bus.historyId) throw historyChanged(bus.historyId)
    if (typeof from === 'number' && from > bus.epoch) {
      throw new MmsbError(
        'EPOCH_NOT_FOUND',
        `from: epoch ${from} does not exist yet; the newest is ${bus.epoch}`,
      )
    }
    if (durable !== undefined) this.#attach(subscription, durable, options)
    else this.#begin(subscription, from)
  }

  refuseOverLimits(patterns: number): void {
    const { bus, held } = this.hub
    const { limits } = bus
    const { values } = limits
    const own = this.#subscriptions.size
    if (own >= values.maxSubscriptionsPerConnection)
      throw limits.refusal(
        'maxSubscriptionsPerConnection',
        `this connection has ${own} subscriptions already`,
      )
    if (this.#patterns + patterns > values.maxPatternsPerConnection) {
      const detail = `the subscriptions of this connection name ${this.#patterns} pages and patterns already`
      throw limits.refusal('maxPatternsPerConnection', detail)
    }
    if (held.subscriptions >= values.maxSubscriptions)
      throw limits.refusal('maxSubscriptions', 'too many subscriptions are open already')
    if (held.patterns + patterns > values.maxPatterns)
      throw limits.refusal('maxPatterns', 'all subscriptions name too many pages and patterns already')
    this.limits?.refuseSubscription()
  }

  #add(subscription: Subscription): void {
    const { id, weight } = subscription
    if (this.#subscriptions.get(id) === subscription) return
    this.#subscriptions.set(id, subscription)
    this.#count(1, weight)
  }

  #count(subscriptions: number, patterns: number): void {
    const { held } = this.hub
    this.#patterns += patterns
    held.subscriptions += subscriptions
    this.limits?.hold('subscriptions', subscriptions)
    held.patterns += patterns
  }

  #begin(subscription: Subscription, from: 'now' | 'snapshot' | number): void {
    this.#add(subscription)
    if (typeof from === 'number') {
      if (this.#reaches(subscription, from)) subscription.resume(from)
      else this.end(subscription, { type: 'compacted', minEpoch: this.hub.bus.minEpoch })
    } else if (from === 'now') {
      subscription.start()
    } else {
      this.#waiting.push(subscription)
      this.#serveWaiting()
    }
  }

  #reaches({ patterns, needsValues }: Subscription, epoch: number): boolean {
    return this.hub.reaches(patterns, needsValues, epoch)
  }

  /** Starts at the reader's cursor. A new reader starts where it asks to, once its cursor is durable. */
  #attach(subscription: Subscription, name: string, { pages, from, history }: SubscribeOptions): void {
    const { bus, durables } = this.hub
    const { cursors } = bus
    if (bus.isReadOnly) throw readOnly()
    if (cursors === undefined) throw new MmsbError('INVALID_REQUEST', 'durable: this bus has no data folder')
    const known = cursors.get(name)
    const isForeign = known !== undefined && known.history !== bus.historyId
    if (isForeign && history === undefined) throw historyChanged(bus.historyId)
    this.#add(subscription)
    durables.attach(name, subscription)
    const cursor = isForeign ? undefined : (known?.epoch ?? undefined)
    const isGone = cursor !== undefined && !this.#reaches(subscription, cursor)
    const wanted = known === undefined ? (from ?? 'now') : (from ?? 'snapshot')
    const resumes = cursor !== undefined && (!isGone || from === undefined)
    const start = resumes ? cursor : wanted === 'now' ? bus.epoch : wanted
    const epoch = start === 'snapshot' ? null : start
    if (known !== undefined && !isForeign && known.epoch === epoch && known.pages.join() === pages.join()) {
      cursors.touch(name)
      this.#begin(subscription, start)
      return
    }
    cursors.define(name, pages, epoch).then(
      () => {
        if (this.#subscriptions.get(subscription.id) === subscription) this.#begin(subscription, start)
      },
      (error: unknown) => {
        if (this.#subscriptions.get(subscription.id) === subscription) subscription.fail(error)
      },
    )
  }

  /**
   * The reader of a durable subscription has processed everything up to this epoch. Resolves with the
   * position of its cursor, which is then durable. @throws MmsbError INVALID_REQUEST
   */
  async commit(id: string, epoch: number): Promise<number> {
    const subscription = this.#subscriptions.get(id)
    const { cursors } = this.hub.bus
    if (subscription?.durable === undefined || cursors === undefined) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `id: this connection has no durable subscription ${JSON.stringify(id)}`,
      )
    }
    if (epoch > subscription.told) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `epoch: ${epoch} has not been delivered; the last was ${Math.max(0, subscription.told)}`,
      )
    }
    return cursors.commit(subscription.durable, epoch)
  }

  /** Ends a subscription. Returns false if there is none with this id. */
  unsubscribe(id: string): boolean {
    const subscription = this.#subscriptions.get(id)
    if (subscription === undefined) return false
    this.end(subscription, { type: 'unsubscribed', epoch: subscription.position })
    return true
  }

  end(subscription: Subscription, message: StreamMessage): void {
    if (this.#subscriptions.get(subscription.id) === subscription) {
      this.#subscriptions.delete(subscription.id)
      this.#count(-1, -subscription.weight)
    }
    this.hub.durables.detach(subscription)
    this.#waiting = this.#waiting.filter((other) => other !== subscription)
    this.#untake(subscription)
    subscription.stop()
    this.sink.send(subscription.id, message)
  }

  endAll(message: StreamMessage): void {
    for (const subscription of [...this.#subscriptions.values()]) this.end(subscription, message)
  }

  /** The sink has encoded what it holds, which may be larger than it seemed. */
  grew(): void {
    if (this.#allowanceBytes > 0) this.#allowanceBytes = Math.max(this.#allowanceBytes, this.sink.queuedBytes)
  }

  /** The sink is no longer congested. */
  drained(): void {
    for (const subscription of this.#subscriptions.values()) subscription.drained()
    this.#serveWaiting()
  }

  progress(nowMs: number, epoch: number): void {
    if (this.sink.isCongested) return
    for (const subscription of this.#subscriptions.values()) subscription.progress(nowMs, epoch)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.limits?.hold('connections', -1)
    for (const subscription of this.#subscriptions.values()) {
      subscription.stop()
      this.hub.durables.detach(subscription)
    }
    this.#count(-this.#subscriptions.size, -this.#patterns)
    this.#subscriptions.clear()
    this.#waiting = []
    this.#untake()
    this.#onClose()
    this.sink.closed()
  }

  #serveWaiting(): void {
    if (this.#waiting.length === 0 || this.#taken !== undefined || this.sink.isCongested) return
    const { gathering } = this.hub
    this.hub.bus.between(() => {
      while (this.#waiting.length > 0 && this.#taken === undefined && !this.sink.isCongested) {
        if (this.hub.queues.isFull) {
          this.waitForRoom()
          return
        }
        if (gathering.isSpent) {
          gathering.nextTurn(() => this.#serveWaiting())
          return
        }
        this.#takeSnapshot(this.#waiting.shift()!)
      }
    })
  }

  /** Begins a subscription with a snapshot. If that takes time, the next one waits for it. */
  #takeSnapshot(subscription: Subscription): void {
    const cancel = this.hub.snapshots.take(subscription.view, {
      ready: () => {
        subscription.start(true)
        this.#allowanceBytes = Math.max(0, this.sink.queuedBytes)
        this.#served()
      },
      fail: (error) => this.end(subscription, endOf(error)),
    })
    if (cancel !== undefined) this.#taken = { subscription, cancel }
  }

  #served(): void {
    if (this.#taken === undefined) return
    this.#taken = undefined
    this.hub.gathering.nextTurn(() => this.#serveWaiting())
  }

  /** Forgets the snapshot that is being gathered, for this subscription or for any. */
  #untake(subscription?: Subscription): void {
    if (this.#taken === undefined) return
    if (subscription !== undefined && this.#taken.subscription !== subscription) return
    this.#taken.cancel()
    this.#served()
  }
}
