/**
 * The risk example: its data is as described, its independent figures are right, and the demo matches the
 * server across a SIGKILL and leaves nothing behind.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { independentRisk, quantile } from '../../examples/risk/independent.js'
import { PLANNED_TRADES, START_POSITIONS, trim, WINDOW } from '../../examples/risk/model.js'
import { parsePrices, readPrices, returns, STOCKS } from '../../examples/risk/prices.js'
import { programArgs } from '../lib/place.js'

const DEMO = programArgs('examples/risk/demo.ts')

function demo(...args: string[]) {
  const child = spawn(process.execPath, [...DEMO, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const lines: string[] = []
  const output = createInterface({ input: child.stdout })
  output.on('line', (line) => lines.push(line))
  let stderr = ''
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  return { child, lines, output, stderr: () => stderr, ended: once(child, 'close') }
}

/**
 * Whether a process ends within a few seconds. A zombie (Z) has ended; its parent has not collected it yet.
 */
async function isGone(pid: number): Promise<boolean> {
  for (let i = 0; i < 100; i++) {
    const stat = existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, 'utf8') : ''
    if (stat === '' || /\) [ZX] /.test(stat)) return true
    await sleep(50)
  }
  return false
}

t.test('the prices are 123 months without a gap, GOOG from its listing on', async (t) => {
  const months = readPrices()
  t.equal(months.length, 123)
  t.same(months[0], { name: '2000-01', prices: [25.94, 64.56, null, 100.52, 39.81] })
  t.same(months.at(-1), { name: '2010-03', prices: [223.02, 128.82, 560.19, 125.55, 28.8] })
  const goog = STOCKS.indexOf('GOOG')
  t.equal(
    months.findIndex((month) => month.prices[goog] !== null),
    months.findIndex((m) => m.name === '2004-08'),
  )
  t.equal(returns(months[0]!, months[1]!)[goog], null)
  t.equal(returns(months[0]!, months[1]!)[0], 28.66 / 25.94 - 1)
})

t.test('a price file with a hole, a strange line or another header is refused', async (t) => {
  t.throws(() => parsePrices('a,b\n'), /unexpected header/)
  t.throws(() => parsePrices('symbol,date,price\nAAPL,Jan 1 2000,x'), /unexpected line/)
  t.throws(() => parsePrices('symbol,date,price\nXXXX,Jan 1 2000,1'), /unexpected line/)
  t.throws(
    () => parsePrices('symbol,date,price\nIBM,Jan 1 2000,1\nIBM,Mar 1 2000,1'),
    /missing before 2000-03/,
  )
})

t.test('the independent quantile interpolates between order statistics', async (t) => {
  t.equal(quantile([1, 2, 3, 4], 0.5), 2.5)
  t.equal(quantile([4, 1, 3, 2], 0.25), 1.75)
  t.equal(quantile([10], 0.05), 10)
  t.equal(quantile([3, 1, 2], 0), 1)
  t.equal(quantile([3, 1, 2], 1), 3)
  t.equal(quantile([0, 10], 0.05), 0.5)
})

t.test('the independent risk refuses a holding without its full history', async (t) => {
  const months = readPrices()
  const [first] = PLANNED_TRADES
  const listed = months.findIndex((month) => month.name === first!.month)
  t.doesNotThrow(() => independentRisk(months, listed, PLANNED_TRADES))
  t.throws(() => independentRisk(months, listed - 1, PLANNED_TRADES), /does not fill the window/)
})

t.test('a trimmed book has less of everything, in round lots', async (t) => {
  const trades = trim('2005-01', 3, START_POSITIONS)
  t.same(
    trades.map(({ stock, shares }) => [stock, shares]),
    [
      [0, -75_000],
      [3, 12_000],
      [4, 30_000],
    ],
  )
})

t.test(
  'the demo agrees with the independent computation and survives the kill',
  { timeout: 60_000 },
  async (t) => {
    const { lines, ended, stderr } = demo()
    const [code] = await ended
    t.equal(code, 0, stderr())
    t.equal(lines.at(-1), 'equal', lines.slice(-15).join('\n'))
    t.ok(lines.some((line) => /^kill -9 /.test(line)))
    t.ok(lines.some((line) => /^restart .* the same$/.test(line)))
    t.ok(lines.some((line) => line.includes('price, VaR and breach moved in that one epoch')))
    t.ok(lines.filter((line) => /^20\d\d-\d\d +\d+ /.test(line)).length >= 123 - WINDOW, 'one line an epoch')
    t.ok(lines.some((line) => /comparisons, 0 differ/.test(line)))
  },
)

t.test('Ctrl-C ends the demo and its server', { timeout: 60_000 }, async (t) => {
  const { child, lines, output, ended } = demo('--delay-ms', '500')
  for await (const line of output) if (/^\d{4}-\d\d /.test(line)) break
  const pid = Number(/pid (\d+)/.exec(lines.find((line) => line.startsWith('server'))!)![1])
  child.kill('SIGINT')
  const [code] = await ended
  t.equal(code, 130)
  t.ok(await isGone(pid), 'the server is gone')
})
