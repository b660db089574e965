/** What is estimated to take too long is refused before anything is logged; what the log holds is not. */
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import { CostLimits } from '../../../src/engine/pages/cost-limits.js'
import type { PageRecord } from '../../../src/engine/pages/registry.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import type { Graph } from '../../../src/graph/graph.js'
import { LimitGuard } from '../../../src/operator-limits.js'

async function open(test: Test, options: BusOptions = {}): Promise<EngineBus> {
  const bus = await EngineBus.open({ backend: 'cpu', threads: 2, ...options })
  test.teardown(() => bus.close())
  return bus
}

const conv = { op: 'conv' as const, inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' as const }

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

// ---- the limits by themselves -----------------------------------------------------------------------------

const MS = 1e6

function limitsOf(maxStepCostMs: number, maxCommitCostMs: number) {
  const guard = new LimitGuard({ maxStepCostMs, maxCommitCostMs })
  const refused = (): (number | undefined)[] => {
    const counts = new Map(guard.refusals())
    return [counts.get('maxStepCostMs'), counts.get('maxCommitCostMs')]
  }
  return { costs: new CostLimits(guard, (id) => `page ${id}`), refused }
}

/** A graph whose sources cost so much, together no more than `togetherMs`. Each cone has so many pages. */
function graphOf(
  totalMs: number,
  cones: Readonly<Record<number, number>> = {},
  togetherMs = totalMs,
  pages = 1,
) {
  const calls: string[] = []
  const graph = {
    totalCostNs: totalMs * MS,
    rootsOf: (ids: readonly number[]) => {
      calls.push(`roots of ${ids}`)
      return Object.keys(cones).map(Number)
    },
    costOf: (roots: readonly number[]) => {
      calls.push(`cost of ${roots}`)
      return { costNs: togetherMs * MS, costliest: { page: 0, costNs: 0 } }
    },
    coneCost: (root: number) => {
      calls.push(`cone of ${root}`)
      return { costNs: cones[root]! * MS, pages }
    },
  }
  return { graph: graph as unknown as Graph, calls }
}

t.test('a commit need not be looked at while all steps together cost less than either limit', async (t) => {
  for (const [stepMs, commitMs] of [
    [10, 30],
    [30, 10],
  ] as const) {
    const { costs } = limitsOf(stepMs, commitMs)
    t.same([costs.stepNs, costs.commitNs], [stepMs * MS, commitMs * MS])
    t.ok(costs.allow(graphOf(10).graph))
    t.notOk(costs.allow(graphOf(10.001).graph))
    t.ok(costs.allow(graphOf(4).graph, 6 * MS))
    t.notOk(costs.allow(graphOf(4).graph, 6.001 * MS))
  }
})

t.test('the refusal of a step, else of all of them', async (t) => {
  const { costs, refused } = limitsOf(10, 30)
  const cost = (stepMs: number, allMs: number) => ({
    costNs: allMs * MS,
    costliest: { page: 7, costNs: stepMs * MS },
  })
  t.equal(costs.refusal(cost(10, 30)), undefined)
  t.same(refused(), [0, 0])
  t.match(costs.refusal(cost(10.001, 30)), {
    code: 'COST_EXCEEDED',
    message: 'To compute page "page 7" is estimated to take 11 ms; a step may take 10 ms.',
    extra: { limit: '--max-step-cost', max: 10, estimateMs: 11, limitMs: 10 },
  })
  t.match(costs.refusal(cost(10, 30.001)), {
    code: 'COST_EXCEEDED',
    message: 'The steps of this commit are estimated to take 31 ms together; they may take 30 ms.',
    extra: { limit: '--max-commit-cost', max: 30, estimateMs: 31, limitMs: 30 },
  })
  t.same(refused(), [1, 1])
  const created = [
    { id: 6, name: 'other' },
    { id: 7, name: 'new' },
  ] as unknown as PageRecord[]
  t.match(costs.refusal(cost(11, 99), created)?.message, /^To compute page "new" /, 'the step comes first')
  t.match(costs.refusal(cost(11, 99), created.slice(0, 1))?.message, /^To compute page "page 7" /)
  t.same(refused(), [3, 1])
})

t.test('a later write of a source: searched only where it may cost too much', async (t) => {
  const { costs, refused } = limitsOf(5, 30)
  const search = (...given: Parameters<typeof graphOf>) => {
    const { graph, calls } = graphOf(...given)
    return [costs.sourceRefusal(graph, [8, 9])?.message, calls.join(', ')]
  }
  t.same(search(30, { 1: 99 }), [undefined, ''], 'all steps together are cheap')
  t.same(search(31, { 1: 99 }, 30), [undefined, 'roots of 8,9, cost of 1'], 'so are all of these sources')
  const every = 'roots of 8,9, cost of 1,2, cone of 1, cone of 2'
  t.same(search(50, { 1: 30, 2: 30 }, 31), [undefined, every])
  t.same(refused(), [0, 0])
  const dear = (page: number) =>
    `A write of page "page ${page}" would be estimated to take 31 ms; it may take 30 ms.`
  t.same(search(50, { 1: 30, 2: 30.5 }), [dear(2), every])
  t.same(search(50, { 1: 30.5, 2: 99 }), [dear(1), 'roots of 8,9, cost of 1,2, cone of 1'])
  t.same(refused(), [0, 2])
  const [visits, much] = [
    1_000_000,
    'These pages derive from 3 pages whose writes are too costly to estimate',
  ]
  t.equal(search(50, { 1: 1, 2: 1 }, 31, visits)[0], undefined)
  t.match(search(50, { 1: 1, 2: 1, 3: 1 }, 31, visits), [
    `${much}; one may take 30 ms.`,
    'roots of 8,9, cost of 1,2,3, cone of 1, cone of 2, cone of 3',
  ])
  t.equal(refused()[1], 3)
})
