/**
 * Transactions that wait for an epoch.
 *
 * Invariants: they are staged in the order in which they were queued; each is answered or refused once; the
 * queue is bounded in transactions and bytes. A run of plain frames counts as many transactions but lies in
 * the queue once.
 */
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../../errors.js'
import { DeviceLost } from '../../ffi/library.js'
import { QUEUE_MAX_BYTES, QUEUE_MAX_TRANSACTIONS, RUN_MAX_FRAMES, STAGED_AT_ONCE_MAX } from '../../limits.js'
import type { Slab } from '../../state/slab.js'
import { type Pending, type Submission, structureOf } from '../commands/pending.js'
import type { CommitResult, Sender } from '../types.js'
import type { Batch } from './batch.js'
import { FrameRun } from './frame-run.js'

/** The error for a transaction for which there is no room. How much others use is not for every caller. */
export const queueFull = (): MmsbError =>
  new MmsbError('OVERLOADED', 'Too many transactions are waiting.', { retryAfterS: 1 })

export class CommitQueue {
  #submissions: Submission[] = []
  #bytes = 0
  #count = 0

  get isEmpty(): boolean {
    return this.#submissions.length === 0
  }

  /** Transactions in the queue. */
  get count(): number {
    return this.#count
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Whether a transaction of so many bytes can be queued. */
  hasRoom(bytes: number): boolean {
    if (this.#count >= QUEUE_MAX_TRANSACTIONS) return false
    return this.#count === 0 || this.#bytes + bytes <= QUEUE_MAX_BYTES
  }

  /** Queues a transaction for which there is room. The promise gets its answer or its refusal. */
  add(pending: Pending): Promise<CommitResult> {
    const answer = new Promise<CommitResult>((resolve, reject) => {
      this.#submissions.push({ pending, queuedAtMs: performance.now(), resolve, reject })
    })
    this.#bytes += pending.frame.byteLength
    this.#count++
    return answer
  }

  /**
   * Queues a plain frame, for which there is room, as part of the newest run when it continues it. Returns
   * whether it became a submission of its own.
   */
  addPlain(sender: Sender, number: number, slab: Slab, at: number, length: number): boolean {
    const newest = this.#submissions.at(-1)?.pending
    const joins =
      newest instanceof FrameRun && newest.count < RUN_MAX_FRAMES && newest.isNext(sender, number, slab, at)
    const run = joins ? newest : new FrameRun(sender, number, slab, at)
    run.add(length)
    this.#bytes += length
    this.#count++
    if (!joins) this.#submissions.push(submissionOf(run, performance.now()))
    return !joins
  }

  /** Takes the transaction in front if it changes too many pages to be staged at once. */
  takeLarge(): Submission | undefined {
    const [first] = this.#submissions
    if (first === undefined || structureOf(first.pending) <= STAGED_AT_ONCE_MAX) return undefined
    this.#submissions.shift()
    this.#bytes -= first.pending.frame.byteLength
    this.#count--
    return first
  }

  /** Puts it back, where nothing of it was staged. */
  putBack(submission: Submission): void {
    this.#submissions.unshift(submission)
    this.#bytes += submission.pending.frame.byteLength
    this.#count++
  }

  /**
   * Stages transactions from the front of the queue until the batch is full, one must wait or is large, and
   * refuses those that staging refuses. Throws DeviceLost, and then keeps all that it did not refuse.
   */
  fill(batch: Batch): Submission[] {
    const taken: Submission[] = []
    const refused = new Set<Submission>()
    let at = 0
    for (; at < this.#submissions.length; at++) {
      const submission = this.#submissions[at] as Submission
      const { pending } = submission
      const bytes = pending.frame.byteLength
      const { count = 1 } = pending
      const structure = structureOf(pending)
      if (structure > STAGED_AT_ONCE_MAX) break
      if (taken.length > 0 && !batch.hasRoom(count, bytes, structure)) break
      try {
        if (batch.stage(pending) === 'later') break
        taken.push(submission)
      } catch (error) {
        if (error instanceof DeviceLost) {
          this.#keepAllBut(refused)
          throw error
        }
        if (pending instanceof FrameRun && count > 1) {
          // Perhaps not every frame of the run has to be refused.
          const { queuedAtMs } = submission
          this.#submissions.splice(at--, 1, ...pending.split().map((run) => submissionOf(run, queuedAtMs)))
          continue
        }
        refused.add(submission)
        submission.reject(error)
      }
      this.#bytes -= bytes
      this.#count -= count
    }
    this.#submissions = at === this.#submissions.length ? [] : this.#submissions.slice(at)
    return taken
  }

  #keepAllBut(refused: ReadonlySet<Submission>): void {
    this.#submissions = this.#submissions.filter((other) => !refused.has(other))
    this.#bytes = this.#submissions.reduce((sum, { pending }) => sum + pending.frame.byteLength, 0)
    this.#count = this.#submissions.reduce((sum, { pending }) => sum + (pending.count ?? 1), 0)
  }

  /** Empties the queue; each transaction is refused with an error of its own. */
  refuseAll(error: () => Error): void {
    const submissions = this.#submissions
    this.#submissions = []
    this.#bytes = 0
    this.#count = 0
    for (const { reject } of submissions) reject(error())
  }
}

function submissionOf(run: FrameRun, queuedAtMs: number): Submission {
  return {
    pending: run,
    queuedAtMs,
    resolve: ({ epoch }) => run.committed(epoch),
    reject: (error) => run.failed(error),
  }
}
