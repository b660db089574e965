/**
 * The outgoing side of one connection: writes encoded messages to a socket or a response.
 *
 * Invariants: nothing is written after the closing handshake has begun; everything written within one turn of
 * the event loop goes out in one system call.
 */
import type { Writable } from 'node:stream'
import type { StreamMessage } from '../../stream/messages.js'
import type { Sink } from '../../stream/types.js'

export type Outlet = Pick<
  Writable,
  'write' | 'cork' | 'uncork' | 'writable' | 'writableLength' | 'writableNeedDrain'
>

/** Sinks that collect writes until the end of this turn of the event loop. */
let corked: SocketSink[] = []

function uncorkAll(): void {
  const sinks = corked
  corked = []
  for (const sink of sinks) sink.uncork()
}

export class SocketSink implements Sink {
  readonly #socket: Outlet
  readonly #encode: (id: string, message: StreamMessage) => readonly Buffer[]
  #isCorked = false
  #isClosed = false

  constructor(socket: Outlet, encode: (id: string, message: StreamMessage) => readonly Buffer[]) {
    this.#socket = socket
    this.#encode = encode
  }

  get queuedBytes(): number {
    return this.#socket.writableLength
  }

  get isCongested(): boolean {
    return this.#socket.writableNeedDrain
  }

  send(id: string, message: StreamMessage): void {
    if (!this.#isClosed) this.write(this.#encode(id, message))
  }

  prepare(id: string, message: StreamMessage): void {
    if (!this.#isClosed) this.#encode(id, message)
  }

  write(pieces: readonly Buffer[]): void {
    if (this.#isClosed || !this.#socket.writable) return
    if (!this.#isCorked) {
      this.#isCorked = true
      this.#socket.cork()
      if (corked.push(this) === 1) process.nextTick(uncorkAll)
    }
    for (const piece of pieces) this.#socket.write(piece)
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
