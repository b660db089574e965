/**
 * The same figures, computed a second time: plain TypeScript straight from the price file and the
 * list of trades.
 *
 * It shares no code with the server and knows neither pages nor ring: scenarios are in order of time, sums
 * are loops. So agreement with the bus is evidence. Exposures come from one multiplication each and must be
 * equal to the bit. Profits and losses are sums of five products, for which the bus may use fused
 * multiply-add: they may differ by rounding.
 */
import { CONFIDENCE, LIMITS, START_POSITIONS, type Trade, WINDOW } from './model.js'
import { type Month, returns } from './prices.js'

export interface Risk {
  /** Dollars, [stock][book]. */
  readonly exposure: readonly (readonly number[])[]
  /** One figure per book, in dollars; losses are positive. */
  readonly value: readonly number[]
  readonly valueAtRisk: readonly number[]
  readonly expectedShortfall: readonly number[]
  readonly breach: readonly boolean[]
}

/** Risk after the prices of `months[at]` and the given trades. Throws if a holding lacks a full history. */
export function independentRisk(months: readonly Month[], at: number, trades: readonly Trade[]): Risk {
  const positions = START_POSITIONS.map((row) => [...row])
  for (const { stock, book, shares } of trades) positions[stock]![book]! += shares
  const prices = months[at]!.prices
  const exposure = positions.map((row, stock) => row.map((shares) => shares * (prices[stock] ?? 0)))
  const scenarios: (number | null)[][] = []
  for (let month = at - WINDOW + 1; month <= at; month++) {
    scenarios.push(returns(months[month - 1]!, months[month]!))
  }

  const value: number[] = []
  const valueAtRisk: number[] = []
  const expectedShortfall: number[] = []
  for (const book of LIMITS.keys()) {
    const holdings = exposure.map((row) => row[book]!)
    const outcomes = scenarios.map((scenario) => profit(scenario, holdings))
    const threshold = quantile(outcomes, 1 - CONFIDENCE)
    const losses = outcomes.filter((outcome) => outcome <= threshold).map((outcome) => -outcome)
    value.push(sum(holdings))
    valueAtRisk.push(-threshold)
    expectedShortfall.push(sum(losses) / losses.length)
  }
  const breach = valueAtRisk.map((loss, book) => loss > LIMITS[book]!)
  return { exposure, value, valueAtRisk, expectedShortfall, breach }
}

function profit(scenario: readonly (number | null)[], holdings: readonly number[]): number {
  let total = 0
  for (const [stock, exposure] of holdings.entries()) {
    const change = scenario[stock]!
    if (exposure === 0) continue
    if (change === null) throw new Error('a book holds a stock whose history does not fill the window')
    total += change * exposure
  }
  return total
}

/** Linear interpolation between the two nearest order statistics (definition 7 of Hyndman and Fan, 1996). */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const position = Number((q * (sorted.length - 1)).toFixed(9))
  const below = Math.floor(position)
  const above = Math.min(below + 1, sorted.length - 1)
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (position - below)
}

function sum(values: readonly number[]): number {
  let total = 0
  for (const value of values) total += value
  return total
}
