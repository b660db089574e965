/**
 * A run: plain frames (src/state/frame/plain.ts) of one sender, one behind the other in memory and in the
 * commit queue. Each frame is a transaction of its own, but they are staged, logged and answered together;
 * that makes many small ones cheap.
 *
 * Invariants: a run grows only while it is the newest in the queue. Its memory is reused once it is answered,
 * so whoever needs its bytes for longer copies them. Every frame is answered once.
 */
import { eachPageOf } from '../../state/frame/plain.js'
import { type Slab, SlabAllocator } from '../../state/slab.js'
import type { Pending, Precondition } from '../commands/pending.js'
import type { Sender } from '../types.js'

/** Memory of runs. A run holds its slab until it is answered. */
export const runSlabs = new SlabAllocator(512 * 1024, 8)

const NO_PRECONDITIONS: readonly Precondition[] = []
const NOTHING: readonly never[] = []

export class FrameRun implements Pending {
  readonly key = undefined
  readonly preconditions = NO_PRECONDITIONS
  readonly creates = NOTHING
  readonly deletes = NOTHING
  readonly isBorrowed = true
  readonly writes: number[] = []
  readonly deltas = { dense: 0, sparse: 0, masked: 0 }
  count = 0
  readonly #sender: Sender
  readonly #first: number
  readonly #slab: Slab
  readonly #start: number
  #end: number
  #lastPage = -1
  /** The pages written, once there is more than one. */
  #pages: Set<number> | undefined

  /** An empty run. Its first frame will have the number `first` and lie at `start`. */
  constructor(sender: Sender, first: number, slab: Slab, start: number) {
    this.#sender = sender
    this.#first = first
    this.#slab = slab
    this.#start = start
    this.#end = start
    slab.holders++
  }

  get bytes(): number {
    return this.#end - this.#start
  }

  get frame(): Uint8Array {
    return this.#slab.bytes.subarray(this.#start, this.#end)
  }

  /** Whether a frame with this number, at this place, continues the run. */
  isNext(sender: Sender, number: number, slab: Slab, at: number): boolean {
    return (
      sender === this.#sender &&
      number === this.#first + this.count &&
      slab === this.#slab &&
      at === this.#end
    )
  }

  /** Adds the next frame, of `length` bytes. */
  add(length: number): void {
    eachPageOf(this.#slab, this.#end, this.#write)
    this.#end += length
    this.count++
  }

  readonly #write = (pageId: number): void => {
    this.deltas.dense++
    if (pageId === this.#lastPage) return
    this.#lastPage = pageId
    if (this.writes.length > 0) {
      this.#pages ??= new Set(this.writes)
      if (this.#pages.has(pageId)) return
      this.#pages.add(pageId)
    }
    this.writes.push(pageId)
  }

  /** The same frames, each in a run of its own. This run must not be used any more. */
  split(): FrameRun[] {
    const { words } = this.#slab
    const runs: FrameRun[] = []
    for (let at = this.#start; at < this.#end; ) {
      const length = words[(at >>> 2) + 1]!
      const run = new FrameRun(this.#sender, this.#first + runs.length, this.#slab, at)
      run.add(length)
      runs.push(run)
      at += length
    }
    runSlabs.release(this.#slab)
    return runs
  }

  committed(epoch: number): void {
    runSlabs.release(this.#slab)
    this.#sender.committed(this.#first, this.count, this.bytes, epoch)
  }

  failed(error: unknown): void {
    runSlabs.release(this.#slab)
    this.#sender.failed(this.#first, this.count, this.bytes, error)
  }
}
