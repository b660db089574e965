/**
 * What a batch counts: the estimates and bytes that it asks for, the steps that it makes, and that whatever
 * is refused, abandoned or replaced gives all of them back.
 */
import t, { type Test } from 'tap'
import { CompileBudget } from '../../../src/engine/commands/compile-budget.js'
import { definitionChange, redefinitions } from '../../../src/engine/commands/functions.js'
import type { Pending } from '../../../src/engine/commands/pending.js'
import {
  pendingOfDeletes,
  pendingOfDelta,
  writingFunction,
} from '../../../src/engine/commands/transactions.js'
import { Batch } from '../../../src/engine/commit/batch.js'
import { stageInSlices } from '../../../src/engine/commit/stage-in-slices.js'
import { REAL_HOST } from '../../../src/engine/host.js'
import { CostLimits } from '../../../src/engine/pages/cost-limits.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import { functionBytes } from '../../../src/engine/pages/function-table.js'
import { type Growth, Quotas } from '../../../src/engine/pages/quotas.js'
import { definitionBytes, ownBytes } from '../../../src/engine/pages/registry.js'
import { MmsbError } from '../../../src/errors.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { atOnce } from '../../../src/slices.js'
import { creating, type Definitions, executed, stateWith } from '../../lib/engine-state.js'

const guard = new LimitGuard()

/** Limits that refuse what the test says, and write down what they are asked. */
class NotedCosts extends CostLimits {
  asked: string[] = []
  isLow = false
  refused: 'step' | 'source' | undefined
  override allow(_graph: never, moreNs = 0): boolean {
    this.asked.push(`more ${Math.round(moreNs)}`)
    return !this.isLow
  }
  override refusal(cost: Parameters<CostLimits['refusal']>[0]): MmsbError | undefined {
    this.asked.push(`cost ${Math.round(cost.costNs)}`)
    return this.refused === 'step' ? new MmsbError('COST_EXCEEDED', 'step') : undefined
  }
  override sourceRefusal(_graph: never, pages: readonly number[]): MmsbError | undefined {
    this.asked.push(`sources of ${pages.length}`)
    return this.refused === 'source' ? new MmsbError('COST_EXCEEDED', 'source') : undefined
  }
}

class NotedQuotas extends Quotas {
  asked: (readonly [staged: Growth, growth: Growth])[] = []
  override check(staged: Growth, growth: Growth): void {
    this.asked.push([staged, growth])
  }
}

const USES = { derive: { op: 'map', inputs: { x: 'x' }, expr: 'f(x)' } } as const

const PAGES = {
  x: { dtype: 'i32', shape: [1000] },
  y: { dtype: 'i32', shape: [4] },
  twice: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x * 2' } },
} as const

async function definingTo({ registry }: EngineState, expr: string | undefined, name = 'f'): Promise<Pending> {
  const { worldAge } = registry.functions
  if (expr === undefined)
    return atOnce(writingFunction({ name, body: undefined, worldAge: worldAge + 1 }, []))
  const change = definitionChange(registry.functions, name, { params: ['x'], expr }, guard)
  return atOnce(writingFunction(change, await redefinitions(registry, change, new CompileBudget(guard))))
}

function commit(state: EngineState, epoch: number, ...pendings: Pending[]): void {
  const batch = new Batch(epoch, state)
  for (const pending of pendings) batch.stage(pending)
  executed(state, batch)
}

/** A state with a function, two pages that use it, and a count of the steps that are alive. */
async function bench(t: Test) {
  const state = await stateWith(t, PAGES)
  commit(state, 2, await definingTo(state, 'x + 1'))
  commit(state, 3, await creating(state, { u: USES, v: USES }))
  const { context, registry, graph } = state
  const [create, destroy] = [context.createStep.bind(context), context.destroyStep.bind(context)]
  const steps = new Set<number>()
  context.createStep = (step) => {
    const made = create(step)
    steps.add(made)
    return made
  }
  context.destroyStep = (step) => {
    steps.delete(step)
    destroy(step)
  }
  const costs = new NotedCosts(guard, String)
  const quotas = new NotedQuotas(guard, state)
  const write = (name: string): Pending =>
    pendingOfDelta(registry.require(name), { offset: 0, values: [3] }, {})
  const first = (name: string): number => {
    const out = new Int32Array(1)
    context.readPage(registry.require(name).id, 0, out)
    return out[0]!
  }
  const costOf = (name: string): number => registry.require(name).derived!.costNs
  return { state, registry, graph, context, steps, costs, quotas, write, first, costOf }
}

