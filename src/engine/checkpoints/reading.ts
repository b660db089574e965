/**
 * Reading the state for a checkpoint, piece by piece, while commits continue: from a snapshot (snapshot.ts)
 * or, where there is none, while commits are held.
 *
 * Invariant: commits are held only when the backend cannot tell what it overwrites, or when pages are
 * overwritten faster than they are read.
 */
import { MmsbError } from '../../errors.js'
import type { NativeContext } from '../../ffi/context.js'
import { CHECKPOINT_SAVED_MAX_BYTES } from '../../limits.js'
import type { Committer } from '../commit/committer.js'
import { Snapshot } from './snapshot.js'

export class CheckpointReading {
  readonly #context: NativeContext
  readonly #committer: Committer
  #snapshot: Snapshot | undefined
  #release: (() => void) | undefined
  /** Set once commits are asked to stop; settles when they have. */
  #held: Promise<void> | undefined
  #ended = false

  constructor(context: NativeContext, committer: Committer) {
    this.#context = context
    this.#committer = committer
  }

  /** The state must be at rest. */
  open(pages: readonly { readonly id: number; readonly bytes: number }[]): void {
    try {
      this.#snapshot = new Snapshot(this.#context, new Map(pages.map(({ id, bytes }) => [id, bytes])))
      this.#committer.observe(this.#snapshot)
    } catch (error) {
      if (!(error instanceof MmsbError) || error.code !== 'UNSUPPORTED_LOCATION') throw error
      this.#hold()
    }
  }

  /** Keeps epochs from starting until everything is read. */
  #hold(): void {
    this.#held = new Promise((begun, failed) => {
      const held = this.#committer.hold(
        () =>
          new Promise<void>((release) => {
            this.#release = release
            begun()
            if (this.#ended) release()
          }),
      )
      held.catch(failed)
    })
    // `ready` hands it out before each piece is read.
    this.#held.catch(() => {})
  }

  readonly begin = (ids: ReadonlySet<number>): void => this.#snapshot?.narrow(ids)

  readonly ready = (): Promise<void> | undefined => {
    const isTooMuch = (this.#snapshot?.savedBytes ?? 0) > CHECKPOINT_SAVED_MAX_BYTES
    if (isTooMuch && this.#held === undefined) this.#hold()
    if (this.#held !== undefined) return this.#held
    return this.#committer.isQuiet ? undefined : this.#committer.quiet()
  }

  readonly read = (pageId: number, offset: number, into: Uint8Array): void => {
    this.#committer.lifecycle.refuseWhenFailed()
    if (this.#snapshot === undefined) this.#context.readPage(pageId, offset, into)
    else this.#snapshot.read(pageId, offset, into)
  }

  /** Idempotent. */
  readonly onRead = (): void => {
    if (this.#ended) return
    this.#ended = true
    this.#release?.()
    const snapshot = this.#snapshot
    if (snapshot === undefined) return
    void this.#committer.quiet().then(() => {
      this.#committer.observe(undefined)
      snapshot.end()
    })
  }
}
