/**
 * One subscription: what was delivered, what is folded, and when the next message may be sent.
 *
 * Invariants: epochs ascend and none is delivered twice. A lossless subscription delivers every epoch that
 * changes its view, or ends. A `latest` one may fold epochs, and sends what it folded as soon as the reader
 * and the rate allow.
 */
import type { PageShape } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import { STREAM_CATCH_UP_QUEUE_BYTES, STREAM_CHANGE_MAX_BYTES, STREAM_RATE_MAX_HZ } from '../limits.js'
import { intersect, type PatternSet, patternSet } from '../state/pattern.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../wire/limits.js'
import { Conflation } from './conflation.js'
import type { ChangeMessage, Gather, StreamMessage } from './messages.js'
import type { StreamQueues } from './queues.js'
import type { ReaderLimits } from './reader-limits.js'
import { CatchUp, type CatchUpDeps } from './resume/catch-up.js'
import type { NamedSubscription } from './resume/durable-readers.js'
import type { Sink, StreamBus, SubscribeOptions } from './types.js'
import type { SharedView, Subscriber, View } from './views/shared-view.js'
import { checkViewports, cutPart, viewportsOf } from './views/viewport.js'

/** What a subscription needs from the hub. */
export interface SubscriptionHub extends CatchUpDeps {
  readonly bus: StreamBus
  readonly counters: { delivered: number; conflated: number; overflows: number }
  /** The page as it is, or undefined. */
  peek(name: string): PageShape | undefined
  /** The shared view equal to `view`, now with this subscriber. */
  enter(view: View, subscriber: Subscriber): SharedView
  readonly queues: StreamQueues
  leave(view: SharedView, subscriber: Subscriber): void
}

/** What a subscription needs from its connection. */
export interface SubscriptionOwner {
  readonly hub: SubscriptionHub
  readonly sink: Sink
  /** Whether a message with so many bytes of values can be queued. */
  hasRoom(valueBytes: number): boolean
  /** What limits the reader alone. */
  readonly limits: ReaderLimits | undefined
  /** The pages that the reader may see; undefined: all. */
  readonly readable: PatternSet | undefined
  /** Throws OVERLOADED or QUOTA_EXCEEDED when one more subscription with so many patterns is too many. */
  refuseOverLimits(patterns: number): void
  /** Calls `drained` of its subscriptions, and serves snapshots, once the budget of all queues has room. */
  waitForRoom(): void
  /** Ends the subscription with a last message. */
  end(subscription: Subscription, message: StreamMessage): void
}

/** One subscription of one connection. */
export class Subscription implements Subscriber, NamedSubscription {
  readonly id: string
  /** The name that a durable subscription reads under. */
  readonly durable: string | undefined
  /** Its patterns and windows, as the limits of patterns count them. */
  readonly weight: number
  /** The last epoch that a message to it named; -1 before the first. */
  told = -1
  /** The last epoch that changed something for it; -1 before the first. */
  toldOfChange = -1
  readonly #connection: SubscriptionOwner
  readonly #view: View
  readonly #isLatest: boolean
  readonly #periodMs: number
  #shared: SharedView | undefined
  /** Once live: the last epoch that was delivered, or that was covered before. */
  #cursor = 0
  #lastSentMs = 0
  #notBeforeMs = 0
  #folded: Conflation | undefined
  /** Set while it catches up from an old epoch to the present. */
  #catchUp: CatchUp | undefined
  #cancelTimer: (() => void) | undefined

  /** @throws MmsbError INVALID_REQUEST, SHAPE_MISMATCH, OVERLOADED, QUOTA_EXCEEDED */
  constructor(connection: SubscriptionOwner, id: string, options: SubscribeOptions) {
    const { pages, data = 'values', policy, maxRate, durable } = options
    if (maxRate !== undefined && !(maxRate > 0 && maxRate <= STREAM_RATE_MAX_HZ)) {
      throw new MmsbError('INVALID_REQUEST', `maxRate: ${maxRate} is not in (0, ${STREAM_RATE_MAX_HZ}]`)
    }
    if (maxRate !== undefined && policy === 'lossless') {
      throw new MmsbError(
        'INVALID_REQUEST',
        'maxRate: a rate folds epochs together, which policy "lossless" forbids; use "latest"',
      )
    }
    this.id = id
    this.durable = durable
    this.#connection = connection
    const wanted = patternSet(pages)
    const patterns = connection.readable === undefined ? wanted : intersect(wanted, connection.readable)
    const viewports = viewportsOf(options.slice, patterns)
    this.weight = patterns.patterns.length + viewports.weight
    connection.refuseOverLimits(this.weight)
    checkViewports(options.slice, viewports, (page) => connection.hub.peek(page))
    this.#view = { patterns, viewports, mode: data }
    this.#isLatest = policy === 'latest' || maxRate !== undefined
    this.#periodMs = maxRate === undefined ? 0 : 1000 / maxRate
  }