const codeOf = (stage: () => string): string => {
  try {
    return stage()
  } catch (error) {
    if (error instanceof MmsbError) return error.code
    throw error
  }
}

t.test('the estimate of a transaction', async (t) => {
  const { state, graph, costs, write, costOf } = await bench(t)
  const asked = (): string[] => costs.asked.splice(0)
  const more = (ns: number): string => `more ${Math.round(ns)}`
  const made = await creating(state, {
    s: { dtype: 'i32', shape: [8] },
    a: { derive: { op: 'map', inputs: { x: 's' }, expr: 'sin(x)' } },
    b: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x - 1' } },
  })
  const change = await definingTo(state, 'where(x * x * x + x * x > 7, x, x + 2)')
  const [, a, b] = made.creates.map(({ derived }) => derived?.costNs ?? 0) as [number, number, number]
  const ofChange = change.redefines!.reduce((sum, { derived }) => sum + derived.costNs, 0)
  for (costs.isLow of [false, true]) {
    const costOfIt = (ns: number): string[] => (costs.isLow ? [`cost ${Math.round(ns)}`] : [])
    const batch = new Batch(4, state, costs)
    t.equal(batch.stage(write('x')), 'staged')
    const ofX = costOf('twice') + costOf('u') + costOf('v')
    t.strictSame(asked(), [more(0), ...costOfIt(ofX)])
    t.equal(batch.stage(made), 'staged')
    t.strictSame(asked(), [more(a + b), ...costOfIt(a + b), 'sources of 3'])
    batch.abandon()
    const other = new Batch(4, state, costs)
    t.equal(other.stage(change), 'staged')
    t.strictSame(asked(), [more(ofChange), ...costOfIt(ofChange), 'sources of 2'])
    other.abandon()
  }
  const plans: (readonly number[])[] = []
  const plan = graph.plan.bind(graph)
  graph.plan = (dirty) => {
    plans.push(dirty)
    return plan(dirty)
  }
  const [x, y] = [write('x'), write('y')]
  const both = { ...x, writes: [...y.writes, ...x.writes] }
  t.ok(both.writes[0]! > both.writes[1]!)
  new Batch(4, state, costs).stage(both)
  t.strictSame(plans, [[...x.writes, ...y.writes]], 'the plan that the epoch needs, which is kept')
})

t.test('an epoch has room for as much as a commit may cost', async (t) => {
  const { state, graph, registry, write } = await bench(t)
  const ofX = graph.plan([registry.require('x').id]).costNs
  const room = (commitNs: number): string => {
    const costs = Object.assign(new NotedCosts(guard, String), { commitNs, isLow: true })
    const batch = new Batch(4, state, costs)
    return [write('x'), write('x'), write('y'), write('x')].map((one) => batch.stage(one)).join(' ')
  }
  t.equal(room(ofX / 2), 'staged later later later', 'the first one, whatever it costs, but no other')
  t.equal(room(2 * ofX), 'staged staged staged later')
  t.equal(room(1.5 * ofX), 'staged later staged later', 'what did not join does not count')
})

