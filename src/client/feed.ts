/**
 * One subscription as its owner sees it: begun once, kept up over any number of connections, each epoch told once.
 *
 * How it works: the cursor is the last epoch received. A new connection subscribes again `from` the cursor; so does a feed that
 * was put aside because its owner was slow, or that the server ended with `overflow`.
 *
 * Invariants: epochs ascend and none comes twice; nothing is left out: where the server cannot go on from the cursor, the
 * feed fails with EPOCH_COMPACTED or, if it may (`canRestart`), begins anew with a snapshot.
 */
import { MmsbError } from './errors.js'
import type { Link, LinkUser } from './link.js'
import type { Message } from './message.js'
import type { Change, SubscribeOptions } from './types.js'

export interface FeedOwner {
  /** The next change, or a snapshot. */
  change(change: Change): void
  /** There is nothing for this owner up to and with this epoch. */
  progress(epoch: number): void
  /** The connection is lost, or is there again. */
  connected(isConnected: boolean): void
  /** The last call: the feed has ended. */
  failed(error: unknown): void
}

/** Refusals that time cures. */
const PASSING: ReadonlySet<string> = new Set(['OVERLOADED', 'BUS_FAILED'])
/** What says that the server has nothing to go on from. */
const LOST_START: ReadonlySet<string> = new Set(['EPOCH_COMPACTED', 'EPOCH_NOT_FOUND'])

export class Feed implements LinkUser {
  readonly #link: Link
  readonly #options: SubscribeOptions
  readonly #canRestart: boolean
  readonly #owner: FeedOwner
  /** Of the subscription that is running, if one is. */
  #id: string | undefined
  #cursor: number | undefined
  #isPaused = false
  #isOver = false

  constructor(link: Link, options: SubscribeOptions, canRestart: boolean, owner: FeedOwner) {
    this.#link = link
    this.#options = options
    this.#canRestart = canRestart
    this.#owner = owner
    if (typeof options.from === 'number') this.#cursor = options.from
  }

  start(): void {
    this.#link.attach(this)
  }

  get isListening(): boolean {
    return this.#id !== undefined
  }

  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Takes no more until `resume`, which goes on where this stopped. */
  pause(): void {
    if (this.#isPaused || this.#isOver) return
    this.#isPaused = true
    this.#leave()
  }

  resume(): void {
    if (!this.#isPaused || this.#isOver) return
    this.#isPaused = false
    if (this.#link.isUp) this.#subscribe()
  }

  end(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#leave()
    this.#link.detach(this)
  }

  up(): void {
    if (!this.#isPaused) this.#subscribe()
    this.#owner.connected(true)
  }

  down(): void {
    if (this.#id !== undefined) this.#link.forget(this.#id)
    this.#id = undefined
    this.#owner.connected(false)
  }

  fail(error: unknown): void {
    if (this.#isOver) return
    this.end()
    this.#owner.failed(error)
  }

  receive(message: Message): void {
    if (!('id' in message) || message.id !== this.#id || this.#isOver) return
    switch (message.type) {
      case 'subscribed':
        // Whoever starts at an epoch or with a snapshot has not seen this one yet.
        if (this.#cursor === undefined && this.#options.from !== 'snapshot') this.#cursor = message.epoch
        return
      case 'change':
        this.#onChange(message.change)
        return
      case 'progress':
        if (this.#cursor === undefined || message.epoch < this.#cursor) return
        this.#cursor = message.epoch
        this.#owner.progress(message.epoch)
        return
      case 'compacted':
        this.#onLostStart(compacted(message.minEpoch))
        return
      case 'overflow':
        this.#left()
        this.#subscribe()
        return
      case 'error':
        this.#onError(message.error)
        return
      case 'unsubscribed':
        this.#left()
        this.#subscribe()
    }
  }

  #onChange(change: Change): void {
    if (change.type === 'change' && this.#cursor !== undefined && change.epoch <= this.#cursor) return
    this.#cursor = change.epoch
    this.#owner.change(change)
  }

  #onError(error: MmsbError): void {
    if (PASSING.has(error.code)) this.#link.renew()
    else if (LOST_START.has(error.code)) this.#onLostStart(error)
    else this.fail(error)
  }

  #onLostStart(error: MmsbError): void {
    this.#left()
    if (!this.#canRestart) {
      this.fail(error)
      return
    }
    this.#cursor = undefined
    this.#subscribe()
  }

  #subscribe(): void {
    const { pages, data = 'values', policy, maxRate, from = 'now' } = this.#options
    this.#id = this.#link.idFor(this, 's')
    const start = this.#cursor ?? (typeof from === 'number' ? 'snapshot' : from)
    this.#link.send(
      JSON.stringify({ type: 'subscribe', id: this.#id, pages, from: start, data, policy, maxRate }),
    )
  }

  #leave(): void {
    if (this.#id === undefined) return
    this.#link.send(JSON.stringify({ type: 'unsubscribe', id: this.#id }))
    this.#left()
  }

  #left(): void {
    if (this.#id !== undefined) this.#link.forget(this.#id)
    this.#id = undefined
  }
}

const compacted = (minEpoch: number): MmsbError =>
  new MmsbError({
    code: 'EPOCH_COMPACTED',
    status: 410,
    detail: `the oldest epoch to start from is ${minEpoch}`,
    hint: 'Start with a snapshot.',
    extra: { minEpoch },
  })
