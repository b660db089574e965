/**
 * The outgoing side of one connection: writes encoded messages to a socket or a response.
 *
 * Invariants: nothing is written after the closing handshake has begun; everything written within one turn of
 * the event loop goes out in one system call.
 */
import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { STREAM_FREE_BYTES } from '../../limits.js'
import type { StreamMessage } from '../../stream/messages.js'
import type { StreamQueues } from '../../stream/queues.js'
import type { Sink } from '../../stream/types.js'

export type Outlet = Pick<
  Writable,
  'write' | 'cork' | 'uncork' | 'writable' | 'writableLength' | 'writableNeedDrain'
>

/** The connection below an outlet. */
export type Link = Pick<Socket, 'bytesWritten' | 'writableLength' | 'destroy'>

export interface SocketSinkDeps {
  readonly queues: StreamQueues
  readonly link: Link
  readonly encode: (id: string, message: StreamMessage) => readonly Buffer[]
}

/** Sinks that collect writes until the end of this turn of the event loop. */
let corked: SocketSink[] = []

function uncorkAll(): void {
  const sinks = corked
  corked = []
  for (const sink of sinks) sink.uncork()
}

export class SocketSink implements Sink {
  readonly #socket: Outlet
  readonly #deps: SocketSinkDeps
  #isCorked = false
  #isClosed = false
  #sharedBytes = 0

  constructor(socket: Outlet, deps: SocketSinkDeps) {
    this.#socket = socket
    this.#deps = deps
  }

  get queuedBytes(): number {
    return this.#socket.writableLength
  }

  get sharedBytes(): number {
    return this.#sharedBytes
  }

  get takenBytes(): number {
    const { link } = this.#deps
    return link.bytesWritten - link.writableLength
  }

  get isCongested(): boolean {
    return this.#socket.writableNeedDrain
  }

  send(id: string, message: StreamMessage): void {
    if (!this.#isClosed) this.write(this.#deps.encode(id, message))
  }

  prepare(id: string, message: StreamMessage): void {
    if (!this.#isClosed) this.#deps.encode(id, message)
  }

  write(pieces: readonly Buffer[]): void {
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
