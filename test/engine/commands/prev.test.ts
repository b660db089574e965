/**
 * What pages held in the epoch before: meaning, loops, partial recompute, refusals, restart, checkpoint,
 * replay, what-if.
 */

import t, { type Test } from 'tap'
import type { NamedDefinition } from '../../../src/engine/call-types.js'
import type { PageData } from '../../../src/engine/types.js'
import { Bus } from '../../../src/index.js'
import { Draw } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'

async function open(t: Test, dataDir?: string, threads = 1): Promise<Bus> {
  const where = dataDir === undefined ? {} : { dataDir }
  const bus = await Bus.open({ ...where, backend: 'cpu', threads, fsync: 'off' })
  t.teardown(() => bus.close())
  return bus
}

const ran = (bus: Bus): string[] => bus.executionLog().steps.map((step) => step.page)
const tick = (bus: Bus): Promise<unknown> => bus.transact({ ops: [] })

t.test('prev(x) is what x held in the epoch before', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'f64', shape: [3], fill: 5 })
  const { page } = await bus.derive('step', { op: 'map', inputs: { x: 'x' }, expr: 'x - prev(x)' })
  t.match(page, { inputs: ['x'], derive: { inputs: { x: 'x' } }, dtype: 'f64' })
  t.same([...bus.read('step')], [0, 0, 0], 'x was there before')
  await bus.patch('x', { offset: 1, values: [7] })
  t.same([...bus.read('step')], [0, 2, 0])
  t.equal(bus.executionLog().steps[0]?.elementsComputed, 1)
  await tick(bus)
  t.same([...bus.read('step')], [0, 0, 0], 'an empty transaction is an epoch')
  t.equal(bus.executionLog().steps[0]?.elementsComputed, 1)
  await tick(bus)
  t.same(ran(bus), [], 'nothing can differ any more')
  t.same(bus.graph().edges, [
    { from: 'x', to: 'step', input: 'x' },
    { from: 'x', to: 'step', input: 'x', prev: true },
  ])
  t.equal(bus.status().pages, 2, 'what keeps the past is no page')
})

t.test('the past of a page that was not there is zeros, whatever it is filled with', async (t) => {
  const bus = await open(t)
  await bus.createMany([
    { name: 'x', definition: { dtype: 'i32', shape: [2], fill: 9 } },
    { name: 'was', definition: { derive: { op: 'copy', inputs: { x: { prev: 'x' } } } } },
  ])
  t.same([...bus.read('was')], [0, 0])
  await tick(bus)
  t.same([...bus.read('was')], [9, 9])
})

t.test('a page may read its own past: a filter, a counter', async (t) => {
  const bus = await open(t)
  await bus.create('price', { dtype: 'f32', shape: [2], fill: 10 })
  const ema = { op: 'map' as const, inputs: { self: 'ema', x: 'price' }, expr: '0.5*x + 0.5*prev(self)' }
  const made = await bus.derive('ema', ema)
  t.match(made.page, { dtype: 'f32', shape: [2], inputs: ['price', 'ema'], dependents: ['ema'] })
  t.match(await bus.derive('ema', ema), { created: false, epoch: made.epoch })
  const count = { op: 'map' as const, inputs: { n: 'count' }, expr: 'prev(n) + 1' }
  await bus.derive('count', count, { dtype: 'u32', shape: [] })
  const seen: number[] = []
  for (let i = 0; i < 4; i++) {
    seen.push(bus.read('ema')[0] as number)
    await tick(bus)
  }
  t.same(seen, [7.5, 8.75, 9.375, 9.6875])
  t.same([...bus.read('count')], [5], 'ticks and its own creation')
  await bus.patch('price', { values: [0, 0] })
  t.same([...bus.read('count')], [6], 'a write is a tick as well')
  await bus.delete('ema')
  await bus.delete('count')
  t.same(bus.pageNames(), ['price'])
})

t.test('loops of several pages; the order of their creation in a list', async (t) => {
  const bus = await open(t)
  const step = { op: 'map' as const, inputs: { n: 'next' }, expr: 'n' }
  const next = { op: 'map' as const, inputs: { s: { prev: 'state' } }, expr: 's * 2 + 1' }
  await t.rejects(bus.createMany([{ name: 'next', definition: { derive: next } }]), {
    code: 'PAGE_NOT_FOUND',
  })
  await t.rejects(
    bus.createMany([
      { name: 'next', definition: { derive: next } },
      { name: 'state', definition: { derive: step } },
    ]),
    { code: 'INVALID_REQUEST', message: /"state" comes later in the list.*give dtype and shape/ },
  )
  const { pages } = await bus.createMany([
    { name: 'next', definition: { derive: next } },
    { name: 'state', definition: { derive: step, dtype: 'i32', shape: [2] } },
  ])
  t.match(pages, [
    { name: 'next', dtype: 'i32' },
    { name: 'state', dependents: ['next'] },
  ])
  for (const expected of [1, 3, 7, 15]) {
    t.same([...bus.read('state')], [expected, expected])
    await tick(bus)
  }
  await t.rejects(bus.delete('state'), { code: 'PAGE_IN_USE' })
  await t.rejects(bus.delete('next'), { code: 'PAGE_IN_USE' })
  await bus.delete('next', { cascade: true })
  t.same(bus.pageNames(), [])
  t.equal(bus.stats().pages.bytes, 0, 'and nothing hidden is left')
})