t.test('what a transaction adds', async (t) => {
  const { state, registry, graph, context, quotas, write } = await bench(t)
  const asked = () => quotas.asked.splice(0)
  const graphBefore = { edges: graph.edgeCount, depth: graph.depth() }
  const nothing = { pages: 0, ownBytes: 0, elementBytes: 0 }
  const batch = new Batch(4, state, undefined, quotas)
  batch.stage(write('x'))
  batch.stage(pendingOfDeletes([registry.require('twice').id]))
  t.strictSame(asked(), [], 'neither writes nor deletions are asked')
  t.strictSame(batch.graphBefore, graphBefore, 'a deletion changes the graph')
  const made = await creating(state, {
    s: { dtype: 'i32', shape: [8] },
    a: { derive: { op: 'map', inputs: { x: { prev: 's' } }, expr: 'x' } },
    b: { derive: { op: 'map', inputs: { x: { prev: 'y' } }, expr: 'x' } },
  })
  const own = made.creates.reduce((sum, page) => sum + ownBytes(page), 0)
  // Three pages, and the pasts that two of them read.
  const elementBytes = 4 * (8 + 8 + 4) + 4 * (8 + 4)
  const before = context.memory().pageBytes
  batch.stage(made)
  t.strictSame(asked(), [
    [
      { ...nothing, pages: -1 },
      { pages: 3, ownBytes: own, elementBytes },
    ],
  ])
  t.equal(context.memory().pageBytes, before + elementBytes)
  const [one] = (await creating(state, { one: { dtype: 'u8', shape: [1] } })).creates
  const swap = { ...pendingOfDeletes([registry.require('u').id]), creates: [one!] }
  batch.stage(swap)
  t.strictSame(asked(), [
    [
      { ...nothing, pages: 2, ownBytes: own },
      { pages: 0, ownBytes: ownBytes(one!), elementBytes: 1 },
    ],
  ])
  batch.abandon()

  const adds = (change: Pending): Growth => {
    const fresh = new Batch(4, state, undefined, quotas)
    t.equal(fresh.stage(change), 'staged')
    fresh.abandon()
    const [[staged, growth]] = asked() as [readonly [Growth, Growth]]
    t.strictSame(staged, nothing)
    return growth
  }
  const body = (expr: string) => ({ params: ['x'], expr })
  const fresh = await definingTo(state, 'x + 12345 + x * 77', 'g')
  t.strictSame(adds(fresh), { ...nothing, ownBytes: functionBytes(body('x + 12345 + x * 77')) })
  const longer = await definingTo(state, 'x + 12345 + x * 77')
  const grown = longer.redefines!.reduce((sum, { id, derived }) => {
    return sum + definitionBytes(derived) - definitionBytes(registry.byId(id)!.derived!)
  }, 0)
  t.ok(grown > 0)
  const ofBody = functionBytes(body('x + 12345 + x * 77')) - functionBytes(body('x + 1'))
  t.strictSame(adds(longer), { ...nothing, ownBytes: grown + ofBody })
  commit(state, 4, fresh)
  const ended = { ...nothing, ownBytes: -functionBytes(body('x + 12345 + x * 77')) }
  t.strictSame(adds(await definingTo(state, undefined, 'g')), ended)
})

t.test('a change of a function that is not made leaves the old steps', async (t) => {
  const { state, graph, context, steps, costs, first, write, registry } = await bench(t)
  const totalNs = graph.totalCostNs
  const pagesStep = registry.require('u').step
  const change = await definingTo(state, 'where(x * x * x + x * x > 7, x, x + 2)')
  const isAsBefore = (what: string): void => {
    t.strictSame([...steps], [], `${what}: no step is left`)
    t.ok(Math.abs(graph.totalCostNs - totalNs) < 1e-3, `${what}: the estimates are those before`)
    t.equal(registry.require('u').step, pagesStep)
  }
  const batch = new Batch(4, state)
  batch.stage(change)
  t.equal(steps.size, 2)
  t.ok(graph.totalCostNs > totalNs)
  batch.abandon()
  isAsBefore('abandoned')

  costs.refused = 'source'
  t.equal(
    codeOf(() => new Batch(4, state, costs).stage(change)),
    'COST_EXCEEDED',
  )
  isAsBefore('refused')

  const { createStep } = context
  let room = 1
  context.createStep = (step) => {
    if (room-- === 0) throw new MmsbError('OUT_OF_MEMORY', 'no room')
    return createStep(step)
  }
  t.equal(
    codeOf(() => new Batch(4, state).stage(change)),
    'OUT_OF_MEMORY',
  )
  context.createStep = createStep
  isAsBefore('half done')

  commit(state, 4, write('x'))
  t.equal(first('u'), 4, 'they compute')
  commit(state, 5, change)
  t.equal(steps.size, 2, 'the new ones are in the place of the old ones')
  t.equal(first('u'), 3)
})

