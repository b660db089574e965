/** What is estimated to take too long is refused before anything is logged; what the log holds is not. */
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'

async function open(test: Test, options: BusOptions = {}): Promise<EngineBus> {
  const bus = await EngineBus.open({ backend: 'cpu', threads: 2, ...options })
  test.teardown(() => bus.close())
  return bus
}

const conv = { op: 'conv', inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' }

/** The refusal, with its limit and estimate. */
async function refused(test: Test, work: Promise<unknown>, limit: string): Promise<number> {
  const error = await work.then(
    () => undefined,
    (cause: unknown) => cause as MmsbError,
  )
  if (!(error instanceof MmsbError)) {
    test.fail(`not refused for ${limit}`)
    return 0
  }
  test.match(error, { code: 'COST_EXCEEDED', extra: { limit } })
  const { estimateMs, limitMs } = error.extra as { estimateMs: number; limitMs: number }
  test.ok(estimateMs > limitMs, `${estimateMs} ms is more than ${limitMs} ms`)
  return estimateMs
}

t.test('a step that would take minutes is refused at once', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'f64', shape: [700, 700] })
  const startedMs = performance.now()
  const estimateMs = await refused(t, bus.derive('y', conv), '--max-step-cost')
  t.ok(performance.now() - startedMs < 10_000)
  t.ok(estimateMs > 30_000 && estimateMs < 700_000, `${estimateMs} ms`)
  t.notOk(bus.hasPage('y'))
  await refused(t, bus.createMany([{ name: 'y', definition: { derive: conv } }]), '--max-step-cost')
  t.equal(bus.epoch, 1)
  t.match(
    bus.limits.refusals().find(([name]) => name === 'maxStepCostMs'),
    ['maxStepCostMs', 2],
  )
  await bus.derive('z', { op: 'copy', inputs: { x: 'x' } })
})

t.test('steps that are cheap one by one are refused together', async (t) => {
  const bus = await open(t, { limits: { maxStepCostMs: 60, maxCommitCostMs: 130 } })
  await bus.create('x', { dtype: 'f64', shape: [100, 100] })
  const pages = (count: number, prefix: string) =>
    Array.from({ length: count }, (_, i) => ({ name: `${prefix}${i}`, definition: { derive: conv } }))
  await refused(t, bus.createMany(pages(4, 'a')), '--max-commit-cost')
  await bus.createMany(pages(1, 'b'))
  // A later write of x would compute all of them.
  await bus.createMany(pages(1, 'c'))
  await refused(t, bus.createMany(pages(1, 'd')), '--max-commit-cost')
  await bus.patch('x', { offset: 0, values: [1] })
  t.equal(bus.epoch, 4)
})

t.test('a commit and a what-if are refused when limits were lowered', async (t) => {
  const dataDir = t.testdir()
  const before = await EngineBus.open({ backend: 'cpu', dataDir, fsync: 'off' })
  await before.create('x', { dtype: 'f64', shape: [50, 50] })
  await before.create('free', { dtype: 'f64', shape: [4] })
  await before.derive('y', conv)
  await before.close()
  const bus = await open(t, { dataDir, fsync: 'off', limits: { maxStepCostMs: 1 } })
  t.equal(bus.epoch, 3, 'recovery runs what the log holds')
  await refused(t, bus.patch('x', { offset: 0, values: [1] }), '--max-step-cost')
  await refused(
    t,
    bus.whatIf({ ops: [{ page: 'x', offset: 0, values: [1] }], read: ['y'] }),
    '--max-step-cost',
  )
  t.same(Array.from(bus.read('x', { offset: 0, count: 1 }) as Float64Array), [0])
  await bus.patch('free', { offset: 0, values: [1] })
  t.equal(bus.epoch, 4)
})

t.test('transactions that cost much together get epochs of their own', async (t) => {
  const bus = await open(t, { limits: { maxStepCostMs: 60, maxCommitCostMs: 60 } })
  for (const name of ['x', 'v']) {
    await bus.create(name, { dtype: 'f64', shape: [100, 100] })
    await bus.derive(`${name}y`, { ...conv, inputs: { x: name, kernel: name } })
  }
  const [a, b] = await Promise.all(['x', 'v'].map((name) => bus.patch(name, { offset: 0, values: [1] })))
  t.equal(b?.epoch, (a?.epoch ?? 0) + 1)
})

t.test('the redefinition of a function is refused', async (t) => {
  const bus = await open(t, { limits: { maxStepCostMs: 15 } })
  await bus.create('x', { dtype: 'f64', shape: [1024, 1024] })
  await bus.defineFunction('f', { params: ['a'], expr: 'a + 1' })
  await bus.derive('y', { op: 'map', inputs: { a: 'x' }, expr: 'f(a)' })
  const digest = bus.status().digest
  await refused(
    t,
    bus.defineFunction('f', { params: ['a'], expr: 'pow(a, 0.3) + pow(a, 0.7)' }),
    '--max-step-cost',
  )
  t.equal(bus.status().digest, digest)
  await bus.patch('x', { offset: 0, values: [1] })
  t.same(Array.from(bus.read('y', { offset: 0, count: 1 }) as Float64Array), [2])
})
