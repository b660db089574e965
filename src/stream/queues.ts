/**
 * What is queued for the readers of all connections, in bytes, and readers that do not take it.
 *
 * Each connection bounds its own queue; many of them together could still fill the memory. So there is one
 * budget for all. A reader that keeps up and gets small messages never meets it. Others are put aside while
 * it is used up: a lossless subscription ends with the epoch to resume from, a `latest` one folds, snapshots
 * and readers that catch up wait. A reader that takes too little for too long is cut off, since only that
 * frees what is queued for it.
 *
 * Invariants: a large piece that several readers share is counted once. Queues of up to STREAM_FREE_BYTES are
 * not looked at and cost nothing here. Everything counted for a sink is given back when it is gone.
 */
import {
  STREAM_FREE_BYTES,
  STREAM_LOOK_INTERVAL_MS,
  STREAM_PRESSED_BYTES_PER_S,
  STREAM_PRESSED_PATIENCE_MS,
  STREAM_SLOWEST_BYTES_PER_S,
} from '../limits.js'
import type { LimitGuard } from '../operator-limits.js'
import type { StreamClock } from './clock.js'
import type { Sink } from './types.js'

/** Bytes that several readers may share. */
interface Piece {
  readonly byteLength: number
}

interface Hold {
  readonly piece: Piece
}

/** A sink with much queued. */
interface Watched {
  /** Counted bytes, without the shared ones. */
  ownBytes: number
  readonly holds: Set<Hold>
  /** What the reader had taken at the last look, and when it had taken less. */
  takenBytes: number | undefined
  sinceMs: number
}

export class StreamQueues {
  readonly #limits: LimitGuard
  readonly #clock: StreamClock
  readonly #watched = new Map<Sink, Watched>()
  /** Large pieces, and for how many sinks each is queued. */
  readonly #shared = new Map<Piece, number>()
  /** In an object of its own, because the limits must not hold the hub. */
  readonly #used = { bytes: 0 }
  #waiting: (() => void)[] = []
  #stopLooking: (() => void) | undefined

  constructor(limits: LimitGuard, clock: StreamClock) {
    this.#limits = limits
    this.#clock = clock
    const used = this.#used
    limits.measure('streamBudgetBytes', () => used.bytes)
  }

  get isFull(): boolean {
    return this.#used.bytes >= this.#limits.values.streamBudgetBytes
  }

  /** Whether a message with so many bytes of values can be queued; alone it always can. */
  hasRoom(sink: Sink, bytes: number): boolean {
    this.observe(sink)
    const { bytes: used } = this.#used
    return used === 0 || used + bytes <= this.#limits.values.streamBudgetBytes
  }

  /** Calls back once, soon after there is room again. */
  whenRoom(run: () => void): void {
    this.#waiting.push(run)
    this.#startLooking()
    this.#wake()
  }

  /** Counts a refusal that is not an error: a subscription that ends with the epoch to resume from. */
  countRefusal(): void {
    this.#limits.count('streamBudgetBytes')
  }

  /** Notes what is queued for a sink now. */
  observe(sink: Sink): void {
    const ownBytes = sink.queuedBytes - (sink.sharedBytes ?? 0)
    const entry = this.#watched.get(sink)
    if (entry !== undefined) this.#setOwn(entry, ownBytes)
    else if (ownBytes > STREAM_FREE_BYTES) this.#setOwn(this.#watch(sink), ownBytes)
  }

  /** A large piece is queued for a sink, until the returned function is called. */
  hold(sink: Sink, piece: Piece): () => void {
    const entry = this.#watch(sink)
    const hold = { piece }
    entry.holds.add(hold)
    const count = this.#shared.get(piece) ?? 0
    this.#shared.set(piece, count + 1)
    if (count === 0) this.#used.bytes += piece.byteLength
    return () => this.#release(entry, hold)
  }

  /** The connection of a sink is closed: nothing is queued for it any more. */
  gone(sink: Sink): void {
    const entry = this.#watched.get(sink)
    if (entry === undefined) return
    this.#setOwn(entry, 0)
    for (const hold of [...entry.holds]) this.#release(entry, hold)
    this.#watched.delete(sink)
  }

  #watch(sink: Sink): Watched {
    let entry = this.#watched.get(sink)
    if (entry === undefined) {
      const sinceMs = this.#clock.nowMs()
      entry = { ownBytes: 0, holds: new Set(), takenBytes: sink.takenBytes, sinceMs }
      this.#watched.set(sink, entry)
      this.#startLooking()
    }
    return entry
  }

  #setOwn(entry: Watched, bytes: number): void {
    const wasFull = this.isFull
    this.#used.bytes += bytes - entry.ownBytes
    entry.ownBytes = bytes
    if (wasFull) this.#wake()
  }

  #release(entry: Watched, hold: Hold): void {
    if (!entry.holds.delete(hold)) return
    const { piece } = hold
    const count = (this.#shared.get(piece) ?? 1) - 1
    if (count > 0) {
      this.#shared.set(piece, count)
      return
    }
    this.#shared.delete(piece)
    this.#used.bytes -= piece.byteLength
    this.#wake()
  }

  /** Those who waited go on one by one, each in a turn of its own: it may take the room again. */
  #wake(): void {
    if (this.isFull) return
    const run = this.#waiting.shift()
    if (run === undefined) return
    this.#clock.soon(() => {
      run()
      this.#wake()
    })
  }

  #startLooking(): void {
    this.#stopLooking ??= this.#clock.every(STREAM_LOOK_INTERVAL_MS, () => this.#look())
  }

  #look(): void {
    const nowMs = this.#clock.nowMs()
    for (const [sink, entry] of this.#watched) {
      this.observe(sink)
      const { takenBytes } = sink
      if (takenBytes !== entry.takenBytes || sink.queuedBytes === 0) {
        entry.takenBytes = takenBytes
        entry.sinceMs = nowMs
        if (entry.holds.size === 0 && entry.ownBytes <= STREAM_FREE_BYTES) this.gone(sink)
      } else if (nowMs - entry.sinceMs > this.#patienceMs(sink.queuedBytes) && sink.cut !== undefined) {
        this.#limits.count('idleTimeoutMs')
        sink.cut()
      }
    }
    this.#wake()
    if (this.#watched.size > 0 || this.#waiting.length > 0) return
    this.#stopLooking?.()
    this.#stopLooking = undefined
  }

  /** How long a reader may take none of so many bytes. It shows only when a whole write was taken. */
  #patienceMs(queuedBytes: number): number {
    const { idleTimeoutMs } = this.#limits.values
    const patienceMs = idleTimeoutMs + (queuedBytes / STREAM_SLOWEST_BYTES_PER_S) * 1e3
    if (!this.isFull) return patienceMs
    const pressedMs = STREAM_PRESSED_PATIENCE_MS + (queuedBytes / STREAM_PRESSED_BYTES_PER_S) * 1e3
    return Math.min(patienceMs, pressedMs)
  }
}
