/**
 * A subscription that survives its connections: its owner starts it once and receives each epoch once.
 *
 * How it works: the cursor is the last epoch received. On a new connection it subscribes again `from` the
 * cursor. It does the same after a pause for a slow owner, and after the server ended it with `overflow`.
 *
 * Invariants: epochs ascend and none comes twice. None is missed: if the server cannot resume from the
 * cursor, the subscription fails with EPOCH_COMPACTED or HISTORY_CHANGED or, with `canRestart`, starts again
 * with a snapshot.
 */
import { isCount, showValue } from '../arguments.js'
import type { Message } from '../codec/message.js'
import { closedError, invalidRequest, MmsbError } from '../errors.js'
import type { Change, SubscribeOptions } from '../types.js'
import type { Connection, ConnectionUser } from './connection.js'

export interface SubscriptionOwner {
  /** The next change, or a snapshot. */
  change(change: Change): void
  /** No further change up to and including this epoch. */
  progress(epoch: number): void
  /** The server has another history; a snapshot of it follows. Only with `canRestart`. */
  historyChanged?(error: MmsbError): void
  /** The connection was lost, or is open again. */
  connected(isConnected: boolean): void
  /** The subscription has ended; this is the last call. */
  failed(error: unknown): void
}

/** Errors that pass with time. */
const TRANSIENT: ReadonlySet<string> = new Set(['OVERLOADED', 'BUS_FAILED'])
/** Errors that say that the server cannot resume from the cursor. */
const LOST_START: ReadonlySet<string> = new Set(['EPOCH_COMPACTED', 'EPOCH_NOT_FOUND'])

