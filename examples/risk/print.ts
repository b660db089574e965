/**
 * The output of the demo: one line per epoch, plain text, colour only on a terminal. Formats only.
 */
import type { Change } from './client.js'
import { BOOKS, LIMITS } from './model.js'

const COLOUR = process.stdout.isTTY === true && process.env.NO_COLOR === undefined
const CELL_WIDTH = 18
const paint = (code: number) => (text: string) =>
  COLOUR && text !== '' ? `\x1b[${code}m${text}\x1b[0m` : text
export const bold = paint(1)
export const dim = paint(2)
export const red = paint(31)
export const green = paint(32)

export function say(line = ''): void {
  process.stdout.write(`${line}\n`)
}

export function money(dollars: number): string {
  return dollars.toLocaleString('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 })
}

function millions(dollars: number): string {
  return (dollars / 1e6).toFixed(2).padStart(6)
}

export function printHead(): void {
  const books = BOOKS.map((book, i) => `${book} <= ${(LIMITS[i]! / 1e6).toFixed(1)}`.padEnd(CELL_WIDTH))
  say(dim(`                                   VaR and ES in million dollars; VaR above its limit: !`))
  say(bold(`month    epoch  pages  took   ${books.join('')}`.trimEnd()))
  say(dim(`                              ${BOOKS.map(() => '   VaR    ES      ').join('')}`.trimEnd()))
}

export interface Row {
  readonly month: string
  readonly change: Change
  readonly tookMs: number
  readonly note?: string
  readonly mirror: ReadonlyMap<string, readonly number[]>
}

/**
 * One epoch: its month, the number of changed pages, the time from write to event, and the risk of each book.
 */
export function printRow(row: Row): void {
  const page = (name: string) => row.mirror.get(name)!
  const cells = BOOKS.map((_, book) => {
    const breach = page('risk.breach')[book] === 1
    const figures = `${millions(page('risk.var')[book]!)}${breach ? '!' : ' '}${millions(page('risk.es')[book]!)}`
    const cell = figures.padEnd(CELL_WIDTH)
    return breach ? red(cell) : cell
  })
  const pages = String(row.change.changes.length).padStart(5)
  const took = `${row.tookMs.toFixed(1)} ms`.padStart(8)
  const risk = cells.join('') + (row.note ?? '')
  say(`${row.month} ${String(row.change.epoch).padStart(5)}  ${pages}${took}   ${risk}`.trimEnd())
}

/** The pages of one change message, each with the number of changed elements. */
export function printChange(change: Change): void {
  const counts = change.changes.map(({ page, ranges }) => {
    const elements = ranges.reduce((total, [, count]) => total + count, 0)
    return `${page.replace('risk.', '')} ${elements}`
  })
  say(dim(`         one message, epoch ${change.epoch}, elements changed: ${counts.join(', ')}`))
}