t.test('refusals', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'f64', shape: [2] })
  const refused: [Record<string, unknown>, object, string, RegExp][] = [
    [{ op: 'map', inputs: { a: 'y' }, expr: 'a + prev(a)' }, {}, 'GRAPH_CYCLE', /y -> y/],
    [{ op: 'map', inputs: { a: 'y' }, expr: 'prev(a)' }, {}, 'INVALID_REQUEST', /give dtype and shape/],
    [{ op: 'map', inputs: { a: 'y' }, expr: 'prev(a)' }, { dtype: 'u8' }, 'INVALID_REQUEST', /give shape/],
    [
      { op: 'map', inputs: { a: 'x' }, expr: 'prev(b)' },
      {},
      'INVALID_EXPRESSION',
      /column 6: prev: there is no input 'b'/,
    ],
    [
      { op: 'map', inputs: { a: 'x' }, expr: 'prev(a + 1)' },
      {},
      'INVALID_EXPRESSION',
      /where '\)' should be/,
    ],
    [{ op: 'map', inputs: { a: 'x' }, expr: 'prev(1)' }, {}, 'INVALID_EXPRESSION', /prev takes the name/],
    [{ op: 'map', inputs: { a: 'x' }, expr: 'prev' }, {}, 'INVALID_EXPRESSION', /prev takes the name/],
    [
      { op: 'map', inputs: { a: 'x' }, expr: 'prev(prev(a))' },
      {},
      'INVALID_EXPRESSION',
      /there is no input 'prev'/,
    ],
    [
      { op: 'map', inputs: { a: { prev: 'x' } }, expr: 'a + prev(a)' },
      {},
      'INVALID_EXPRESSION',
      /column 10.*past already/,
    ],
    [{ op: 'map', inputs: { prev: 'x' }, expr: 'prev' }, {}, 'INVALID_EXPRESSION', /'prev' is a keyword/],
    [{ op: 'map', inputs: { a: { prev: 'no' } }, expr: 'a' }, {}, 'PAGE_NOT_FOUND', /"no"/],
    [{ op: 'map', inputs: { a: { prev: 'x', and: 1 } }, expr: 'a' }, {}, 'INVALID_REQUEST', /or \{"prev"/],
    [{ op: 'map', inputs: { a: { prev: 3 } }, expr: 'a' }, {}, 'INVALID_REQUEST', /or \{"prev"/],
    [
      { op: 'reduce', inputs: { x: { prev: 'y' } }, fn: 'sum' },
      {},
      'INVALID_REQUEST',
      /give dtype and shape/,
    ],
    [{ op: 'map', inputs: { a: 'x' }, expr: 'a' }, { shape: [3] }, 'SHAPE_MISMATCH', /asks for \[3\]/],
    [
      { op: 'map', inputs: { a: 'x', s: 'y' }, expr: 'a + prev(s)' },
      { shape: [3] },
      'SHAPE_MISMATCH',
      /broadcast/,
    ],
  ]
  for (const [derive, options, code, message] of refused) {
    await t.rejects(bus.derive('y', derive as never, options), { code, message }, JSON.stringify(derive))
  }
  t.equal(bus.epoch, 1)
  await bus.derive('y', { op: 'copy', inputs: { x: { prev: 'x' } } })
  await t.rejects(bus.delete('x'), { code: 'PAGE_IN_USE', message: /"y"/ })
  await bus.delete('y')
  await bus.delete('x')
})

t.test('pasts count to the quota', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, memoryLimitBytes: 10_000 })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'u8', shape: [4_000] })
  await t.rejects(bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x + prev(x)' }), {
    code: 'OUT_OF_MEMORY',
  })
  await bus.derive('z', { op: 'copy', inputs: { x: 'x' } })
  t.equal(bus.stats().pages.bytes, 8_000)
})

t.test('a function over a past; its redefinition', async (t) => {
  const bus = await open(t)
  await bus.defineFunction('blend', { params: ['now', 'before'], expr: '0.5*now + 0.5*before' })
  await bus.create('x', { dtype: 'f64', shape: [1], fill: 8 })
  await bus.derive('y', { op: 'map', inputs: { y: 'y', x: 'x' }, expr: 'blend(x, prev(y))' })
  await tick(bus)
  t.same([...bus.read('y')], [6])
  await bus.defineFunction('blend', { params: ['now', 'before'], expr: 'now + before' })
  t.same([...bus.read('y')], [14], 'the change is a tick as well')
  await tick(bus)
  t.same([...bus.read('y')], [22])
})

// ---- against a plain simulation ---------------------------------------------------------------------------

const CELLS = 6

/** The pages of the test, computed one epoch at a time from all that the epoch before held. */
class Model {
  x = new Array<number>(CELLS).fill(0)
  sum = new Array<number>(CELLS).fill(0)
  slow = new Array<number>(CELLS).fill(0)
  lag = new Array<number>(CELLS).fill(0)
  total = 0
  born = false

