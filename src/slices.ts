/**
 * Long work on the event loop, done in slices: between two slices timers and sockets have their turn.
 *
 * Invariants: the work is a generator that yields wherever it may be interrupted; its result does not depend
 * on where it was. `atOnce` runs the same work without interruption.
 */
import { performance } from 'node:perf_hooks'

/** The longest time that a slice takes before it gives way, where the caller does not say. */
const SLICE_MS = 20

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
    await new Promise((resolve) => setImmediate(resolve))
    this.#signal?.throwIfAborted()
    this.#endMs = this.#ticksMs() + this.#sliceMs
  }

  /** Runs the work to its end. */
  async run<T>(work: Sliced<T>): Promise<T> {
    try {
      for (;;) {
        const step = work.next()
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
