/**
 * Long work on the event loop, done in slices: between two slices timers and sockets have their turn.
 *
 * Invariants: the work is a generator that yields wherever it may be interrupted; its result does not depend
 * on where it was. `atOnce` runs the same work without interruption.
 */
import { performance } from 'node:perf_hooks'

/** The longest time that a slice takes before it gives way, where the caller does not say. */
const SLICE_MS = 20

/** All slices of one turn of the event loop begin within this time; the rest have theirs in later turns. */
const TURN_MS = 10

/**
 * Whoever waits for its next slice, first come, first served. However much long work there is, a turn of the
 * event loop does little more than one slice of it, so that short requests never wait for many.
 */
class Turns {
  readonly #waiting: (() => void)[] = []
  #isBegun = false
  #endMs = 0

  next(run: () => void): void {
    this.#waiting.push(run)
    setImmediate(this.#step)
  }

  readonly #step = (): void => {
    if (!this.#isBegun) {
      this.#isBegun = true
      this.#endMs = performance.now() + TURN_MS
      // Runs before every step of the next turn.
      setImmediate(this.#end)
    } else if (performance.now() > this.#endMs) {
      setImmediate(this.#step)
      return
    }
    this.#waiting.shift()?.()
  }

  readonly #end = (): void => {
    this.#isBegun = false
  }
}

const turns = new Turns()

/** Calls back when the next slice of a long work may begin, in a later turn of the event loop. */
export const atNextSlice = (run: () => void): void => turns.next(run)

/** Resolves when the next slice of a long work may begin, in a later turn of the event loop. */
export const nextSlice = (): Promise<void> => new Promise(atNextSlice)

/** Work that may be interrupted at each `yield`. */
export type Sliced<T> = Generator<undefined, T>

/** Gives way when the slice is over. Throws the reason of the signal once it is aborted. */
export class Slices {
  readonly #signal: AbortSignal | undefined
  readonly #ticksMs: () => number
  readonly #sliceMs: number
  #endMs: number

  /** `ticksMs` is a clock that never goes back. */
  constructor(
    signal?: AbortSignal,
    ticksMs: () => number = () => performance.now(),
    sliceMs: number = SLICE_MS,
  ) {
    this.#signal = signal
    this.#ticksMs = ticksMs
    this.#sliceMs = sliceMs
    this.#endMs = ticksMs() + sliceMs
  }

  /** Resolved promises would not let timers run: this returns undefined while the slice goes on. */
  giveWay(): Promise<void> | undefined {
    return this.#ticksMs() < this.#endMs ? undefined : this.#pause()
  }

  async #pause(): Promise<void> {
    await nextSlice()
    this.#signal?.throwIfAborted()
    this.#endMs = this.#ticksMs() + this.#sliceMs
  }

  /**
   * Runs the work to its end. Where `refusal` gives an error between two pieces, the work is told at the
   * place where it is, so that it can take back what it did.
   */
  async run<T>(work: Sliced<T>, refusal?: () => Error | undefined): Promise<T> {
    try {
      for (;;) {
        const error = refusal?.()
        const step = error === undefined ? work.next() : work.throw(error)
        if (step.done === true) return step.value
        const pause = this.giveWay()
        if (pause !== undefined) await pause
      }
    } finally {
      // Ends the work where it is when the signal was aborted, so that it closes what it opened.
      work.return(undefined as T)
    }
  }
}

/** Runs sliced work in one go. */
export function atOnce<T>(work: Sliced<T>): T {
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
  }
}
