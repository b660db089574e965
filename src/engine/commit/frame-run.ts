/**
 * A run: plain frames (src/state/frame/plain.ts) of one sender, one behind the other in memory and in the commit queue. Each is
 * a transaction of its own; they are staged, logged and answered together, which is what makes many small ones cheap.
 *
 * Invariants: a run grows only while it is the newest in the queue; its memory is used again once it is answered, so whoever
 * keeps its bytes for longer copies them; every frame is answered once.
 */
import { align8 } from '../../state/bytes.js'
import { eachPageOf, type FrameMemory } from '../../state/frame/plain.js'
import type { Pending, Precondition } from '../commands/pending.js'
import type { Sender } from '../types.js'

/** Memory that runs lie in, taken from its start to its end. */
export interface Slab extends FrameMemory {
  used: number
  /** Runs in it that have not been answered. */
  runs: number
}

const SLAB_BYTES = 512 * 1024
const SPARE_SLABS_MAX = 8
const spare: Slab[] = []
let current = newSlab()

function newSlab(): Slab {
  const bytes = new Uint8Array(SLAB_BYTES)
  return { bytes, words: new Uint32Array(bytes.buffer), used: 0, runs: 0 }
}

/** A slab with room for `sizeBytes` more, at most SLAB_BYTES, from `used` on. */
export function slabFor(sizeBytes: number): Slab {
  if (current.used + align8(sizeBytes) <= SLAB_BYTES) return current
  if (current.runs > 0) current = spare.pop() ?? newSlab()
  current.used = 0
  return current
}

function leave(slab: Slab): void {
  slab.runs--
  if (slab.runs === 0 && slab !== current && spare.length < SPARE_SLABS_MAX) spare.push(slab)
}

const NO_PRECONDITIONS: readonly Precondition[] = []
const NOTHING: readonly never[] = []

export class Run implements Pending {
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
  /** The pages written, once they are more than one. */
  #pages: Set<number> | undefined

  /** An empty run of frames from number `first` on, which lie from `start` on. */
  constructor(sender: Sender, first: number, slab: Slab, start: number) {
    this.#sender = sender
    this.#first = first
    this.#slab = slab
    this.#start = start
    this.#end = start
    slab.runs++
  }

  get bytes(): number {
    return this.#end - this.#start
  }

  get frame(): Uint8Array {
    return this.#slab.bytes.subarray(this.#start, this.#end)
  }

  /** Whether a frame with this number, at this place, is the next of the run. */
  isNext(sender: Sender, number: number, slab: Slab, at: number): boolean {
    return (
      sender === this.#sender &&
      number === this.#first + this.count &&
      slab === this.#slab &&
      at === this.#end
    )
  }

  /** Takes the next frame in, of `length` bytes. */
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

  /** The same frames, each in a run of its own; this one is then no more. */
  split(): Run[] {
    const { words } = this.#slab
    const runs: Run[] = []
    for (let at = this.#start; at < this.#end; ) {
      const length = words[(at >>> 2) + 1]!
      const run = new Run(this.#sender, this.#first + runs.length, this.#slab, at)
      run.add(length)
      runs.push(run)
      at += length
    }
    leave(this.#slab)
    return runs
  }

  committed(epoch: number): void {
    leave(this.#slab)
    this.#sender.committed(this.#first, this.count, this.bytes, epoch)
  }

  failed(error: unknown): void {
    leave(this.#slab)
    this.#sender.failed(this.#first, this.count, this.bytes, error)
  }
}
