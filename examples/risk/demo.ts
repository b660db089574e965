/**
 * Live portfolio risk: feeds ten years of real prices to a real server, month by month, and shows the risk
 * of each book.
 *
 * The server is a child process on a data folder of its own. Each month is one transaction; each transaction
 * is one epoch; each epoch is one message to the subscriber, in which price, VaR and breach move together. In
 * the middle the server is killed with SIGKILL and started again. Every epoch is compared with an independent
 * computation.
 *
 *   npx tsx examples/risk/demo.ts [--delay-ms N]
 *
 * Exit code 0: everything agreed. 1: something differed or failed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { runDemo, type Server, startServer } from '../server.js'
import { Agreement } from './agreement.js'
import { type Change, request, type Subscription, subscribe } from './client.js'
import { BOOKS, LIMITS, PAGES, PLANNED_TRADES, START_POSITIONS, type Trade, trim, WINDOW } from './model.js'
import { type Month, readPrices, returns, STOCKS } from './prices.js'
import { bold, dim, green, printChange, printHead, printRow, red, say } from './print.js'

const CRASH_MONTH = '2007-06'

interface Desk {
  readonly dataDir: string
  readonly delayMs: number
  readonly months: readonly Month[]
  readonly agreement: Agreement
  readonly trades: Trade[]
  server: Server
  stream: Subscription
  /** Whether the first message with a breach has been shown. */
  shown: boolean
}

interface Op {
  readonly page: string
  readonly offset?: number
  readonly indices?: readonly number[]
  readonly values: readonly number[]
  readonly merge?: 'add'
}

interface Status {
  readonly epoch: number
  readonly digest: string
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({ options: { 'delay-ms': { type: 'string' } } })
  const delayMs = Number(values['delay-ms'] ?? (process.stdout.isTTY === true ? 100 : 0))
  const dataDir = mkdtempSync(join(tmpdir(), 'mmsb-risk-'))
  process.once('exit', () => rmSync(dataDir, { recursive: true, force: true }))
  const months = readPrices()
  say(bold(`Live portfolio risk: ${STOCKS.join(', ')}; books ${BOOKS.join(', ')}`))
  say(
    `prices    ${months.length} real months, ${months[0]!.name} to ${months.at(-1)!.name} (vega-datasets, stocks.csv)`,
  )
  say(
    `model     95 % VaR by historical simulation over the last ${WINDOW} months; GOOG joins when it has as many`,
  )
  const server = await startServer({ dataDir })
  say(`server    ${server.url}  pid ${server.pid}, ready in ${server.startMs.toFixed(0)} ms`)
  for (const [name, definition] of PAGES) await request(server.url, 'PUT', `/v1/pages/${name}`, definition)
  const stream = await subscribe(server.url, 'risk.*')
  const agreement = new Agreement(months)
  const desk: Desk = { dataDir, delayMs, months, agreement, trades: [], server, stream, shown: false }
  say(`pages     ${PAGES.length} made, subscribed at epoch ${stream.epoch()}`)
  await commit(desk, openingOps(months), 'history')
  say(`history   ${WINDOW} months of returns, positions and limits written: epoch ${stream.epoch()}\n`)

  printHead()
  for (let at = WINDOW; at < months.length; at++) {
    await month(desk, at)
    if (months[at]!.name === CRASH_MONTH) await crash(desk)
  }
  const equal = await finish(desk)
  desk.stream.close()
  await desk.server.stop()
  return equal
}

/** Feeds one month, then lets the desk react to the stream. */
async function month(desk: Desk, at: number): Promise<void> {
  const { name } = desk.months[at]!
  const before = breaches(desk.stream)
  await step(desk, at, monthOps(desk.months, at), 'feed', '')
  const now = breaches(desk.stream)

  const planned = PLANNED_TRADES.filter((trade) => trade.month === name)
  if (planned.length > 0) await trade(desk, at, planned, 'GOOG bought')
  for (const [book, breach] of now.entries()) {
    if (!breach || before[book]) continue
    const positions = START_POSITIONS.map((row, stock) =>
      row.map((_, column) => desk.stream.mirror.get('risk.positions')![stock * BOOKS.length + column]!),
    )
    await trade(desk, at, trim(name, book, positions), `${BOOKS[book]} trimmed`)
  }
}

async function trade(desk: Desk, at: number, trades: readonly Trade[], note: string): Promise<void> {
  desk.trades.push(...trades)
  const op: Op = {
    page: 'risk.positions',
    indices: trades.map(({ stock, book }) => stock * BOOKS.length + book),
    values: trades.map(({ shares }) => shares),
    merge: 'add',
  }
  await step(desk, at, [op], 'desk', note)
}

