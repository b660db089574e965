/**
 * A transaction on its way to an epoch: its frame, and what staging must know of it without decoding the frame again.
 * Made at the door (src/engine/commands/transactions.ts) or, in recovery, from the log.
 */

import type { PageRecord } from '../pages/registry.js'
import type { CommitResult } from '../types.js'
import type { FunctionChange, Redefinition } from './functions.js'

export interface DeltaCounts {
  readonly dense: number
  readonly sparse: number
  readonly masked: number
}

export interface Precondition {
  readonly pageId: number
  readonly version: number
}

export interface Pending {
  /** Its frame; of a run (src/engine/commit/frame-run.ts), frames one behind the other. */
  readonly frame: Uint8Array
  /** Frames in a run; absent: one. */
  readonly count?: number
  /** The memory of the frame is another's once this is answered. */
  readonly isBorrowed?: boolean
  /** Idempotency key. */
  readonly key: string | undefined
  readonly preconditions: readonly Precondition[]
  /** Ids of the pages that deltas write, unique. */
  readonly writes: readonly number[]
  /** Pages to create, in order; not yet known to anyone else. */
  readonly creates: readonly PageRecord[]
  /** Ids of pages to delete, each before what it derives from. */
  readonly deletes: readonly number[]
  readonly deltas: DeltaCounts
  /** A function to define or delete, and the pages that it redefines: all that use it. */
  readonly change?: FunctionChange
  readonly redefines?: readonly Redefinition[]
  /** World age that creations and redefinitions were compiled at; absent in what comes from the log, which is right as it is. */
  readonly functionsAge?: number
}

/** A pending transaction and who waits for it. */
export interface Submission {
  readonly pending: Pending
  readonly queuedAtMs: number
  readonly resolve: (result: CommitResult) => void
  readonly reject: (error: unknown) => void
}
