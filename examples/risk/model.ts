/**
 * The risk model as pages: sources, derived pages, and the holdings of the desk.
 *
 * Historical simulation: each of the last WINDOW months is a scenario. Its returns, applied to today's
 * exposures, give a profit or loss per book; the 5 % quantile of those is the Value at Risk, the mean of
 * the losses at or beyond it the expected shortfall. Matrices are [stocks, books], so that `matmul` needs
 * no transpose.
 *
 * GOOG was listed in August 2004. Its row of the scenario ring holds zeros for months without a return, and
 * no book may hold it before WINDOW months of its own returns fill the window (August 2008): a zero never
 * hides a risk.
 */
import { STOCKS } from './prices.js'

export const BOOKS = ['growth', 'value', 'balanced', 'hedged'] as const
/** Months of history in the simulation. */
export const WINDOW = 48
export const CONFIDENCE = 0.95
/** The largest loss that a book may have in a month at that confidence, in dollars. */
export const LIMITS: readonly number[] = [3_000_000, 2_000_000, 2_000_000, 1_500_000]

/**
 * Shares at the start, one row per stock (as STOCKS), one column per book (as BOOKS). Negative: sold short.
 */
export const START_POSITIONS: readonly (readonly number[])[] = [
  [400_000, 0, 150_000, 250_000],
  [100_000, 0, 40_000, 0],
  [0, 0, 0, 0],
  [0, 60_000, 25_000, -40_000],
  [0, 250_000, 100_000, -100_000],
]

/** Shares bought (or sold) of one stock for one book, after the prices of that month. */
export interface Trade {
  readonly month: string
  readonly stock: number
  readonly book: number
  readonly shares: number
}

/** From this month on GOOG may be held: 48 returns of its own fill the window. */
export const PLANNED_TRADES: readonly Trade[] = [
  { month: '2008-08', stock: STOCKS.indexOf('GOOG'), book: 0, shares: 4_000 },
  { month: '2008-08', stock: STOCKS.indexOf('GOOG'), book: 2, shares: 3_000 },
]

/** The share of every holding that the desk sells, in round lots, when a book exceeds its limit. */
const TRIM = 0.3
const LOT = 100

export function trim(month: string, book: number, positions: readonly (readonly number[])[]): Trade[] {
  return positions
    .map((row, stock) => ({ month, stock, book, shares: -Math.trunc((row[book]! * TRIM) / LOT) * LOT }))
    .filter((trade) => trade.shares !== 0)
}

const S = STOCKS.length
const B = BOOKS.length

/** Page definitions in the order in which they must be created. */
export const PAGES: readonly (readonly [name: string, definition: object])[] = [
  ['risk.prices', { dtype: 'f64', shape: [S, 1] }],
  ['risk.positions', { dtype: 'i32', shape: [S, B] }],
  ['risk.scenarios', { dtype: 'f64', shape: [WINDOW, S] }],
  ['risk.limits', { dtype: 'f64', shape: [B] }],

  ['risk.exposure', map('shares * price', { shares: 'risk.positions', price: 'risk.prices' })],
  ['risk.value', reduce('sum', 'risk.exposure')],
  ['risk.pnl', { derive: { op: 'matmul', inputs: { a: 'risk.scenarios', b: 'risk.exposure' } } }],
  [
    'risk.quantile',
    { derive: { op: 'quantile', inputs: { x: 'risk.pnl' }, q: round(1 - CONFIDENCE), axis: 0 } },
  ],
  ['risk.var', map('-q', { q: 'risk.quantile' })],
  ['risk.beyond', map('pnl <= q', { pnl: 'risk.pnl', q: 'risk.quantile' })],
  ['risk.tail', map('-pnl if beyond else 0', { pnl: 'risk.pnl', beyond: 'risk.beyond' })],
  ['risk.tail.sum', reduce('sum', 'risk.tail')],
  ['risk.tail.count', reduce('count', 'risk.beyond')],
  ['risk.es', map('total / n', { total: 'risk.tail.sum', n: 'risk.tail.count' })],
  ['risk.breach', map('loss > limit', { loss: 'risk.var', limit: 'risk.limits' })],
]

function map(expr: string, inputs: Record<string, string>): object {
  return { derive: { op: 'map', inputs, expr } }
}

function reduce(fn: string, x: string): object {
  return { derive: { op: 'reduce', inputs: { x }, fn, axes: [0] } }
}

/** 1 - 0.95 is not 0.05 in binary floating point. */
function round(q: number): number {
  return Number(q.toFixed(12))
}
