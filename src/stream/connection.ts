/**
 * The subscriptions of one reader, who has one queue.
 *
 * Invariants: the queue holds at most STREAM_QUEUE_MAX_BYTES and one message more, or one snapshot and as much again; a
 * snapshot waits until the queue has drained and is taken between epochs.
 */
import { MmsbError } from '../errors.js'
import { STREAM_QUEUE_MAX_BYTES, STREAM_SUBSCRIPTIONS_MAX } from '../limits.js'
import type { StreamHub } from './hub.js'
import type { StreamMessage } from './messages.js'
import { endOf, Subscription } from './subscription.js'
import type { Sink, SubscribeOptions } from './types.js'

/** The subscriptions of one reader, who has one queue. */
export class Connection {
  readonly hub: StreamHub
  readonly sink: Sink
  readonly #subscriptions = new Map<string, Subscription>()
  readonly #onClose: () => void
  /** Snapshots that wait for the queue to have room, oldest first. */
  #waiting: Subscription[] = []
  /** What the queue may hold beyond its bound: the snapshot in it. */
  #allowanceBytes = 0
  #isClosed = false

  constructor(hub: StreamHub, sink: Sink, onClose: () => void) {
    this.hub = hub
    this.sink = sink
    this.#onClose = onClose
  }

  get size(): number {
    return this.#subscriptions.size
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Room in the queue for one more message. */
  get hasRoom(): boolean {
    const { queuedBytes } = this.sink
    if (queuedBytes < STREAM_QUEUE_MAX_BYTES) {
      this.#allowanceBytes = 0
      return true
    }
    return queuedBytes < STREAM_QUEUE_MAX_BYTES + this.#allowanceBytes
  }

  /** Starts a subscription; what it leads to is told through the sink. @throws MmsbError INVALID_REQUEST, EPOCH_NOT_FOUND */
  subscribe(id: string, options: SubscribeOptions): void {
    if (this.#subscriptions.has(id)) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `id: this connection has a subscription ${JSON.stringify(id)} already`,
      )
    }
    if (this.#subscriptions.size >= STREAM_SUBSCRIPTIONS_MAX) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `a connection has at most ${STREAM_SUBSCRIPTIONS_MAX} subscriptions`,
      )
    }
    const subscription = new Subscription(this, id, options)
    const { bus } = this.hub
    const { from = 'now' } = options
    if (typeof from === 'number' && from > bus.epoch) {
      throw new MmsbError(
        'EPOCH_NOT_FOUND',
        `from: epoch ${from} is not there yet, the newest is ${bus.epoch}`,
      )
    }
    if (typeof from === 'number') {
      this.#resume(subscription, from)
      return
    }
    this.#subscriptions.set(id, subscription)
    if (from !== 'snapshot') {
      subscription.start()
      return
    }
    this.#waiting.push(subscription)
    this.#serveWaiting()
  }

  #resume(subscription: Subscription, from: number): void {
    const { hub, sink } = this
    if (!hub.reaches(subscription.patterns, subscription.needsValues, from)) {
      sink.send(subscription.id, { type: 'compacted', minEpoch: hub.bus.minEpoch })
      return
    }
    this.#subscriptions.set(subscription.id, subscription)
    subscription.resume(from)
  }

  /** Ends a subscription. False when there is none of this id. */
  unsubscribe(id: string): boolean {
    const subscription = this.#subscriptions.get(id)
    if (subscription === undefined) return false
    this.end(subscription, { type: 'unsubscribed', epoch: subscription.position })
    return true
  }

  /** Ends a subscription with a last message. */
  end(subscription: Subscription, message: StreamMessage): void {
    this.#subscriptions.delete(subscription.id)
    this.#waiting = this.#waiting.filter((other) => other !== subscription)
    subscription.stop()
    this.sink.send(subscription.id, message)
  }

  endAll(message: StreamMessage): void {
    for (const subscription of [...this.#subscriptions.values()]) this.end(subscription, message)
  }

  /** The sink is no longer congested. */
  drained(): void {
    if (this.#isClosed) return
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
    for (const subscription of this.#subscriptions.values()) subscription.stop()
    this.#subscriptions.clear()
    this.#waiting = []
    this.#onClose()
    this.sink.closed()
  }

  #serveWaiting(): void {
    if (this.#waiting.length === 0 || this.sink.isCongested) return
    this.hub.bus.between(() => {
      while (this.#waiting.length > 0 && !this.sink.isCongested) {
        const subscription = this.#waiting.shift()!
        this.#startWithSnapshot(subscription)
      }
    })
  }

  #startWithSnapshot(subscription: Subscription): void {
    try {
      const snapshot = subscription.start(true)
      if (snapshot !== undefined) this.#allowanceBytes = Math.max(0, this.sink.queuedBytes)
    } catch (error) {
      this.end(subscription, endOf(error))
    }
  }
}
