/**
 * Whether a sender may commit something now, where that is limited. Types only; who limits it, and by what,
 * is not known here.
 */

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
