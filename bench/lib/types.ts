/**
 * What a row of the benchmarks is: one measurement beside its baseline, in the same run, in
 * alternating pairs.
 */

/** What is measured, and whether more of it is better. */
export interface Figure {
  readonly name: string
  readonly better: 'higher' | 'lower'
}

export interface Context {
  /** Fewer pairs and shorter runs: shows that everything works; not for reports. */
  readonly quick: boolean
  /** An empty folder on the repository's disk for this row's data; removed afterwards. */
  readonly dir: string
  /** Shows progress. */
  say(line: string): void
  /**
   * Set when two builds are compared: takes part in alternating pairs with the same row of the other build,
   * and resolves when they are done. A figure that was compared before is not compared again.
   */
  readonly compared?: (figure: Figure, measure: () => Promise<number>) => Promise<void>
}

export interface Result {
  readonly name: string
  readonly unit: string
  /** MMSB's figure; null where the row only measures the machine. */
  readonly mmsb: number | null
  readonly baseline: number
  /** The baseline in a few words. */
  readonly against: string
  /** The ratio as the budget counts it; null without a baseline. */
  readonly ratio: number | null
  /** The budget in words, and whether it is met; null where there is none. */
  readonly budget: { readonly text: string; readonly met: boolean } | null
  /** Further figures that help to read the row. */
  readonly details?: Readonly<Record<string, number | string>>
}

/** Something that could not be measured on this machine, and why. */
export interface Skip {
  readonly name: string
  readonly skipped: string
}

export type Row = (context: Context) => Promise<readonly (Result | Skip)[]>