t.test('pages that are refused leave nothing', async (t) => {
  const { state, graph, context, steps, costs } = await bench(t)
  const before = [context.memory().pageBytes, graph.edgeCount, graph.pasts.length]
  const made = await creating(state, {
    s: { dtype: 'i32', shape: [8] },
    a: { derive: { op: 'map', inputs: { x: { prev: 's' } }, expr: 'x' } },
  })
  costs.refused = 'source'
  const batch = new Batch(4, state, costs)
  t.equal(
    codeOf(() => batch.stage(made)),
    'COST_EXCEEDED',
  )
  t.strictSame([context.memory().pageBytes, graph.edgeCount, graph.pasts.length], before)
  t.equal(batch.createdBytes, 0)
  t.strictSame([...steps], [])
  t.notOk(batch.isStructural)
  const { createStep } = context
  context.createStep = () => {
    throw new MmsbError('OUT_OF_MEMORY', 'no room')
  }
  t.equal(
    codeOf(() => batch.stage(made)),
    'OUT_OF_MEMORY',
  )
  context.createStep = createStep
  t.equal(batch.createdBytes, 0)
  t.strictSame([context.memory().pageBytes, graph.edgeCount, graph.pasts.length], before)
  costs.refused = undefined
  t.equal(batch.stage(made), 'staged', 'its names are free')
  batch.abandon()
})

