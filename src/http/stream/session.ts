/**
 * One WebSocket of the stream: its messages in, answers out.
 *
 * Invariants: whatever a client sends is answered with what it asked for or with an `error`, and the connection goes on; a
 * transaction is answered once; a client that sends faster than epochs commit, or that does not read its answers, is not read from
 * until it, or they, have caught up.
 */
import type { RawData, WebSocket } from 'ws'
import type { Sender, TransactionInput } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import {
  STREAM_BYTES_IN_FLIGHT_MAX,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_TRANSACTIONS_IN_FLIGHT_MAX,
} from '../../limits.js'
import type { Connection } from '../../stream/connection.js'
import { jsonHead, jsonTail } from '../../stream/messages.js'
import type { SubscribeOptions } from '../../stream/types.js'
import type { AppContext } from '../context.js'
import { toMmsbError } from '../reply/problem.js'
import { compileCheck } from '../request/validation.js'
import { CommitMessage, SubscribeMessage, TransactionMessage, UnsubscribeMessage } from '../schemas/stream.js'
import { ackMessage, type FrameRange, refusalMessage } from './binary-messages.js'
import type { SocketSink } from './socket-sink.js'
import { binaryFrame, textFrame } from './ws-frames.js'

const CHECKS = {
  subscribe: compileCheck<SubscribeMessage>(SubscribeMessage, 'message'),
  unsubscribe: compileCheck<UnsubscribeMessage>(UnsubscribeMessage, 'message'),
  commit: compileCheck<CommitMessage>(CommitMessage, 'message'),
  transaction: compileCheck<TransactionMessage>(TransactionMessage, 'message'),
}

export interface SessionRooms {
  readonly context: AppContext
  readonly socket: WebSocket
  readonly sink: SocketSink
  readonly connection: Connection
  readonly isBinary: boolean
  readonly onInternal: (cause: unknown) => void
  /** Bytes the network has taken of what was written to the client. */
  readonly takenBytes: () => number
}

export class StreamSession {
  /** Set when the client was heard of since it was last asked. */
  isAlive = true
  #takenBytes = 0
  readonly #rooms: SessionRooms
  #inFlight = 0
  #bytesInFlight = 0
  #isPaused = false
  #isStopping = false
  /** Of the next frame. */
  #sequence = 1
  /** Frames committed in #ackedEpoch that the client has not been told of. */
  #acked: FrameRange[] = []
  #ackedEpoch = 0
  #onIdle: (() => void) | undefined

  constructor(rooms: SessionRooms) {
    this.#rooms = rooms
    rooms.socket.on('message', (data, isBinary) => this.#onMessage(data, isBinary))
  }

  /** Whether the client was heard of, or took something of what was sent to it, since this was last asked. */
  showedLife(): boolean {
    const taken = this.#rooms.takenBytes()
    // One that is not read from because epochs have not caught up cannot be heard.
    const isHeldBack = this.#isPaused && this.#inFlight > 0
    const showed = this.isAlive || isHeldBack || (this.#isPaused && taken > this.#takenBytes)
    this.#takenBytes = taken
    this.isAlive = false
    return showed
  }

  /** The client has taken all that was written to it. */
  drained(): void {
    this.#readOn()
  }

  /** Takes no more messages; resolves when every transaction taken has been answered. */
  finish(): Promise<void> {
    this.#isStopping = true
    if (this.#inFlight === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#onIdle = resolve
    })
  }

  #onMessage(data: RawData, isBinary: boolean): void {
    this.isAlive = true
    if (this.#isStopping) return
    // With the default binaryType every message is one Buffer.
    const message = data as Buffer
    if (isBinary) this.#onBinary(message)
    else this.#onText(message)
    this.#holdBack()
  }

  /** Messages of frames that came past the library. */
  onFrames(frames: Uint8Array): void {
    this.isAlive = true
    if (this.#isStopping) return
    this.#submit(frames)
    this.#holdBack()
  }

  /** Reads no more from a client that is ahead of the commits, or of its own answers. */
  #holdBack(): void {
    if (this.#isPaused || !this.#isAhead(1)) return
    this.#isPaused = true
    this.#rooms.socket.pause()
  }

  #readOn(): void {
    if (!this.#isPaused || this.#isAhead(0.5)) return
    this.#isPaused = false
    this.#rooms.socket.resume()
  }

  /** Whether what is under way exceeds this part of what may be. */
  #isAhead(part: number): boolean {
    return (
      this.#inFlight >= part * STREAM_TRANSACTIONS_IN_FLIGHT_MAX ||
      this.#bytesInFlight >= part * STREAM_BYTES_IN_FLIGHT_MAX ||
      this.#rooms.sink.queuedBytes >= part * STREAM_QUEUE_MAX_BYTES
    )
  }

  #onText(bytes: Buffer): void {
    let id: string | undefined
    try {
      const message = parse(bytes.toString())
      if (typeof message.id === 'string') id = message.id
      this.#handle(message, bytes.length)
    } catch (error) {
      this.#sendError(id, error)
    }
  }