  epoch(write: (x: number[]) => void): void {
    const before = structuredClone({ ...this })
    write(this.x)
    if (!this.born) return
    this.sum = this.x.map((x, i) => x + (before.sum[i] as number))
    this.slow = this.sum.map((s, i) => s - Math.trunc((before.slow[i] as number) / 2))
    this.lag = before.x
    this.total = this.lag.reduce((a, b) => a + b, 0) + before.total * 2 - (before.slow[0] as number)
  }
}

const PAGES: readonly NamedDefinition[] = [
  { name: 'sum', definition: { derive: { op: 'map', inputs: { s: 'sum', x: 'x' }, expr: 'x + prev(s)' } } },
  {
    name: 'slow',
    definition: {
      derive: { op: 'map', inputs: { s: 'sum', p: 'slow' }, expr: 's - i64(trunc(prev(p) / 2))' },
    },
  },
  { name: 'lag', definition: { derive: { op: 'copy', inputs: { x: { prev: 'x' } } } } },
  { name: 'lagged', definition: { derive: { op: 'reduce', inputs: { x: 'lag' }, fn: 'sum' } } },
  { name: 'first', definition: { derive: { op: 'reduce', inputs: { x: { prev: 'slow' } }, fn: 'argmax' } } },
  { name: 'picked', definition: { derive: { op: 'map', inputs: { x: 'slow', m: 'mask' }, expr: 'x * m' } } },
  { name: 'corner', definition: { derive: { op: 'reduce', inputs: { x: 'picked' }, fn: 'sum' } } },
  {
    name: 'total',
    definition: {
      derive: {
        op: 'map',
        inputs: { l: 'lagged', t: 'total', c: 'corner' },
        expr: 'l + 2*prev(t) - prev(c)',
      },
    },
  },
]

async function randomTicks(t: Test, seed: number, dataDir?: string): Promise<void> {
  const draw = new Draw(seed)
  let bus = await open(t, dataDir, draw.int(1, 3))
  await bus.create('mask', { dtype: 'i64', shape: [CELLS] })
  await bus.patch('mask', { values: [1n] })
  await bus.create('x', { dtype: 'i64', shape: [CELLS] })
  const model = new Model()
  const bornAt = draw.int(0, 4)
  const digests: string[] = []
  for (let i = 0; i < 25; i++) {
    const kind = draw.int(0, 9)
    if (i === bornAt) {
      model.born = true
      await bus.createMany(PAGES)
      model.epoch(() => {})
    } else if (kind < 4) {
      await tick(bus)
      model.epoch(() => {})
    } else if (kind < 9 || dataDir === undefined) {
      const offset = draw.int(0, CELLS - 1)
      const value = draw.int(-5, 5)
      await bus.patch('x', { offset, values: [BigInt(value)] })
      model.epoch((x) => {
        x[offset] = value
      })
    } else {
      if (draw.chance(0.5)) await bus.checkpoint()
      const { digest } = bus.status()
      await bus.close()
      bus = await open(t, dataDir, draw.int(1, 3))
      t.equal(bus.status().digest, digest)
    }
    digests[bus.epoch] = bus.status().digest
    if (!model.born) continue
    const values = (name: string): number[] => Array.from(bus.read(name) as BigInt64Array, Number)
    t.same(values('sum'), model.sum, `seed ${seed}, ${i}: sum`)
    t.same(values('slow'), model.slow, `seed ${seed}, ${i}: slow`)
    t.same(values('lag'), model.lag, `seed ${seed}, ${i}: lag`)
    t.same(values('total'), [model.total], `seed ${seed}, ${i}: total`)
  }
  if (dataDir !== undefined) {
    t.match(await bus.verify(), { ok: true, divergence: null })
    for (const epoch of [bus.epoch - 1, bus.epoch - 4, 5, bus.epoch - 2, 9, 8, 7]) {
      t.equal((await bus.epochInfo(epoch)).digest, digests[epoch], `digest of epoch ${epoch}`)
    }
  }
  await bus.close()
}

t.test('random ticks and writes equal a plain simulation, in memory', async (t) => {
  for (let seed = 1; seed <= 20; seed++) await randomTicks(t, seed)
})

t.test('the same with restarts, checkpoints, verification and looks back', async (t) => {
  for (let seed = 100; seed < 104; seed++) await randomTicks(t, seed, folder(t))
})

t.test('what-if shows what the next epoch would, pasts included', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'i64', shape: [2] })
  await bus.derive('sum', { op: 'map', inputs: { s: 'sum', x: 'x' }, expr: 'x + prev(s)' })
  for (let i = 0; i < 5; i++) {
    await bus.patch('x', { offset: i % 2, values: [BigInt(i)] })
    const ops = [{ page: 'x', values: [10n, 20n] }]
    const { pages } = await bus.whatIf({ ops, read: ['sum'] })
    const expected = [...(bus.read('sum') as BigInt64Array)].map((s, k) => s + [10n, 20n][k]!)
    t.same([...((pages.sum as PageData).values as BigInt64Array)], expected)
  }
})
