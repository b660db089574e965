/**
 * One WebSocket of the stream: its messages in, its answers out.
 *
 * Invariants: every message is answered, with its result or with an `error`, and the connection stays open; a
 * transaction is answered once. The server stops reading from a client that sends faster than epochs commit
 * until the commits have caught up, and from one that does not read its answers until it has read them.
 * Messages are handled in their order: those behind a large one wait until it is parsed.
 */
import type { RawData, WebSocket } from 'ws'
import type { ClientBus } from '../../auth/guarded-bus.js'
import type { Lease } from '../../byte-budget.js'
import type { Sender, TransactionInput } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import {
  STREAM_BYTES_IN_FLIGHT_MAX,
  STREAM_FREE_BYTES,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_TRANSACTIONS_IN_FLIGHT_MAX,
} from '../../limits.js'
import type { Connection } from '../../stream/connection.js'
import { jsonHead, jsonTail } from '../../stream/messages.js'
import type { SubscribeOptions } from '../../stream/types.js'
import type { AppContext } from '../context.js'
import { framesIn, type SessionAudit } from '../observe/session-audit.js'
import type { SessionTrace } from '../observe/tracing.js'
import { toMmsbError } from '../reply/problem.js'
import { isSmallJson, parseJson, parseSmallJson } from '../request/json.js'
import { compileCheck } from '../request/validation.js'
import { CommitMessage, SubscribeMessage, TransactionMessage, UnsubscribeMessage } from '../schemas/stream.js'
import { ackMessage, type FrameRange, refusalMessage } from './binary-messages.js'
import type { Receiving } from './receiving.js'
import type { SocketSink } from './socket-sink.js'
import { binaryFrame, textFrame } from './ws-frames.js'

const CHECKS = {
  subscribe: compileCheck<SubscribeMessage>(SubscribeMessage, 'message'),
  unsubscribe: compileCheck<UnsubscribeMessage>(UnsubscribeMessage, 'message'),
  commit: compileCheck<CommitMessage>(CommitMessage, 'message'),
  transaction: compileCheck<TransactionMessage>(TransactionMessage, 'message'),
}

export interface SessionDeps {
  readonly context: AppContext
  /** The bus as the client may use it. */
  readonly bus: ClientBus
  readonly socket: WebSocket
  readonly sink: SocketSink
  readonly connection: Connection
  readonly isBinary: boolean
  readonly onInternal: (cause: unknown) => void
  /** How many of the bytes written to the client have reached the network. */
  readonly takenBytes: () => number
  readonly receiving: Receiving
  /** Undefined: there is no audit trail. */
  readonly audit?: SessionAudit | undefined
  /** Undefined: nothing is traced. */
  readonly trace?: SessionTrace | undefined
}

export class StreamSession {
  /** Set when the client sends anything; cleared by showedLife(). */
  isAlive = true
  #takenBytes = 0
  readonly #deps: SessionDeps
  readonly #sender: Sender
  #inFlight = 0
  #bytesInFlight = 0
  #isPaused = false
  #isStopping = false
  #isEnded = false
  /** The sequence number of the next frame. */
  #sequence = 1
  /** Frames committed in #ackedEpoch that have not been acknowledged yet. */
  #acked: FrameRange[] = []
  #ackedEpoch = 0
  #onIdle: (() => void) | undefined
  /** Messages that arrived while a large one is parsed, in order; undefined when none is. */
  #behind: (() => void)[] | undefined

