/**
 * Idempotency keys and the answers that their first transactions got or will get.
 *
 * Invariant: at most IDEMPOTENCY_KEYS_MAX answers are kept; the oldest are forgotten first. The caller that
 * asks for a key and finds nothing must queue its transaction in the same turn of the event loop, so the
 * question is asked once.
 */
import { IDEMPOTENCY_KEYS_MAX } from '../../limits.js'
import type { CommitResult } from '../types.js'

export class IdempotencyKeys {
  readonly #answers = new Map<string, CommitResult>()
  readonly #pending = new Map<string, Promise<CommitResult>>()

  /** Keys with their answers, oldest first. */
  get answers(): ReadonlyMap<string, CommitResult> {
    return this.#answers
  }

  /** The answer that the first transaction with this key got or will get; undefined for a new key. */
  answered(key: string | undefined): Promise<CommitResult> | undefined {
    if (key === undefined) return undefined
    const known = this.#answers.get(key)
    return known === undefined ? this.#pending.get(key) : Promise.resolve(known)
  }

  /** A transaction with this key was queued. A refused one leaves its key free again. */
  expect(key: string, answer: Promise<CommitResult>): void {
    this.#pending.set(key, answer)
    const forget = (): void => {
      this.#pending.delete(key)
    }
    answer.then(forget, forget)
  }

  remember(key: string, answer: CommitResult): void {
    this.#answers.set(key, answer)
    if (this.#answers.size <= IDEMPOTENCY_KEYS_MAX) return
    const [oldest] = this.#answers.keys()
    if (oldest !== undefined) this.#answers.delete(oldest)
  }
}
