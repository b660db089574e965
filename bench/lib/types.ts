/**
 * The words of the benchmarks. A row measures one thing beside its baseline, in the same run, in alternating pairs.
 */

/** What is measured, and whether more of it is better. */
export interface Figure {
  readonly name: string
  readonly better: 'higher' | 'lower'
}

export interface Context {
  /** Fewer pairs and shorter runs: to see that everything works, not to report. */
  readonly quick: boolean
  /** An empty folder on the disk of the repository, for the data of this row; removed afterwards. */
  readonly dir: string
  /** Progress for whoever watches. */
  say(line: string): void
  /**
   * Set when two builds are compared: takes part in alternating pairs with the same row of the other build, and resolves when
   * they are done. A figure that was compared before is not compared again.
   */
  readonly compared?: (figure: Figure, measure: () => Promise<number>) => Promise<void>
}

export interface Result {
  readonly name: string
  readonly unit: string
  /** What MMSB does; null where the row only measures the machine. */
  readonly mmsb: number | null
  readonly baseline: number
  /** What the baseline is, in a few words. */
  readonly against: string
  /** As the budget counts it; null where there is none. */
  readonly ratio: number | null
  /** The budget in words, and whether it is met; null where the design names none. */
  readonly budget: { readonly text: string; readonly met: boolean } | null
  /** Figures that help to read it. */
  readonly details?: Readonly<Record<string, number | string>>
}

/** Something that could not be measured here, and why. */
export interface Skip {
  readonly name: string
  readonly skipped: string
}

export type Row = (context: Context) => Promise<readonly (Result | Skip)[]>
