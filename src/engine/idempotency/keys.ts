/**
 * Idempotency keys, the answers that their first transactions got or will get, and what these transactions
 * did, so that another one under the same key is noticed.
 *
 * Invariant: at most IDEMPOTENCY_KEYS_MAX answers, and about as many bytes as the operator allows, are kept;
 * the oldest are forgotten first. The caller that asks for a key and finds nothing must queue its transaction
 * in the same turn of the event loop, so the question is asked once.
 */
import { IDEMPOTENCY_KEYS_MAX } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import type { CommitResult } from '../types.js'

/** A key as checkpoints keep it. The fingerprint (fingerprint.ts) is absent in those of older versions. */
export type AnsweredKey = readonly [key: string, answer: CommitResult, fingerprint?: string]

/** The first transaction with a key. */
export interface FirstUse {
  readonly fingerprint: string | undefined
  /** The answer, once it is known. */
  readonly answer: CommitResult | undefined
  readonly result: Promise<CommitResult>
}

interface Remembered {
  readonly fingerprint: string | undefined
  readonly answer: CommitResult
}

interface Expected {
  readonly fingerprint: string
  readonly result: Promise<CommitResult>
}

/**
 * Approximate bytes of a key, its answer and fingerprint without their texts, and of one page in an answer.
 */
const ENTRY_BYTES = 256
const PAGE_BYTES = 48
/** A text has up to two bytes for each of its units. */
const UNIT_BYTES = 2

export class IdempotencyKeys {
  readonly #limits: LimitGuard
  readonly #answers = new Map<string, Remembered>()
  readonly #pending = new Map<string, Expected>()
  #bytes = 0

  constructor(limits: LimitGuard) {
    this.#limits = limits
  }

  /** Keys with their answers, oldest first. */
  entries(): AnsweredKey[] {
    return Array.from(this.#answers, ([key, { answer, fingerprint }]) =>
      fingerprint === undefined ? [key, answer] : [key, answer, fingerprint],
    )
  }

  /** The first transaction with this key; undefined for a new key. */
  firstUse(key: string | undefined): FirstUse | undefined {
    if (key === undefined) return undefined
    const known = this.#answers.get(key)
    if (known !== undefined) return { ...known, result: Promise.resolve(known.answer) }
    const expected = this.#pending.get(key)
    return expected === undefined ? undefined : { ...expected, answer: undefined }
  }

  /** A transaction with this key was queued. A refused one leaves its key free again. */
  expect(key: string, fingerprint: string, result: Promise<CommitResult>): void {
    const expected = { fingerprint, result }
    this.#pending.set(key, expected)
    const forget = (): void => {
      if (this.#pending.get(key) === expected) this.#pending.delete(key)
    }
    result.then(forget, forget)
  }

  /** The transaction that was expected under this key is committed. */
  committed(key: string, answer: CommitResult): void {
    this.remember(key, answer, this.#pending.get(key)?.fingerprint)
  }

  remember(key: string, answer: CommitResult, fingerprint: string | undefined): void {
    this.#forget(key)
    this.#answers.set(key, { answer, fingerprint })
    this.#bytes += bytesOf(key, answer)
    while (this.#answers.size > IDEMPOTENCY_KEYS_MAX) this.#forgetOldest()
    while (this.#bytes > this.#limits.values.maxIdempotencyBytes && this.#answers.size > 1) {
      this.#limits.count('maxIdempotencyBytes')
      this.#forgetOldest()
    }
  }

  #forgetOldest(): void {
    const [oldest] = this.#answers.keys()
    if (oldest !== undefined) this.#forget(oldest)
  }

  #forget(key: string): void {
    const known = this.#answers.get(key)
    if (known === undefined) return
    this.#answers.delete(key)
    this.#bytes -= bytesOf(key, known.answer)
  }
}

function bytesOf(key: string, { pages }: CommitResult): number {
  let bytes = ENTRY_BYTES + key.length * UNIT_BYTES
  for (const name of Object.keys(pages)) bytes += PAGE_BYTES + name.length * UNIT_BYTES
  return bytes
}
