/**
 * The bytes of WebSocket messages that are being received or parsed, of all connections, in one budget.
 *
 * The library keeps the parts of a message until its last one has come. What is on the way is therefore
 * counted below it, as bytes since the last complete message, and a connection whose message has no room is
 * closed.
 *
 * Invariant: small messages cost an addition and a comparison for each piece that the network delivers.
 */
import type { ByteBudget, Lease } from '../../byte-budget.js'
import { STREAM_SMALL_MESSAGE_MAX_BYTES } from '../../limits.js'

/** One message below this, and the piece of the network that holds its end. */
const FREE_BYTES = 2 * STREAM_SMALL_MESSAGE_MAX_BYTES
/** Header of a control frame of a client: two bytes and the mask. */
const CONTROL_HEADER_BYTES = 6

/** What one connection is receiving. */
export class Receiving {
  readonly #budget: ByteBudget
  readonly #onRefused: (error: unknown) => void
  #bytes = 0
  #countedBytes = 0
  #lease: Lease | undefined
  #isRefused = false

  constructor(budget: ByteBudget, onRefused: (error: unknown) => void) {
    this.#budget = budget
    this.#onRefused = onRefused
  }

  /** A piece has come from the network. */
  onPiece(length: number): void {
    this.#bytes += length
    if (this.#bytes > FREE_BYTES) this.#count()
  }

  /** A message is complete. Returns its lease, if it was large, which the caller releases. */
  onMessage(): Lease | undefined {
    const lease = this.#lease
    this.#bytes = 0
    this.#countedBytes = 0
    this.#lease = undefined
    return lease
  }

  /** A ping or pong has come, perhaps in the middle of a message. */
  onControl(dataBytes: number): void {
    this.#bytes = Math.max(0, this.#bytes - dataBytes - CONTROL_HEADER_BYTES)
  }

  /** The connection is closed. */
  end(): void {
    this.#isRefused = true
    this.onMessage()?.release()
  }

  #count(): void {
    if (this.#isRefused) return
    try {
      this.#lease ??= this.#budget.take(this, 0)
      const more = this.#bytes - this.#countedBytes
      if (more <= 0) return
      this.#lease.grow(more)
      this.#countedBytes = this.#bytes
    } catch (error) {
      this.#isRefused = true
      this.#onRefused(error)
    }
  }
}
