/**
 * Whether the bus runs, closes or has failed. The only place that decides if it still takes writes and
 * answers reads.
 *
 * Invariant: the first failure stays; nothing resumes after it.
 */

import { MmsbError, readOnly } from '../../errors.js'
import { textOf } from '../../store/os/errors.js'

export class Lifecycle {
  readonly #listeners = new Set<(reason: string) => void>()
  #failure: string | undefined
  #isClosing = false
  #isReadOnly = false

  /** Why the bus has stopped; undefined while it runs. */
  get failure(): string | undefined {
    return this.#failure
  }

  get isReadOnly(): boolean {
    return this.#isReadOnly
  }

  /** From now on every write is refused with READ_ONLY. */
  beReadOnly(): void {
    this.#isReadOnly = true
  }

  /** Writes are taken. */
  get isWritable(): boolean {
    return this.#failure === undefined && !this.#isClosing && !this.#isReadOnly
  }

  /** Throws BUS_FAILED when the state can no longer be read. */
  refuseWhenFailed(): void {
    if (this.#failure !== undefined) throw this.stoppedError()
  }

  /** Throws when the bus takes no writes: BUS_FAILED, READ_ONLY. */
  refuseWrites(): void {
    this.refuseWhenStopped()
    if (this.#isReadOnly) throw readOnly()
  }

  /** Throws BUS_FAILED when the bus is closing or has failed. */
  refuseWhenStopped(): void {
    this.refuseWhenFailed()
    if (this.#isClosing) throw new MmsbError('BUS_FAILED', 'The bus is closing.')
  }

  stoppedError(): MmsbError {
    return new MmsbError('BUS_FAILED', `The bus has stopped: ${this.#failure ?? 'unknown'}`)
  }

  /** Calls back once when the bus fails. Returns a function that ends this. */
  onFailure(listener: (reason: string) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Writes are refused from now on; reads continue. */
  beginClose(): void {
    this.#isClosing = true
  }

  /** The bus is closed. A failure that came first stays the reason. */
  endClose(): void {
    this.#failure ??= 'the bus is closed'
  }

  /** Returns whether this is the first failure; the caller then cleans up and calls `tellFailure`. */
  fail(error: unknown): boolean {
    if (this.#failure !== undefined) return false
    this.#failure = textOf(error)
    return true
  }

  tellFailure(): void {
    for (const listener of this.#listeners) listener(this.#failure ?? 'unknown')
  }
}
