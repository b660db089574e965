/**
 * A pending transaction: its frame, and what staging must know about it without decoding the frame again.
 * Made from what a caller wrote (src/engine/commands/transactions.ts) or, during recovery, from the log.
 */

import type { FunctionChange } from '../pages/function-table.js'
import type { DerivedRecord, PageRecord } from '../pages/registry.js'
import type { CommitResult } from '../types.js'

export interface DeltaCounts {
  readonly dense: number
  readonly sparse: number
  readonly masked: number
}

export interface Precondition {
  readonly pageId: number
  readonly version: number
}

/** A page that gets another definition because a function it uses changed. */
export interface Redefinition {
  readonly id: number
  readonly derived: DerivedRecord
}

export interface Pending {
  /**
   * The transaction's frame; of a run (src/engine/commit/frame-run.ts), several frames one behind the other.
   */
  readonly frame: Uint8Array
  /** Frames in a run; absent: one. */
  readonly count?: number
  /** The frame's memory is reused once the transaction is answered. */
  readonly isBorrowed?: boolean
  /** Idempotency key. */
  readonly key: string | undefined
  readonly preconditions: readonly Precondition[]
  /** Ids of the source pages that deltas write, unique. */
  readonly writes: readonly number[]
  /** Pages to create, in order. Nothing else refers to them yet. */
  readonly creates: readonly PageRecord[]
  /** Ids of pages to delete, each before the pages it derives from. */
  readonly deletes: readonly number[]
  readonly deltas: DeltaCounts
  /** A function to define or delete, and every page that uses it with its new definition. */
  readonly change?: FunctionChange
  readonly redefines?: readonly Redefinition[]
  /**
   * World age at which creations and redefinitions were compiled; absent for the log, whose content is final.
   */
  readonly functionsAge?: number
}

/** Pages that a transaction creates, deletes and redefines. */
export const structureOf = ({ creates, deletes, redefines }: Pending): number =>
  creates.length + deletes.length + (redefines?.length ?? 0)

/** A pending transaction and its caller's promise. */
export interface Submission {
  readonly pending: Pending
  readonly queuedAtMs: number
  readonly resolve: (result: CommitResult) => void
  readonly reject: (error: unknown) => void
}