  /** Goes live, after a snapshot if one is wanted: `Snapshots` must have made it, and no epoch since. */
  start(withSnapshot = false): void {
    const { hub, sink } = this.#connection
    this.#shared = hub.enter(this.#view, this)
    const snapshot = withSnapshot ? this.#shared.snapshotOf(hub.bus.epoch) : undefined
    if (withSnapshot && snapshot === undefined)
      throw new MmsbError('INTERNAL', 'A subscription began without its snapshot.')
    this.#lastSentMs = hub.clock.nowMs()
    this.#cursor = hub.bus.epoch
    this.told = hub.bus.epoch
    if (withSnapshot) this.toldOfChange = hub.bus.epoch
    sink.send(this.id, { type: 'subscribed', epoch: hub.bus.epoch, history: hub.bus.historyId })
    if (snapshot !== undefined) sink.send(this.id, snapshot)
  }

  /** Resumes after an old epoch: first the epochs it missed, as fast as it takes them, then live. */
  resume(after: number): void {
    const { hub, sink } = this.#connection
    const view = hub.enter(this.#view, this)
    this.#shared = view
    this.#lastSentMs = hub.clock.nowMs()
    this.told = after
    sink.send(this.id, { type: 'subscribed', epoch: after, history: hub.bus.historyId })
    this.#catchUp = new CatchUp(
      hub,
      { view, after, needsValues: this.needsValues, limits: this.#connection.limits },
      {
        hasRoom: () => this.#isLatest || this.#hasRoomToCatchUp,
        take: (message) => this.#takeMissed(message),
        live: () => this.#goLive(),
        fail: (error) => this.fail(error),
      },
    )
    this.#catchUp.pump()
  }

  get patterns(): PatternSet {
    return this.#view.patterns
  }

  get view(): View {
    return this.#view
  }

  /**
   * Whether missed epochs need their values. A `latest` subscription gets the values of the epoch at which
   * it caught up.
   */
  get needsValues(): boolean {
    return this.#view.mode === 'values' && !this.#isLatest
  }

  /** The epoch to resume from, once everything sent so far has arrived. */
  get position(): number {
    if (this.#folded !== undefined) return this.#folded.first - 1
    return this.#catchUp?.at ?? this.#connection.hub.bus.epoch
  }

  get #hasRoomToCatchUp(): boolean {
    const { hub, sink } = this.#connection
    if (sink.queuedBytes >= STREAM_CATCH_UP_QUEUE_BYTES) return false
    if (!hub.queues.isFull) return true
    this.#connection.waitForRoom()
    return false
  }

  #takeMissed(message: ChangeMessage): void {
    try {
      if (this.#isLatest) this.#fold(message)
      else this.#send(message, this.#connection.hub.clock.nowMs())
    } catch (error) {
      this.fail(error)
    }
  }

  #goLive(): void {
    this.#cursor = this.#connection.hub.recent.last
    this.#catchUp = undefined
    this.flushSoon()
  }

