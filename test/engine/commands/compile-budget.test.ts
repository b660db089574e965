/** Compiling many definitions leaves the event loop free, and is refused when it takes too long. */
import t from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { turn } from '../../lib/wait.js'

const COUNT = 200
/** An expression that takes milliseconds to compile; each number gives another one. */
const long = (number: number): string =>
  Array.from({ length: 100 }, (_, i) => `f(a + ${i % 7}, ${number})`).join(' + ')

async function prepared(options: BusOptions = {}): Promise<EngineBus> {
  const bus = await EngineBus.open({ backend: 'cpu', threads: 1, ...options })
  await bus.create('x', { dtype: 'f64', shape: [2] })
  await bus.defineFunction('f', { params: ['a', 'b'], expr: 'a * b + 1' })
  return bus
}

const pages = (count: number, exprOf: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => ({
    name: `y${i}`,
    definition: { derive: { op: 'map' as const, inputs: { a: 'x' }, expr: exprOf(i) } },
  }))

t.test('one expression of many pages is compiled once', async (t) => {
  const bus = await prepared()
  t.teardown(() => bus.close())
  const startedMs = performance.now()
  await bus.createMany(pages(1, () => long(1)))
  const oneMs = performance.now() - startedMs
  await bus.createMany(
    pages(COUNT, (i) => long(i < 0 ? 0 : 1)).map((page) => ({ ...page, name: `z${page.name}` })),
  )
  const restartedMs = performance.now()
  await bus.defineFunction('f', { params: ['a', 'b'], expr: 'a * b + 2' })
  const ms = performance.now() - restartedMs
  t.ok(ms < oneMs * COUNT, `${ms} ms for ${COUNT + 1} pages, ${oneMs} ms for one`)
  t.same(Array.from(bus.read(`zy${COUNT - 1}`) as Float64Array), Array.from(bus.read('y0') as Float64Array))
})

t.test('other work goes on between slices, and the budget ends it', async (t) => {
  const bus = await prepared({ limits: { maxCompileTimeMs: 150 } })
  t.teardown(() => bus.close())
  let turns = 0
  const ticking = setInterval(() => turns++, 1)
  t.teardown(() => clearInterval(ticking))
  const { epoch } = bus
  const created = bus.createMany(pages(20 * COUNT, long))
  await t.rejects(created, { code: 'COST_EXCEEDED', extra: { limit: '--max-compile-time', limitMs: 150 } })
  t.ok(turns > 0, 'timers ran meanwhile')
  t.equal(bus.epoch, epoch)
  t.equal((await bus.create('next', { dtype: 'u8', shape: [1] })).epoch, epoch + 1)
})

t.test('a function that changes between slices makes all of them compile again', async (t) => {
  const bus = await prepared({ limits: { maxCompileTimeMs: 3_600_000 } })
  t.teardown(() => bus.close())
  const created = bus.createMany(pages(30, long))
  await turn()
  await bus.defineFunction('f', { params: ['a', 'b'], expr: 'a * 0 + b * 0 + 5' })
  await created
  for (const name of ['y0', 'y29']) t.equal(Number((bus.read(name) as Float64Array)[0]), 500)
})
