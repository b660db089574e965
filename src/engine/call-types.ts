/**
 * More types of arguments and answers of the bus. They stand here, and not where they are used, so that the
 * declarations of the package lead to no declarations of the store and of native packages. Types only.
 */
import type { PageDefinition } from '../state/types.js'

/** A page of `createMany`. */
export interface NamedDefinition {
  readonly name: string
  readonly definition: PageDefinition
}

/** A page whose definition takes another version of its op, or other versions of functions. */
export interface Migrated {
  readonly page: string
  readonly op: string
  readonly from: number
  readonly to: number
}

/** The answer of `migrate`. */
export interface Migration {
  /** The epoch that moved the pages; undefined where there were none. */
  readonly epoch: number | undefined
  /** By id. */
  readonly pages: readonly Migrated[]
}

/** What became of a message of frames. */
export interface IngestResult {
  /** Numbers used: one for each frame, and one for bytes that are not a frame. */
  numbers: number
  /** Frames that were queued; their answers follow. */
  frames: number
  /** Bytes of the queued frames. */
  bytes: number
}

export interface RangeQuery {
  readonly from?: number
  readonly to?: number
  readonly limit?: number
}

/**
 * A question whose answer may be JSON. It shows only pages that match a pattern of each list of `visible`.
 */
export type PastQuestion = { readonly visible?: readonly (readonly string[])[] } & (
  | { readonly kind: 'epoch'; readonly epoch: number }
  | {
      readonly kind: 'epochs'
      readonly query: RangeQuery & { readonly page?: string; readonly source?: string }
    }
  | { readonly kind: 'history'; readonly name: string; readonly query: RangeQuery }
  | {
      readonly kind: 'diff'
      readonly query: { readonly from: number; readonly to?: number; readonly pages?: readonly string[] }
    }
)

/** A transaction that is about to be queued. */
export interface Work {
  /** Bytes of its frame. */
  readonly bytes: number
  /** The pages that it creates; what each takes, as PageTally counts it. */
  readonly creates: readonly { readonly bytes: number }[]
  /** How many functions there are then; undefined unless it adds one. */
  readonly functions: number | undefined
  /** Estimated nanoseconds of the steps that it makes necessary. */
  costNs(): number
}

/**
 * Whether a sender may commit something now, where that is limited. Who limits it, and by what, is
 * not known here.
 */
export interface Admission {
  /**
   * Throws if the work may not be done now. Returns what is called once it has been done or has failed.
   * Called once for each transaction, after everything that can be refused without it.
   */
  admit(work: Work): (() => void) | undefined
  /**
   * The same for a frame that writes one page; false if it is to be asked for by `admit`, which refuses it.
   */
  admitsPlain(bytes: number, costNs: () => number): boolean
}