  stop(): void {
    this.#catchUp?.stop()
    this.#catchUp = undefined
    this.#cancelTimer?.()
    this.#cancelTimer = undefined
    this.#folded = undefined
    if (this.#shared !== undefined) this.#connection.hub.leave(this.#shared, this)
    this.#shared = undefined
  }

  /** The message will probably be offered soon: encodes it now. */
  prepare(message: ChangeMessage): void {
    if (this.#isLatest || this.#catchUp !== undefined || message.valueBytes > STREAM_CHANGE_MAX_BYTES) return
    this.#connection.sink.prepare?.(this.id, message)
  }

  /** Takes the change of the epoch that was just committed; called within the commit. */
  offer(message: ChangeMessage, nowMs: number): void {
    if (message.epoch <= this.#cursor || this.#catchUp !== undefined) return
    this.#cursor = message.epoch
    try {
      if (this.#isLatest) this.#offerLatest(message, nowMs)
      else this.#offerLossless(message, nowMs)
    } catch (error) {
      this.fail(error)
    }
  }

  /** Ends with an error. */
  fail(error: unknown): void {
    this.#connection.end(this, endOf(error))
  }

  /** The sink has drained: sends what waited for room. */
  drained(): void {
    if (this.#catchUp === undefined) this.flushSoon()
    else this.#catchUp.pump()
  }

  /** Sends what was folded. While the rate does not allow it, a timer waits to do so. */
  flushSoon(): void {
    if (this.#folded === undefined || this.#cancelTimer !== undefined) return
    this.#connection.hub.bus.between(() => this.#flush())
  }

  progress(nowMs: number, epoch: number): void {
    if (this.#shared === undefined || this.#folded !== undefined) return
    if (nowMs - this.#lastSentMs < STREAM_PROGRESS_INTERVAL_MS / 2) return
    this.#lastSentMs = nowMs
    this.told = this.#catchUp?.at ?? epoch
    this.#connection.sink.send(this.id, { type: 'progress', epoch: this.told })
  }

  #offerLossless(message: ChangeMessage, nowMs: number): void {
    if (!this.#connection.hasRoom(message.valueBytes)) {
      this.#connection.hub.counters.overflows++
      this.#connection.end(this, { type: 'overflow', resumeFrom: message.epoch - 1 })
      return
    }
    this.#send(message, nowMs)
  }

  #offerLatest(message: ChangeMessage, nowMs: number): void {
    const mustWait =
      this.#folded !== undefined || nowMs < this.#notBeforeMs || this.#connection.sink.isCongested
    const hasRoom = mustWait || this.#connection.hasRoom(message.valueBytes)
    if (!mustWait && hasRoom) {
      this.#send(message, nowMs)
      return
    }
    this.#fold(message)
    if (nowMs < this.#notBeforeMs) this.#flushAfter(this.#notBeforeMs - nowMs)
    else if (!hasRoom) this.#connection.waitForRoom()
  }

  #fold(message: ChangeMessage): void {
    this.#folded ??= new Conflation(message.epoch)
    this.#folded.add(
      message.epoch,
      message.parts.map((part) => part.uncut),
    )
    this.#connection.hub.counters.conflated++
  }

  #send(message: ChangeMessage, nowMs: number): void {
    if (message.valueBytes > STREAM_CHANGE_MAX_BYTES) {
      throw new MmsbError(
        'PAYLOAD_TOO_LARGE',
        `epoch ${message.epoch} changed ${message.valueBytes} bytes, more than the ${STREAM_CHANGE_MAX_BYTES} that a message may carry; subscribe with data "ranges" and read over HTTP`,
      )
    }
    this.#lastSentMs = nowMs
    this.#notBeforeMs = nowMs + this.#periodMs
    this.#connection.hub.counters.delivered++
    this.told = message.epoch
    this.toldOfChange = message.epoch
    this.#connection.sink.send(this.id, message)
  }

  #flushAfter(delayMs: number): void {
    this.#cancelTimer ??= this.#connection.hub.clock.after(delayMs, () => {
      this.#cancelTimer = undefined
      this.#connection.hub.bus.between(() => this.#flush())
    })
  }

  #flush(): void {
    const folded = this.#folded
    if (folded === undefined || this.#connection.sink.isCongested) return
    const { bus, clock } = this.#connection.hub
    if (bus.failure !== null) return
    if (this.#connection.hub.queues.isFull) {
      this.#connection.waitForRoom()
      return
    }
    this.#folded = undefined
    try {
      const gather: Gather = (pageId, ranges) => bus.gather(pageId, ranges)
      const message = folded.finish(this.#view.mode, gather, (part) => cutPart(part, this.#view.viewports))
      if (message !== undefined) this.#send(message, clock.nowMs())
    } catch (error) {
      this.fail(error)
    }
  }
}

/** The last message of a subscription that ends with an error. */
export function endOf(error: unknown): StreamMessage {
  const known = asMmsbError(error)
  const minEpoch = known.extra?.minEpoch
  if (known.code === 'EPOCH_COMPACTED' && typeof minEpoch === 'number') return { type: 'compacted', minEpoch }
  return { type: 'error', error: known }
}

const asMmsbError = (error: unknown): MmsbError =>
  error instanceof MmsbError
    ? error
    : new MmsbError('INTERNAL', 'the change could not be sent', undefined, { cause: error })
