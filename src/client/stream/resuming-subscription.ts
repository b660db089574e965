/**
 * One subscription as its owner sees it: begun once, kept up over any number of connections, each epoch told once.
 *
 * How it works: the cursor is the last epoch received. A new connection subscribes again `from` the cursor; so does a feed that
 * was put aside because its owner was slow, or that the server ended with `overflow`.
 *
 * Invariants: epochs ascend and none comes twice; nothing is left out: where the server cannot go on from the cursor, the
 * feed fails with EPOCH_COMPACTED or, if it may (`canRestart`), begins anew with a snapshot.
 */
import { isCount, showValue } from '../arguments.js'
import type { Message } from '../codec/message.js'
import { closedError, invalidRequest, MmsbError } from '../errors.js'
import type { Change, SubscribeOptions } from '../types.js'
import type { Link, LinkUser } from './connection.js'

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
  /** Up to where the owner has done with everything, and who waits until the server knows. */
  #commits: {
    readonly epoch: number
    readonly resolve: () => void
    readonly reject: (e: unknown) => void
  }[] = []
  /** The highest epoch that the running subscription was told of, and may commit. */
  #told = -1
  #sentCommit = -1
  #hasRestarted = false
  #isPaused = false
  #isOver = false

  constructor(link: Link, options: SubscribeOptions, canRestart: boolean, owner: FeedOwner) {
    this.#link = link
    this.#options = options
    this.#canRestart = canRestart
    this.#owner = owner
    // Where a durable one begins is for the server to say.
    if (typeof options.from === 'number' && options.durable === undefined) this.#cursor = options.from
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

  windowOf(page: string): readonly number[] | undefined {
    return this.#options.slice?.[page]?.map(([start, stop]) => stop - start)
  }

  /** Tells the server that everything up to this epoch is done with; resolves when that is durable. */
  commit(epoch: number | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#commits.push({ epoch: this.#committable(epoch), resolve, reject })
      this.#sendCommit()
    })
  }

  /** What the server would not take of a commit would end the subscription there. @throws MmsbError */
  #committable(epoch: number | undefined): number {
    if (this.#options.durable === undefined) {
      throw invalidRequest('commit: this subscription is not durable: subscribe with a name as `durable`')
    }
    if (this.#isOver) throw closedError('subscription')
    if (epoch === undefined) throw invalidRequest('commit: nothing has been delivered yet')
    const fault = isCount(epoch)
    if (fault !== undefined) throw invalidRequest(`commit: ${showValue(epoch)} ${fault}`)
    if (this.#cursor === undefined || epoch > this.#cursor) {
      throw invalidRequest(`commit: epoch ${epoch} has not been delivered`)
    }
    return epoch
  }

  end(): void {
    if (this.#isOver) return
    this.#isOver = true
    for (const { reject } of this.#commits.splice(0)) reject(closedError('subscription'))
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
        this.#toldOf(message.epoch)
        return
      case 'change':
        this.#onChange(message.change)
        this.#toldOf(message.change.epoch)
        return
      case 'committed':
        for (const { resolve } of this.#commits.filter(({ epoch }) => epoch <= message.epoch)) resolve()
        this.#commits = this.#commits.filter(({ epoch }) => epoch > message.epoch)
        return
      case 'progress':
        this.#toldOf(message.epoch)
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

  /** Commits that a lost connection has left wait until the server has told of their epochs again. */
  #toldOf(epoch: number): void {
    this.#told = epoch
    if (this.#commits.some((commit) => commit.epoch <= epoch && commit.epoch > this.#sentCommit))
      this.#sendCommit()
  }

  #sendCommit(): void {
    const due = this.#commits.map(({ epoch }) => epoch).filter((epoch) => epoch <= this.#told)
    if (this.#id === undefined || due.length === 0) return
    this.#sentCommit = Math.max(...due)
    this.#link.send(JSON.stringify({ type: 'commit', id: this.#id, epoch: this.#sentCommit }))
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
    this.#hasRestarted = true
    this.#subscribe()
  }

  #subscribe(): void {
    const { signal: _signal, from, ...wanted } = this.#options
    this.#id = this.#link.idFor(this, 's')
    this.#told = -1
    this.#sentCommit = -1
    const start = this.#cursor ?? (this.#hasRestarted ? 'snapshot' : from)
    this.#link.send(JSON.stringify({ type: 'subscribe', id: this.#id, ...wanted, from: start }))
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