/** Sends one transaction, prints its message as one line, and compares. */
async function step(desk: Desk, at: number, ops: readonly Op[], source: string, note: string): Promise<void> {
  const started = performance.now()
  const change = await commit(desk, ops, source)
  const tookMs = performance.now() - started
  printRow({ month: desk.months[at]!.name, change, tookMs, note: dim(note), mirror: desk.stream.mirror })
  desk.agreement.compare(desk.stream.mirror, at, desk.trades)
  if (!desk.shown && moves(change, 'risk.prices', 'risk.var', 'risk.breach')) {
    desk.shown = true
    printChange(change)
    say(
      green('         price, VaR and breach moved in that one epoch: nobody can see one without the others'),
    )
  }
  if (desk.delayMs > 0) await sleep(desk.delayMs)
}

async function commit(desk: Desk, ops: readonly Op[], source: string): Promise<Change> {
  const transaction = { ops, source }
  const { epoch } = await request<Status>(desk.server.url, 'POST', '/v1/transactions', transaction)
  return desk.stream.change(epoch)
}

function openingOps(months: readonly Month[]): Op[] {
  const rows = []
  for (let at = 1; at < WINDOW; at++) rows.push(...scenario(months, at))
  return [
    { page: 'risk.scenarios', offset: STOCKS.length, values: rows },
    { page: 'risk.positions', values: START_POSITIONS.flat() },
    { page: 'risk.limits', values: LIMITS },
  ]
}

/** The month's prices, and its returns in place of the oldest: the scenarios are a ring of rows. */
function monthOps(months: readonly Month[], at: number): Op[] {
  const prices = months[at]!.prices.map((price) => price ?? 0)
  const offset = (at % WINDOW) * STOCKS.length
  return [
    { page: 'risk.prices', values: prices },
    { page: 'risk.scenarios', offset, values: scenario(months, at) },
  ]
}

function scenario(months: readonly Month[], at: number): number[] {
  return returns(months[at - 1]!, months[at]!).map((change) => change ?? 0)
}

function breaches(stream: Subscription): boolean[] {
  return stream.mirror.get('risk.breach')!.map((breach) => breach === 1)
}

function moves(change: Change, ...pages: readonly string[]): boolean {
  return pages.every((page) => change.changes.some((entry) => entry.page === page))
}

/** Kills the server without warning and starts it again. Epoch, digest and pages must be the same. */
async function crash(desk: Desk): Promise<void> {
  const status = () => request<Status>(desk.server.url, 'GET', '/v1/status')
  const before = await status()
  const mirror = desk.stream.mirror
  say(red(`kill -9   pid ${desk.server.pid} at epoch ${before.epoch}, digest ${before.digest}`))
  await desk.server.kill()
  desk.stream.close()
  desk.server = await startServer({ dataDir: desk.dataDir })
  const after = await status()
  desk.stream = await subscribe(desk.server.url, 'risk.*')
  desk.agreement.claim('epoch after the kill', after.epoch === before.epoch)
  desk.agreement.claim('digest after the kill', after.digest === before.digest)
  for (const [page, values] of mirror) {
    const again = desk.stream.mirror.get(page) ?? []
    desk.agreement.claim(
      `${page} after the kill`,
      values.every((value, i) => value === again[i]),
    )
  }
  const { pid, startMs } = desk.server
  const verdict =
    after.epoch === before.epoch && after.digest === before.digest ? green('the same') : red('CHANGED')
  say(
    `restart   pid ${pid} in ${startMs.toFixed(0)} ms at epoch ${after.epoch}, digest ${after.digest}: ${verdict}`,
  )
}

/** Reads all pages once more over HTTP, compares for the last time and returns the verdict. */
async function finish(desk: Desk): Promise<boolean> {
  const names = ['risk.exposure', 'risk.value', 'risk.var', 'risk.es', 'risk.breach']
  const path = `/v1/read?pages=${names.join(',')}`
  type Read = { epoch: number; pages: Record<string, { values: readonly unknown[] }> }
  const { pages } = await request<Read>(desk.server.url, 'GET', path)
  const state = new Map(names.map((name) => [name, pages[name]!.values.map(Number)]))
  say()
  return desk.agreement.verdict(state, desk.months.length - 1, desk.trades)
}

await runDemo(main, red('failed'))
