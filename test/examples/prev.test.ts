/** The examples of pages that read the past, run at a smaller size than by themselves. */
import t from 'tap'
import { runEma } from '../../examples/ema/ema.js'
import { firstCells, plainLife, runLife } from '../../examples/life/life.js'
import { readPrices, STOCKS } from '../../examples/risk/prices.js'
import { Bus } from '../../src/index.js'

t.test('a plain glider moves one cell down and right in four generations', async (t) => {
  const size = 8
  let cells = new Uint8Array(size * size)
  for (const cell of [1, size + 2, 2 * size, 2 * size + 1, 2 * size + 2]) cells[cell] = 1
  const moved = cells.map((_, i) => cells[(i + size * size - size - 1) % (size * size)]!)
  for (let i = 0; i < 4; i++) cells = plainLife(cells, size) as Uint8Array<ArrayBuffer>
  t.same(cells, moved)
  t.same(firstCells(4, 1), firstCells(4, 1))
})

t.test('Life equals the plain Life, on one and on several threads', async (t) => {
  for (const [size, threads] of [
    [33, 1],
    [64, 3],
    [130, 2],
  ] as const) {
    const bus = await Bus.open({ backend: 'cpu', threads })
    const run = await runLife(bus, size, 60)
    t.ok(run.equal, `${size} x ${size}, ${threads} threads`)
    t.ok(run.population > 0)
    await bus.close()
  }
})

t.test('the moving average equals the plain one, month by month', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  const run = await runEma(bus)
  t.equal(run.length, readPrices().length)
  for (const { month, averages, expected } of run) t.same(averages, expected, month)
  const goog = STOCKS.indexOf('GOOG')
  t.equal(run[0]?.averages[goog], 0, 'no average before a stock is listed')
  t.ok((run.at(-1)?.averages[goog] ?? 0) > 100)
  await bus.close()
})
