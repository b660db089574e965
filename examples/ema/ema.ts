/**
 * An exponential moving average of real stock prices: a derived page that reads its own past. The prices of
 * each month are one write; `prev(self)` is the average before it. Checked bit for bit against the same sum
 * in plain TypeScript.
 *
 *   npx tsx examples/ema/ema.ts
 */
import { fileURLToPath } from 'node:url'
import { Bus } from '../../src/index.js'
import { readPrices, STOCKS } from '../risk/prices.js'

/** Weight of the newest price. */
const WEIGHT = 0.2

export interface EmaMonth {
  readonly month: string
  readonly prices: readonly number[]
  /** From the bus. */
  readonly averages: readonly number[]
  /** The same, computed in plain TypeScript. */
  readonly expected: readonly number[]
}

/** Feeds the prices month by month. A stock that is not listed yet has the price NaN and no average. */
export async function runEma(bus: Bus, months = readPrices()): Promise<EmaMonth[]> {
  await bus.create('price', { dtype: 'f64', shape: [STOCKS.length], fill: 'NaN' })
  await bus.defineFunction('blend', {
    params: ['now', 'before', 'weight'],
    expr: 'now if before == 0 else weight * now + (1 - weight) * before',
  })
  await bus.derive('ema', {
    op: 'map',
    inputs: { price: 'price', self: 'ema' },
    expr: `prev(self) if isnan(price) else blend(price, prev(self), ${WEIGHT})`,
  })
  const run: EmaMonth[] = []
  let expected: readonly number[] = STOCKS.map(() => 0)
  for (const { name, prices: listed } of months) {
    const prices = listed.map((price) => price ?? Number.NaN)
    await bus.write('price', prices)
    expected = expected.map((before, stock) => plainEma(prices[stock]!, before))
    run.push({ month: name, prices, averages: [...(bus.read('ema') as Float64Array)], expected })
  }
  return run
}

function plainEma(price: number, before: number): number {
  if (Number.isNaN(price)) return before
  return before === 0 ? price : WEIGHT * price + (1 - WEIGHT) * before
}

async function main(): Promise<void> {
  const bus = await Bus.open()
  try {
    const run = await runEma(bus)
    console.log(['month', ...STOCKS].map((cell) => cell.padStart(9)).join(''))
    for (const { month, averages } of run.filter((_, i) => i % 12 === 11 || i === run.length - 1)) {
      console.log(
        [month, ...averages.map((value) => value.toFixed(2))].map((cell) => cell.padStart(9)).join(''),
      )
    }
    const equal = run.every(({ averages, expected }) =>
      averages.every((value, i) => Object.is(value, expected[i])),
    )
    console.log(`${run.length} months, ${equal ? 'equal to' : 'DIFFERENT from'} the plain computation`)
    if (!equal) process.exitCode = 1
  } finally {
    await bus.close()
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
