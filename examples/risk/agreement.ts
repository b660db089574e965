/**
 * Compares the pages of the bus with the independent computation, and counts the differences.
 *
 * Exposures and breaches must be equal; values, VaR and expected shortfall may differ by rounding only
 * (TOLERANCE, relative to the book's gross exposure: a sum of five products has at most some ten roundings
 * of 1.1e-16).
 */
import { independentRisk } from './independent.js'
import { BOOKS, type Trade } from './model.js'
import type { Month } from './prices.js'
import { bold, green, money, red, say } from './print.js'

export const TOLERANCE = 1e-14

type Pages = ReadonlyMap<string, readonly number[]>

export class Agreement {
  readonly #months: readonly Month[]
  readonly #broken: string[] = []
  #comparisons = 0
  #largestDifference = 0

  constructor(months: readonly Month[]) {
    this.#months = months
  }

  /** Records a statement that must be true. */
  claim(what: string, isTrue: boolean): void {
    this.#comparisons += 1
    if (!isTrue) this.#broken.push(what)
  }

  /** Compares the pages with the risk computed from the price file for that month and those trades. */
  compare(pages: Pages, at: number, trades: readonly Trade[]): void {
    const expected = independentRisk(this.#months, at, trades)
    const name = this.#months[at]!.name
    const exposure = pages.get('risk.exposure')!
    this.claim(
      `exposures of ${name}`,
      expected.exposure.flat().every((value, i) => value === exposure[i]),
    )
    for (const [book, title] of BOOKS.entries()) {
      const gross = expected.exposure.reduce((total, row) => total + Math.abs(row[book]!), 0)
      this.#near(
        `value of ${title} in ${name}`,
        pages.get('risk.value')![book]!,
        expected.value[book]!,
        gross,
      )
      this.#near(
        `VaR of ${title} in ${name}`,
        pages.get('risk.var')![book]!,
        expected.valueAtRisk[book]!,
        gross,
      )
      const shortfall = expected.expectedShortfall[book]!
      this.#near(`ES of ${title} in ${name}`, pages.get('risk.es')![book]!, shortfall, gross)
      const breach = pages.get('risk.breach')![book] === 1
      this.claim(`breach of ${title} in ${name}`, breach === expected.breach[book])
    }
  }

  /** Compares for the last time and prints the result; returns true if nothing ever differed. */
  verdict(pages: Pages, at: number, trades: readonly Trade[]): boolean {
    this.compare(pages, at, trades)
    const expected = independentRisk(this.#months, at, trades)
    say(bold(`check     ${this.#months[at]!.name}           bus   independently`))
    for (const [book, title] of BOOKS.entries()) {
      const line = (what: string, page: string, value: number) =>
        say(
          `${title.padEnd(10)}${what}${money(pages.get(page)![book]!).padStart(18)}${money(value).padStart(16)}`,
        )
      line('VaR', 'risk.var', expected.valueAtRisk[book]!)
      line('ES ', 'risk.es', expected.expectedShortfall[book]!)
    }
    for (const what of this.#broken) say(red(`differs   ${what}`))
    const equal = this.#broken.length === 0
    say(
      `${this.#comparisons} comparisons, ${this.#broken.length} differ; largest difference ` +
        `${this.#largestDifference.toExponential(1)} of gross exposure (tolerance ${TOLERANCE})`,
    )
    say(equal ? green('equal') : red('NOT EQUAL'))
    return equal
  }

  #near(what: string, actual: number, expected: number, scale: number): void {
    const difference = scale === 0 ? Math.abs(actual - expected) : Math.abs(actual - expected) / scale
    this.#largestDifference = Math.max(this.#largestDifference, difference)
    this.claim(what, difference <= TOLERANCE)
  }
}
