/**
 * The outgoing side of one connection: writes encoded messages to a socket or a response.
 *
 * Invariants: nothing is written after the closing handshake has begun; everything written within one turn of
 * the event loop goes out in one system call. Messages leave in the order in which they were sent: what is
 * sent behind a large one waits until that is encoded.
 */
import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { STREAM_FREE_BYTES } from '../../limits.js'
import type { DataMessage, StreamMessage } from '../../stream/messages.js'
import type { StreamQueues } from '../../stream/queues.js'
import type { Sink } from '../../stream/types.js'

export type Outlet = Pick<
  Writable,
  'destroy' | 'write' | 'cork' | 'uncork' | 'writable' | 'writableLength' | 'writableNeedDrain'
>

/** The connection below an outlet. */
export type Link = Pick<Socket, 'bytesWritten' | 'writableLength' | 'destroy'>

export interface SocketSinkDeps {
  readonly queues: StreamQueues
  readonly link: Link
  readonly encoder: MessageEncoder
}

/** Sinks that collect writes until the end of this turn of the event loop. */
let corked: SocketSink[] = []

function uncorkAll(): void {
  const sinks = corked
  corked = []
  for (const sink of sinks) sink.uncork()
}

/** Encodes messages for one protocol. */
export interface MessageEncoder {
  /** The bytes of a message to subscription `id`. */
  encode(id: string, message: StreamMessage): readonly Buffer[]
  /** Resolves when a large message can be encoded at once; undefined if it can be now. */
  later(message: StreamMessage): Promise<void> | undefined
}

/** What waits its turn behind a large message. */
interface Waiting {
  readonly bytes: number
  readonly ready: Promise<void> | undefined
  run(): void
}

export class SocketSink implements Sink {
  /** Called when a large message was written, and again when nothing waits any more. */
  onWritten: (() => void) | undefined
  readonly #socket: Outlet
  readonly #deps: SocketSinkDeps
  #isCorked = false
  #isClosed = false
  #sharedBytes = 0
  /** In order; undefined while nothing waits. */
  #waiting: Waiting[] | undefined
  #waitingBytes = 0

  constructor(socket: Outlet, deps: SocketSinkDeps) {
    this.#socket = socket
    this.#deps = deps
  }

  get queuedBytes(): number {
    return this.#socket.writableLength + this.#waitingBytes
  }

  get sharedBytes(): number {
    return this.#sharedBytes
  }

  get takenBytes(): number {
    const { link } = this.#deps
    return link.bytesWritten - link.writableLength
  }

  get isCongested(): boolean {
    return this.#waiting !== undefined || this.#socket.writableNeedDrain
  }

  send(id: string, message: StreamMessage): void {
    if (this.#isClosed) return
    const { encoder } = this.#deps
    const ready = encoder.later(message)
    if (ready === undefined) this.write(encoder.encode(id, message))
    else this.#sendLater(id, message as DataMessage, ready)
  }

  #sendLater(id: string, message: DataMessage, ready: Promise<void>): void {
    const { encoder, queues } = this.#deps
    const { valueBytes: bytes } = message
    // All that wait for it share what it is encoded from.
    const release = queues.hold(
      this,
      message.encoded('held', () => ({ byteLength: bytes })),
    )
    this.#sharedBytes += bytes
    this.#wait({
      bytes,
      ready,
      run: () => {
        this.#sharedBytes -= bytes
        release()
        this.#writeNow(encoder.encode(id, message))
        this.onWritten?.()
      },
    })
  }

  prepare(id: string, message: StreamMessage): void {
    if (this.#isClosed) return
    const { encoder } = this.#deps
    if (encoder.later(message) === undefined) encoder.encode(id, message)
  }

  /** Calls back once everything that was sent so far is written. */
  whenWritten(run: () => void): void {
    if (this.#waiting === undefined) queueMicrotask(run)
    else this.#wait({ bytes: 0, ready: undefined, run })
  }

  write(pieces: readonly Buffer[]): void {
    if (this.#waiting === undefined) {
      this.#writeNow(pieces)
      return
    }
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0)
    this.#wait({ bytes, ready: undefined, run: () => this.#writeNow(pieces) })
  }

  #wait(entry: Waiting): void {
    this.#waitingBytes += entry.bytes
    if (this.#waiting !== undefined) {
      this.#waiting.push(entry)
      return
    }
    const waiting = [entry]
    this.#waiting = waiting
    this.#writeInOrder(waiting).catch((error: unknown) => this.#socket.destroy(error as Error))
  }

  async #writeInOrder(waiting: Waiting[]): Promise<void> {
    for (let at = 0; at < waiting.length; at++) {
      const { bytes, ready, run } = waiting[at]!
      if (ready !== undefined) await ready
      if (this.#isClosed) return
      this.#waitingBytes -= bytes
      run()
    }
    this.#waiting = undefined
    this.onWritten?.()
  }

  #writeNow(pieces: readonly Buffer[]): void {
    if (this.#isClosed || !this.#socket.writable) return
    if (!this.#isCorked) {
      this.#isCorked = true
      this.#socket.cork()
      if (corked.push(this) === 1) process.nextTick(uncorkAll)
    }
    for (const piece of pieces) {
      if (piece.length > STREAM_FREE_BYTES) this.#writeLarge(piece)
      else this.#socket.write(piece)
    }
  }

  #writeLarge(piece: Buffer): void {
    const release = this.#deps.queues.hold(this, piece)
    this.#sharedBytes += piece.length
    this.#socket.write(piece, () => {
      this.#sharedBytes -= piece.length
      release()
    })
  }

  /** What is queued besides large pieces counts against the budget of all queues from now on. */
  observe(): void {
    this.#deps.queues.observe(this)
  }

  cut(): void {
    this.#deps.link.destroy()
  }

  /** The connection is closed: nothing is queued any more. */
  gone(): void {
    this.#deps.queues.gone(this)
  }

  uncork(): void {
    if (!this.#isCorked) return
    this.#isCorked = false
    this.#socket.uncork()
  }

  /** Sends what has been written; ignores everything from now on. */
  closed(): void {
    this.uncork()
    this.#isClosed = true
  }
}