export class ResumingSubscription implements ConnectionUser {
  readonly #connection: Connection
  readonly #options: SubscribeOptions
  readonly #canRestart: boolean
  readonly #owner: SubscriptionOwner
  /** Id of the running subscription; undefined if none runs. */
  #id: string | undefined
  #cursor: number | undefined
  /** The history that the cursor belongs to; undefined while it is not known. */
  #history: string | undefined
  /** Commits that the server has not confirmed. */
  #commits: {
    readonly epoch: number
    readonly resolve: () => void
    readonly reject: (e: unknown) => void
  }[] = []
  /** The last epoch that a message to the running subscription named; it may commit up to there. */
  #told = -1
  #sentCommit = -1
  #hasRestarted = false
  #isPaused = false
  #isOver = false

  constructor(
    connection: Connection,
    options: SubscribeOptions,
    canRestart: boolean,
    owner: SubscriptionOwner,
  ) {
    this.#connection = connection
    this.#options = options
    this.#canRestart = canRestart
    this.#owner = owner
    this.#history = options.history
    // For a durable subscription the server knows where to start.
    if (typeof options.from === 'number' && options.durable === undefined) this.#cursor = options.from
  }

  start(): void {
    this.#connection.attach(this)
  }

  get isListening(): boolean {
    return this.#id !== undefined
  }

  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Stops receiving until `resume`, which continues from the same place. */
  pause(): void {
    if (this.#isPaused || this.#isOver) return
    this.#isPaused = true
    this.#leave()
  }

  resume(): void {
    if (!this.#isPaused || this.#isOver) return
    this.#isPaused = false
    if (this.#connection.isUp) this.#subscribe()
  }

  windowOf(page: string): readonly number[] | undefined {
    return this.#options.slice?.[page]?.map(([start, stop]) => stop - start)
  }

  /** A durable reader that has not committed its snapshot gets it again, whatever it asks for. */
  get #mayGetSnapshot(): boolean {
    return this.#start === 'snapshot' || this.#options.durable !== undefined
  }

  /** Where it starts on the next connection. */
  get #start(): SubscribeOptions['from'] {
    return this.#cursor ?? (this.#hasRestarted ? 'snapshot' : this.#options.from)
  }

  /** Tells the server that everything up to this epoch has been processed; resolves when that is durable. */
  commit(epoch: number | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#commits.push({ epoch: this.#committable(epoch), resolve, reject })
      this.#sendCommit()
    })
  }

  /**
   * Checks here what the server would refuse, because a refused commit ends the subscription.
   * @throws MmsbError
   */
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
    this.#stop()
    this.#connection.detach(this)
  }

  #stop(): void {
    this.#isOver = true
    for (const { reject } of this.#commits.splice(0)) reject(closedError('subscription'))
    this.#leave()
  }

  up(): void {
    if (!this.#isPaused) this.#subscribe()
    this.#owner.connected(true)
  }

  down(): void {
    if (this.#id !== undefined) this.#connection.forget(this.#id)
    this.#id = undefined
    this.#owner.connected(false)
  }

  /** A subscription that has received nothing yet loses nothing: it starts as it was asked to. */
  historyChanged(error: MmsbError): void {
    const hasBegun = this.#cursor !== undefined || this.#options.history !== undefined
    if (!this.#isOver && hasBegun) this.#onLostStart(error)
  }

  fail(error: unknown): void {
    if (this.#isOver) return
    this.#stop()
    this.#owner.failed(error)
    // Last, since an owner that begins anew does so on this connection, which its last user closes.
    this.#connection.detach(this)
  }

  receive(message: Message): void {
    if (!('id' in message) || message.id !== this.#id || this.#isOver) return
    switch (message.type) {
      case 'subscribed':
        // Where a snapshot may follow, this epoch has not been seen yet.
        if (this.#cursor === undefined && !this.#mayGetSnapshot) this.#cursor = message.epoch
        this.#history = message.history
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
        // It comes after the snapshot, if there is one.
        if (this.#cursor !== undefined && message.epoch < this.#cursor) return
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

  /** After a lost connection, pending commits wait until the server has sent their epochs again. */
  #toldOf(epoch: number): void {
    this.#told = epoch
    if (this.#commits.some((commit) => commit.epoch <= epoch && commit.epoch > this.#sentCommit))
      this.#sendCommit()
  }

  #sendCommit(): void {
    const due = this.#commits.map(({ epoch }) => epoch).filter((epoch) => epoch <= this.#told)
    if (this.#id === undefined || due.length === 0) return
    this.#sentCommit = Math.max(...due)
    this.#connection.send(JSON.stringify({ type: 'commit', id: this.#id, epoch: this.#sentCommit }))
  }

  #onError(error: MmsbError): void {
    if (TRANSIENT.has(error.code)) this.#connection.renew()
    else if (LOST_START.has(error.code)) this.#onLostStart(error)
    else if (error.code === 'HISTORY_CHANGED' && typeof error.extra.history === 'string')
      this.#onOtherHistory(error, error.extra.history)
    else this.fail(error)
  }

  /** The server refused this subscription. The connection tells all its users, this one too. */
  #onOtherHistory(error: MmsbError, history: string): void {
    this.#left()
    const isTold = this.#connection.history !== undefined && this.#connection.history !== history
    this.#connection.learn(history)
    if (!isTold || (this.#cursor === undefined && !this.#hasRestarted)) this.#onLostStart(error)
  }

  #onLostStart(error: MmsbError): void {
    this.#left()
    if (!this.#canRestart) {
      this.fail(error)
      return
    }
    if (error.code === 'HISTORY_CHANGED') this.#owner.historyChanged?.(error)
    this.#cursor = undefined
    this.#history = undefined
    this.#hasRestarted = true
    if (this.#connection.isUp) this.#subscribe()
  }

  #subscribe(): void {
    const { signal: _signal, from: _from, history: _history, ...wanted } = this.#options
    this.#id = this.#connection.idFor(this, 's')
    this.#told = -1
    this.#sentCommit = -1
    const history = this.#history === undefined ? {} : { history: this.#history }
    const subscribe = { type: 'subscribe', id: this.#id, ...wanted, ...history, from: this.#start }
    this.#connection.send(JSON.stringify(subscribe))
  }

  #leave(): void {
    if (this.#id === undefined) return
    this.#connection.send(JSON.stringify({ type: 'unsubscribe', id: this.#id }))
    this.#left()
  }

  #left(): void {
    if (this.#id !== undefined) this.#connection.forget(this.#id)
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
