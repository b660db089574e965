/**
 * Real monthly prices of five stocks, January 2000 to March 2010, from the npm package vega-datasets
 * (stocks.csv).
 *
 * Invariants: months ascend without a gap; a stock that was not listed yet has the price null, never an
 * invented one. Alphabet (GOOG) was listed in August 2004.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

export const STOCKS = ['AAPL', 'AMZN', 'GOOG', 'IBM', 'MSFT'] as const

export interface Month {
  /** For example "2008-10". */
  readonly name: string
  /** Dollars, in the order of STOCKS; null before the listing. */
  readonly prices: readonly (number | null)[]
}

const MONTH_NAMES = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** Path of the file in the package. */
export function pricesFile(): string {
  const entry = createRequire(import.meta.url).resolve('vega-datasets')
  return join(dirname(entry), '..', 'data', 'stocks.csv')
}

/**
 * Reads `symbol,date,price` lines with dates such as `Jan 1 2000`. Throws when a line or a month is missing.
 */
export function parsePrices(csv: string): Month[] {
  const months = new Map<string, (number | null)[]>()
  const [header, ...lines] = csv.trim().split('\n')
  if (header?.trim() !== 'symbol,date,price') throw new Error(`unexpected header: ${header}`)
  for (const line of lines) {
    const [symbol, date, price] = line.trim().split(',')
    const stock = STOCKS.indexOf(symbol as (typeof STOCKS)[number])
    const [monthName, , year] = (date ?? '').split(' ')
    const month = MONTH_NAMES.indexOf(monthName ?? '') + 1
    const value = Number(price)
    if (stock < 0 || month === 0 || !(value > 0)) throw new Error(`unexpected line: ${line}`)
    const name = `${year}-${String(month).padStart(2, '0')}`
    const row = months.get(name) ?? STOCKS.map(() => null)
    row[stock] = value
    months.set(name, row)
  }
  const names = [...months.keys()].sort()
  for (const [index, name] of names.entries()) {
    if (index > 0 && name !== nextMonth(names[index - 1]!))
      throw new Error(`a month is missing before ${name}`)
  }
  return names.map((name) => ({ name, prices: months.get(name)! }))
}

export function readPrices(): Month[] {
  return parsePrices(readFileSync(pricesFile(), 'utf8'))
}

/** Return of each stock from one month to the next; null where either price is missing. */
export function returns(from: Month, to: Month): (number | null)[] {
  return to.prices.map((price, stock) => {
    const before = from.prices[stock]!
    return price === null || before === null ? null : price / before - 1
  })
}

function nextMonth(name: string): string {
  const [year, month] = name.split('-').map(Number)
  return month === 12 ? `${year! + 1}-01` : `${year}-${String(month! + 1).padStart(2, '0')}`
}