  constructor(deps: SessionDeps) {
    this.#deps = deps
    this.#sender = this.#makeSender(deps.audit)
    deps.socket.on('message', (data, isBinary) => this.#onMessage(data, isBinary))
  }

  /** Whether the client has sent anything, or read anything sent to it, since the last call. */
  showedLife(): boolean {
    const taken = this.#deps.takenBytes()
    // A client we do not read from, because the commits are behind, cannot show life.
    const isHeldBack = this.#isPaused && this.#inFlight > 0
    const showed = this.isAlive || isHeldBack || (this.#isPaused && taken > this.#takenBytes)
    this.#takenBytes = taken
    this.isAlive = false
    return showed
  }

  /** The network has taken everything written to the client. */
  drained(): void {
    this.#readOn()
  }

  /** Ignores further messages; resolves when every transaction accepted so far has been answered. */
  finish(): Promise<void> {
    this.#isStopping = true
    if (this.#inFlight === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#onIdle = resolve
    })
  }

  /** Ignores further messages, and those that are not handled yet. */
  end(): void {
    this.#isStopping = true
    this.#isEnded = true
  }

  #onMessage(data: RawData, isBinary: boolean): void {
    this.isAlive = true
    if (this.#isStopping) {
      this.#deps.receiving.onMessage()?.release()
      return
    }
    // With the default binaryType every message is one Buffer.
    const message = data as Buffer
    const lease = this.#deps.receiving.onMessage()
    this.#inOrder(() => {
      if (isBinary) this.#onBinary(message)
      else this.#onText(message)
    })
    if (lease !== undefined) this.#releaseWhenDone(lease)
    this.#holdBack()
  }

  /** A large message is in memory until it has been parsed. */
  #releaseWhenDone(lease: Lease): void {
    if (this.#behind === undefined) lease.release()
    else this.#behind.push(() => lease.release())
  }

  #inOrder(handle: () => void): void {
    if (this.#behind === undefined) handle()
    else this.#behind.push(handle)
  }

  /** Frames from the fast receiver. */
  onFrames(frames: Uint8Array): void {
    this.isAlive = true
    this.#deps.receiving.onMessage()
    if (this.#isStopping) return
    if (this.#behind === undefined) this.#submit(frames)
    else {
      const copy = new Uint8Array(frames)
      this.#behind.push(() => this.#submit(copy))
    }
    this.#holdBack()
  }

  /** Stops reading from a client that is too far ahead of the commits, or of reading its answers. */
  #holdBack(): void {
    if (this.#isPaused || !this.#isAhead(1)) return
    this.#isPaused = true
    this.#deps.socket.pause()
  }

  #readOn(): void {
    if (!this.#isPaused || this.#isAhead(0.5)) return
    this.#isPaused = false
    this.#deps.socket.resume()
  }

  /** Whether the work under way reaches this part of one of its limits. */
  #isAhead(part: number): boolean {
    return (
      this.#behind !== undefined ||
      this.#inFlight >= part * STREAM_TRANSACTIONS_IN_FLIGHT_MAX ||
      this.#bytesInFlight >= part * STREAM_BYTES_IN_FLIGHT_MAX ||
      this.#hasMuchQueued(part)
    )
  }

  /** Whether the client leaves so many answers that it must read some first. */
  #hasMuchQueued(part: number): boolean {
    const { sink, context } = this.#deps
    const { queuedBytes } = sink
    if (queuedBytes <= STREAM_FREE_BYTES) return false
    sink.observe()
    return queuedBytes >= part * STREAM_QUEUE_MAX_BYTES || context.hub.queues.isFull
  }

  #onText(bytes: Buffer): void {
    const { limits } = this.#deps.context.bus
    if (!isSmallJson(bytes)) {
      this.#onLargeText(bytes)
      return
    }
    try {
      this.#onParsed(parseSmallJson(bytes, 'message', limits), bytes.length)
    } catch (error) {
      this.#sendError(undefined, error)
    }
  }

  #onLargeText(bytes: Buffer): void {
    const parsing = parseJson(bytes, 'message', this.#deps.context.bus.limits)
    this.#holdOthers(bytes.length, parsing, {
      proceed: (message) => this.#onParsed(message, bytes.length),
      refuse: (error) => this.#sendError(undefined, error),
    })
  }

  /** Waits for something about a message of `bytes` bytes; the messages behind it wait too. */
  #holdOthers<T>(
    bytes: number,
    work: Promise<T>,
    { proceed, refuse }: { proceed: (result: T) => void; refuse: (error: unknown) => void },
  ): void {
    this.#behind = []
    this.#inFlight++
    this.#bytesInFlight += bytes
    work
      .then(
        (result) => {
          const behind = this.#behind ?? []
          this.#behind = undefined
          proceed(result)
          for (const handle of behind) this.#inOrder(handle)
        },
        (error: unknown) => {
          const behind = this.#behind ?? []
          this.#behind = undefined
          refuse(error)
          for (const handle of behind) this.#inOrder(handle)
        },
      )
      .finally(() => this.#settle(1, bytes))
  }

  #onParsed(message: unknown, bytes: number): void {
    if (this.#isEnded) return
    let id: string | undefined
    try {
      const fields = checkObject(message)
      if (typeof fields.id === 'string') id = fields.id
      this.#handle(fields, bytes)
    } catch (error) {
      this.#sendError(id, error)
    }
  }

  /** @throws MmsbError */
  #handle(message: { readonly type?: unknown }, bytes: number): void {
    const { connection } = this.#deps
    switch (message.type) {
      case 'subscribe': {
        const { type: _type, id, ...options } = CHECKS.subscribe(message)
        connection.subscribe(id, options as SubscribeOptions)
        return
      }
      case 'unsubscribe': {
        const { id } = CHECKS.unsubscribe(message)
        if (!connection.unsubscribe(id)) {
          throw new MmsbError(
            'INVALID_REQUEST',
            `id: this connection has no subscription ${JSON.stringify(id)}`,
          )
        }
        return
      }
      case 'commit': {
        const { id, epoch } = CHECKS.commit(message)
        this.#commit(id, epoch)
        return
      }
      case 'transaction': {
        const { type: _type, id, traceparent, ...transaction } = CHECKS.transaction(message)
        this.#transact(id, transaction as TransactionInput, bytes, traceparent)
        return
      }
      default:
        throw new MmsbError(
          'INVALID_REQUEST',
          `message.type: must be one of ${Object.keys(CHECKS).join(', ')}`,
        )
    }
  }

  #commit(id: string, epoch: number): void {
    const { connection, sink } = this.#deps
    this.#track(
      0,
      async () => ({ epoch: await connection.commit(id, epoch) }),
      (committed) => sink.send(id, { type: 'committed', epoch: committed }),
      (error) => this.#sendError(id, error),
    )
  }

  #transact(id: string, transaction: TransactionInput, bytes: number, traceparent?: string): void {
    const { audit } = this.#deps
    if (audit?.mustBeginTransactions !== true) this.#transactNow(id, transaction, bytes, traceparent)
    else {
      this.#holdOthers(bytes, audit.beginTransaction(transaction.ops), {
        proceed: () => this.#transactNow(id, transaction, bytes, traceparent),
        refuse: (error) => this.#sendError(id, error),
      })
    }
  }

  #transactNow(id: string, transaction: TransactionInput, bytes: number, traceparent?: string): void {
    const { bus, sink, audit } = this.#deps
    const traced = this.#deps.trace?.begin(traceparent)
    const { ops } = transaction
    this.#track(
      bytes,
      () => bus.transact(transaction),
      (epoch) => {
        traced?.({ epoch })
        afterLine(audit?.transactionEnded(ops, { epoch }), () =>
          sink.write(textFrame(`${jsonHead('ack', id)},"epoch":${epoch}}`)),
        )
      },
      (error) => {
        traced?.({ error })
        afterLine(audit?.transactionEnded(ops, { error }), () => this.#sendError(id, error))
      },
    )
  }

  #onBinary(message: Buffer): void {
    if (!this.#deps.isBinary) {
      this.#sendError(
        undefined,
        new MmsbError('INVALID_REQUEST', 'binary messages need the subprotocol mmsb.v1.bin'),
      )
      return
    }
    this.#submit(message)
  }

  #submit(message: Uint8Array): void {
    const { audit } = this.#deps
    if (audit?.mustBegin(message) !== true) {
      this.#submitNow(message)
      return
    }
    // The memory is used again once this returns.
    const copy = new Uint8Array(message)
    this.#holdOthers(copy.length, audit.beginFrames(), {
      proceed: () => this.#submitNow(copy),
      refuse: (error) => {
        for (const _ of framesIn(copy)) this.#refuse(this.#sequence++, error)
      },
    })
  }

  #submitNow(message: Uint8Array): void {
    if (this.#isEnded) return
    const { numbers, frames, bytes } = this.#deps.bus.submitAll(this.#sender, this.#sequence, message)
    this.#sequence += numbers
    this.#inFlight += frames
    this.#bytesInFlight += bytes
  }

  /** What the bus tells of the frames. */
  #makeSender(audit: SessionAudit | undefined): Sender {
    return {
      watch: audit?.watch,
      committed: (first, count, bytes, epoch) =>
        afterLine(audit?.framesEnded(first, count, { epoch }), () => {
          this.#acknowledge({ first, count }, epoch)
          this.#settle(count, bytes)
        }),
      failed: (first, count, bytes, error) =>
        afterLine(audit?.framesEnded(first, count, { error }), () => {
          for (let i = 0; i < count; i++) this.#refuse(first + i, error)
          this.#settle(count, bytes)
        }),
      refused: (sequence, error) => {
        void audit?.framesEnded(sequence, 1, { error })
        this.#refuse(sequence, error)
      },
    }
  }

  #refuse(sequence: number, error: unknown): void {
    this.#deps.sink.write(binaryFrame(refusalMessage(sequence, this.#toError(error))))
  }

  /**
   * Acknowledges the frames of one epoch in one message: they all arrive here within one turn of the event
   * loop.
   */
  #acknowledge(range: FrameRange, epoch: number): void {
    if (this.#acked.length > 0 && this.#ackedEpoch !== epoch) this.#sendAcks()
    if (this.#acked.length === 0) process.nextTick(this.#sendAcks)
    this.#ackedEpoch = epoch
    this.#acked.push(range)
  }

  readonly #sendAcks = (): void => {
    if (this.#acked.length === 0) return
    this.#deps.sink.write(binaryFrame(ackMessage(this.#acked, this.#ackedEpoch)))
    this.#acked = []
  }

  /** Runs a request of `bytes` bytes and answers it. */
  #track(
    bytes: number,
    run: () => Promise<{ readonly epoch: number }>,
    onDone: (epoch: number) => void,
    onError: (error: unknown) => void,
  ): void {
    let result: Promise<{ readonly epoch: number }>
    try {
      result = run()
    } catch (error) {
      onError(error)
      return
    }
    this.#inFlight++
    this.#bytesInFlight += bytes
    result.then(
      ({ epoch }) => {
        onDone(epoch)
        this.#settle(1, bytes)
      },
      (error: unknown) => {
        onError(error)
        this.#settle(1, bytes)
      },
    )
  }

  #settle(count: number, bytes: number): void {
    this.#inFlight -= count
    this.#bytesInFlight -= bytes
    this.#readOn()
    if (this.#inFlight === 0) this.#onIdle?.()
  }

  #sendError(id: string | undefined, cause: unknown): void {
    const error = this.#toError(cause)
    this.#deps.sink.write(textFrame(jsonHead('error', id) + jsonTail({ type: 'error', error })))
  }

  #toError(cause: unknown): MmsbError {
    return toMmsbError(cause, this.#deps.onInternal)
  }
}

/** Goes on when a line is written, if one has to be waited for. */
function afterLine(line: Promise<void> | undefined, run: () => void): void {
  if (line === undefined) run()
  else void line.then(run)
}

function checkObject(message: unknown): { readonly type?: unknown; readonly id?: unknown } {
  if (typeof message === 'object' && message !== null && !Array.isArray(message)) return message
  throw new MmsbError('INVALID_REQUEST', 'message: is not a JSON object')
}