  /** @throws MmsbError */
  #handle(message: { readonly type?: unknown }, bytes: number): void {
    const { connection } = this.#rooms
    switch (message.type) {
      case 'subscribe': {
        const { type: _type, id, ...options } = CHECKS.subscribe(message)
        connection.subscribe(id, options as SubscribeOptions)
        return
      }
      case 'unsubscribe': {
        const { id } = CHECKS.unsubscribe(message)
        if (!connection.unsubscribe(id)) {
          throw new MmsbError('INVALID_REQUEST', `id: there is no subscription ${JSON.stringify(id)} here`)
        }
        return
      }
      case 'commit': {
        const { id, epoch } = CHECKS.commit(message)
        this.#commit(id, epoch)
        return
      }
      case 'transaction': {
        const { type: _type, id, ...transaction } = CHECKS.transaction(message)
        this.#transact(id, transaction as TransactionInput, bytes)
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
    const { connection, sink } = this.#rooms
    this.#track(
      0,
      async () => ({ epoch: await connection.commit(id, epoch) }),
      (committed) => sink.send(id, { type: 'committed', epoch: committed }),
      (error) => this.#sendError(id, error),
    )
  }

  #transact(id: string, transaction: TransactionInput, bytes: number): void {
    const { context, sink } = this.#rooms
    this.#track(
      bytes,
      () => context.bus.transact(transaction),
      (epoch) => sink.write(textFrame(`${jsonHead('ack', id)},"epoch":${epoch}}`)),
      (error) => this.#sendError(id, error),
    )
  }

  #onBinary(message: Buffer): void {
    if (!this.#rooms.isBinary) {
      this.#sendError(
        undefined,
        new MmsbError('INVALID_REQUEST', 'binary messages need the subprotocol mmsb.v1.bin'),
      )
      return
    }
    this.#submit(message)
  }

  #submit(message: Uint8Array): void {
    const { numbers, frames, bytes } = this.#rooms.context.bus.submitAll(
      this.#sender,
      this.#sequence,
      message,
    )
    this.#sequence += numbers
    this.#inFlight += frames
    this.#bytesInFlight += bytes
  }

  readonly #sender: Sender = {
    committed: (first, count, bytes, epoch) => {
      this.#acknowledge({ first, count }, epoch)
      this.#settle(count, bytes)
    },
    failed: (first, count, bytes, error) => {
      for (let i = 0; i < count; i++) this.#refuse(first + i, error)
      this.#settle(count, bytes)
    },
    refused: (sequence, error) => this.#refuse(sequence, error),
  }

  #refuse(sequence: number, error: unknown): void {
    this.#rooms.sink.write(binaryFrame(refusalMessage(sequence, this.#toError(error))))
  }

  /** Frames of one epoch are answered by one message: all are told of it before the next turn of the event loop. */
  #acknowledge(range: FrameRange, epoch: number): void {
    if (this.#acked.length > 0 && this.#ackedEpoch !== epoch) this.#sendAcks()
    if (this.#acked.length === 0) process.nextTick(this.#sendAcks)
    this.#ackedEpoch = epoch
    this.#acked.push(range)
  }

  readonly #sendAcks = (): void => {
    if (this.#acked.length === 0) return
    this.#rooms.sink.write(binaryFrame(ackMessage(this.#acked, this.#ackedEpoch)))
    this.#acked = []
  }

  /** Runs a transaction of so many bytes and answers it. */
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
    this.#rooms.sink.write(textFrame(jsonHead('error', id) + jsonTail({ type: 'error', error })))
  }

  #toError(cause: unknown): MmsbError {
    return toMmsbError(cause, this.#rooms.onInternal)
  }
}

function parse(text: string): { readonly type?: unknown; readonly id?: unknown } {
  let message: unknown
  try {
    message = JSON.parse(text)
  } catch {
    throw new MmsbError('INVALID_REQUEST', 'the message is not JSON')
  }
  if (typeof message === 'object' && message !== null && !Array.isArray(message)) return message
  throw new MmsbError('INVALID_REQUEST', 'the message is not a JSON object')
}