t.test('a page that is made and deleted in one epoch', async (t) => {
  const { state, graph, registry, context, steps } = await bench(t)
  const derived: Definitions = { z: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x + 5' } } }
  const before = [context.memory().pageBytes, graph.edgeCount, graph.totalCostNs]
  for (const end of ['abandon', 'publish'] as const) {
    const [gone, again] = [await creating(state, derived), await creating(state, derived)]
    const batch = new Batch(4, state)
    batch.stage(gone)
    batch.stage(pendingOfDeletes([gone.creates[0]!.id]))
    t.equal(batch.stage(again), 'staged', 'its name is free')
    if (end === 'abandon') {
      batch.abandon()
      t.strictSame([context.memory().pageBytes, graph.edgeCount, graph.totalCostNs], before)
      t.strictSame([...steps], [])
      continue
    }
    executed(state, batch)
    t.equal(registry.byName('z'), again.creates[0], 'the second one has the name')
    t.equal(registry.byId(gone.creates[0]!.id), undefined)
    t.equal(steps.size, 1)
    t.equal(context.memory().pageBytes, before[0]! + 4_000)
  }
  commit(state, 5, pendingOfDeletes([registry.require('z').id]))
  t.strictSame([context.memory().pageBytes, graph.edgeCount], before.slice(0, 2), 'and it can be deleted')
  t.strictSame([...steps], [])
})

t.test('a page that reads the past of one that is deleted', async (t) => {
  const { state, registry } = await bench(t)
  const reading: Definitions['z'] = {
    derive: { op: 'map', inputs: { old: { prev: 'y' } }, expr: 'old' },
  }
  commit(state, 4, await creating(state, { old: reading }))
  const late = await creating(state, { late: reading })
  const batch = new Batch(5, state)
  batch.stage(pendingOfDeletes([registry.require('old').id, registry.require('y').id]))
  t.equal(
    codeOf(() => batch.stage(late)),
    'PAGE_NOT_FOUND',
  )
  batch.abandon()
})

t.test('a refused deletion names five pages that read the page', async (t) => {
  const { state, registry } = await bench(t)
  const derive = { op: 'map', inputs: { y: 'y' }, expr: 'y' } as const
  const readers = (from: number, to: number): Definitions =>
    Object.fromEntries(Array.from({ length: to - from }, (_, i) => [`r${from + i}`, { derive }]))
  const refusal = (): string => {
    try {
      return new Batch(9, state).stage(pendingOfDeletes([registry.require('y').id]))
    } catch (error) {
      return (error as MmsbError).message
    }
  }
  commit(state, 4, await creating(state, readers(0, 5)))
  t.equal(refusal(), 'Page "y" is an input of "r0", "r1", "r2", "r3", "r4".')
  commit(state, 5, await creating(state, readers(5, 6)))
  t.equal(refusal(), 'Page "y" is an input of "r0", "r1", "r2", "r3", "r4" and 1 more.')
})

t.test('in slices, the same is staged', async (t) => {
  const { state, write } = await bench(t)
  const batch = new Batch(4, state)
  t.equal(atOnce(batch.staging(write('x'))), 'staged')
  t.equal(batch.graphBefore, undefined, 'a write does not change the graph')
  batch.stage(write('y'))
  t.equal(batch.graphBefore, undefined)
  t.strictSame([batch.frameCount, batch.pendings.length], [2, 2])
  const many = Object.fromEntries(Array.from({ length: 256 }, (_, i) => [`u${i}`, { ...USES }]))
  const made = await creating(state, many)
  const pauses = (staging: Generator<unknown, unknown>): number => {
    let count = 0
    while (staging.next().done !== true) count++
    return count
  }
  t.ok(pauses(batch.staging(made)) >= 2, 'many pages are looked at, and made, in slices')
  t.equal(batch.created.length, 256)
  t.ok(batch.graphBefore !== undefined)
  atOnce(batch.preparing())
  t.equal(batch.plan(), batch.plan(), 'the plan is made once')
  batch.abandon()
  const fewer = new Batch(4, state)
  t.equal(pauses(fewer.staging({ ...made, creates: made.creates.slice(0, 255) })), 0)
  fewer.abandon()
  commit(state, 4, made)
  const change = await definingTo(state, 'x + 2')
  t.equal(change.redefines!.length, 258)
  const changing = new Batch(5, state)
  t.equal(pauses(changing.staging(change)), 1, 'and so are definitions')
  changing.abandon()
})

t.test('which changes of functions go together, and which are stale', async (t) => {
  const { state, write, registry } = await bench(t)
  const unused = await definingTo(state, 'x', 'g')
  const batch = new Batch(4, state)
  batch.stage(write('x'))
  t.equal(batch.stage({ ...write('y'), redefines: [] }), 'staged', 'one that redefines nothing')
  t.equal(batch.stage(unused), 'staged')
  t.ok(batch.isOneWay, 'although no page has another definition')
  const mixed = new Batch(4, state)
  mixed.stage(
    await creating(state, {
      z: { derive: { op: 'map', inputs: { now: 'x', old: { prev: 'x' } }, expr: 'now - old' } },
    }),
  )
  t.ok(mixed.isOneWay, 'a page that reads the past, and the present first')
  mixed.abandon()
  t.equal(batch.stage(await creating(state, { z: { dtype: 'u8', shape: [1] } })), 'later')
  t.equal(batch.stage(unused), 'later')
  batch.abandon()
  const change = await definingTo(state, 'x + 9')
  const [u, v] = change.redefines!
  const other = { ...u!, id: registry.require('twice').id }
  for (const redefines of [[u!], [u!, other], [v!, u!], [u!, v!, other]])
    t.throws(() => new Batch(4, state).stage({ ...change, redefines }), 'not the pages that use it')
  const { functionsAge, ...logged } = change
  t.equal(functionsAge, registry.functions.worldAge)
  t.throws(() => new Batch(4, state).stage({ ...change, functionsAge: functionsAge! - 1 }))
  const log = new Batch(4, state)
  t.equal(log.stage({ ...logged, redefines: [u!] }), 'staged', 'what the log holds is final')
  log.abandon()
})

t.test('in slices, a refusal at any place leaves nothing', async (t) => {
  const { state, graph, context, steps } = await bench(t)
  const made = await creating(state, {
    s: { dtype: 'i32', shape: [8] },
    a: { derive: { op: 'map', inputs: { x: { prev: 's' } }, expr: 'x' } },
  })
  const traces = () => [context.memory().pageBytes, graph.edgeCount, graph.pasts.length, steps.size]
  const before = traces()
  const stopped = new Error('stopped')
  let refusals = 0
  for (let at = 1; ; at++) {
    let asked = 0
    const refusal = (): Error | undefined => (++asked === at ? stopped : undefined)
    const batch = new Batch(4, state)
    const error = await stageInSlices(batch, made, REAL_HOST, refusal).catch((error: unknown) => error)
    if (asked < at) {
      t.equal(error, undefined, 'it was never refused')
      t.equal(batch.created.length, 2)
      t.equal(batch.plan(), batch.plan(), 'it has its plan')
      batch.abandon()
      break
    }
    refusals++
    t.equal(error, stopped, `refusal ${at}`)
    t.strictSame(traces(), before, `refusal ${at}`)
  }
  t.ok(refusals >= 4, 'before, while and after it is planned')
})
