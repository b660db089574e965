/**
 * Staging one transaction after another: what it refuses or puts off, what it leaves behind, and that
 * abandoning a batch takes back all of it.
 */
import t, { type Test } from 'tap'
import { CompileBudget } from '../../../src/engine/commands/compile-budget.js'
import { definitionChange, redefinitions, StaleFunctions } from '../../../src/engine/commands/functions.js'
import type { Pending } from '../../../src/engine/commands/pending.js'
import {
  pendingOfDeletes,
  pendingOfDelta,
  writingFunction,
} from '../../../src/engine/commands/transactions.js'
import { Batch, frameBuffers } from '../../../src/engine/commit/batch.js'
import { CostLimits } from '../../../src/engine/pages/cost-limits.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import { Quotas } from '../../../src/engine/pages/quotas.js'
import { MmsbError } from '../../../src/errors.js'
import { BATCH_MAX_BYTES, BATCH_MAX_TRANSACTIONS, STAGED_AT_ONCE_MAX } from '../../../src/limits.js'
import { LimitGuard, type Limits } from '../../../src/operator-limits.js'
import { atOnce } from '../../../src/slices.js'
import { creating, executed, stateWith } from '../../lib/engine-state.js'

const PAGES = {
  x: { dtype: 'i32', shape: [4] },
  y: { dtype: 'i32', shape: [4] },
  twice: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x * 2' } },
  more: { derive: { op: 'map', inputs: { x: 'twice', y: 'y' }, expr: 'x + y' } },
  old: { derive: { op: 'map', inputs: { y: { prev: 'y' } }, expr: 'y + 1' } },
} as const

const idOf = (state: EngineState, name: string): number => state.registry.require(name).id

const write = (state: EngineState, page: string, expectVersion?: number): Pending =>
  pendingOfDelta(state.registry.require(page), { offset: 0, values: [3] }, { expectVersion })

const expecting = (state: EngineState, page: string, version: number): Pending => ({
  ...write(state, 'y'),
  preconditions: [{ pageId: idOf(state, page), version }],
})

const deleting = (state: EngineState, ...names: string[]): Pending =>
  pendingOfDeletes(names.map((name) => idOf(state, name)))

/** Everything that staging could leave behind. */
const traces = ({ registry, graph, context }: EngineState): unknown => ({
  names: [...registry.names()],
  size: [graph.edgeCount, Math.round(graph.totalCostNs * 1_000), graph.pasts.length],
  bytes: context.memory().pageBytes,
  digest: context.stateDigest(),
})

/** How a batch answers. */
function staged(batch: Batch, pending: Pending): string {
  try {
    return batch.stage(pending)
  } catch (error) {
    if (error instanceof StaleFunctions) return 'stale'
    if (error instanceof MmsbError) return error.code
    throw error
  }
}

const bench = (t: Test): Promise<EngineState> => stateWith(t, PAGES)

t.test('an expected version', async (t) => {
  const state = await bench(t)
  const first = new Batch(2, state)
  t.equal(staged(first, expecting(state, 'twice', 1)), 'staged', 'of a derived page, in front')
  const { x } = { x: state.registry.require('x') }
  t.throws(() => new Batch(2, state).stage(expecting(state, 'x', 7)), {
    code: 'PRECONDITION_FAILED',
    extra: { page: 'x', expected: 7, actual: 1 },
  })
  const batch = new Batch(2, state)
  t.equal(staged(batch, write(state, 'x')), 'staged')
  t.equal(staged(batch, expecting(state, 'twice', 1)), 'later', 'it is not computed yet')
  t.equal(staged(batch, expecting(state, 'x', 1)), 'later', 'it is written here')
  t.equal(staged(batch, expecting(state, 'y', 1)), 'staged', 'nothing here writes it')
  t.equal(staged(batch, expecting(state, 'y', 1)), 'later', 'now it is')
  t.equal(batch.pendings.length, 2)
  const made = await creating(state, { z: { dtype: 'u8', shape: [1] } })
  t.equal(staged(batch, made), 'staged')
  const onNew = { ...write(state, 'x'), preconditions: [{ pageId: made.creates[0]!.id, version: 2 }] }
  t.equal(staged(batch, onNew), 'later', 'it is made here')
  t.equal(x.version, 1)
  batch.abandon()
})

t.test('pages that are not there any more', async (t) => {
  const state = await bench(t)
  const before = traces(state)
  const batch = new Batch(2, state)
  const reader = await creating(state, { r: { derive: { op: 'map', inputs: { x: 'old' }, expr: 'x' } } })
  const pastReader = await creating(state, {
    r: { derive: { op: 'map', inputs: { x: { prev: 'old' } }, expr: 'x' } },
  })
  t.equal(staged(batch, deleting(state, 'old')), 'staged')
  t.equal(staged(batch, deleting(state, 'old')), 'PAGE_NOT_FOUND')
  t.equal(staged(batch, reader), 'PAGE_NOT_FOUND')
  t.equal(staged(batch, pastReader), 'PAGE_NOT_FOUND')
  t.equal(staged(batch, { ...write(state, 'x'), writes: [idOf(state, 'old')] }), 'PAGE_NOT_FOUND')
  t.equal(staged(batch, expecting(state, 'old', 1)), 'PAGE_NOT_FOUND')
  t.equal(staged(batch, { ...write(state, 'x'), writes: [9_999_999] }), 'PAGE_NOT_FOUND')
  t.equal(batch.pendings.length, 1)
  t.same(
    batch.deleted.map(({ name }) => name),
    ['old'],
  )
  t.equal(batch.deletedPage(idOf(state, 'old'))?.name, 'old')
  t.equal(batch.deletedPage(idOf(state, 'x')), undefined)
  t.ok(batch.isDeleted(idOf(state, 'old')))
  batch.abandon()
  t.same(traces(state), before)
})

t.test('a page that others read', async (t) => {
  const state = await bench(t)
  const before = traces(state)
  const batch = new Batch(2, state)
  t.throws(() => batch.stage(deleting(state, 'x')), { code: 'PAGE_IN_USE', extra: { dependents: ['twice'] } })
  t.equal(staged(batch, deleting(state, 'twice', 'x')), 'PAGE_IN_USE', 'not all of them')
  t.equal(staged(batch, deleting(state, 'y')), 'PAGE_IN_USE', 'the past of it too')
  t.equal(staged(batch, { ...deleting(state, 'old'), writes: [idOf(state, 'old')] }), 'INVALID_REQUEST')
  t.same(traces(state), before)
  t.equal(staged(batch, deleting(state, 'more', 'twice', 'x')), 'staged')
  t.equal(staged(batch, deleting(state, 'old')), 'staged')
  t.equal(staged(batch, deleting(state, 'y')), 'staged')
  const many = Object.fromEntries(
    Array.from({ length: 7 }, (_, i) => [
      `r${i}`,
      { derive: { op: 'map' as const, inputs: { x: 'x' }, expr: 'x' } },
    ]),
  )
  batch.abandon()
  t.same(traces(state), before)
  const readers = new Batch(2, state)
  readers.stage(await creating(state, many))
  t.throws(() => readers.stage(deleting(state, 'x')), {
    message: /"twice", "r0", "r1", "r2", "r3" and 3 more/,
  })
  readers.abandon()
  t.same(traces(state), before)
})

t.test('names', async (t) => {
  const state = await bench(t)
  const before = traces(state)
  const batch = new Batch(2, state)
  const one = (name: string) => creating(state, { [name]: { dtype: 'u8', shape: [8] } })
  t.equal(staged(batch, await one('x')), 'PAGE_EXISTS')
  t.equal(staged(batch, await one('z')), 'staged')
  t.equal(staged(batch, await one('z')), 'PAGE_EXISTS')
  const [a, b] = [await one('w'), await one('w')]
  t.equal(staged(batch, { ...a, creates: [...a.creates, ...b.creates] }), 'PAGE_EXISTS', 'twice in one')
  t.same(
    batch.created.map(({ name }) => name),
    ['z'],
  )
  t.equal(staged(batch, deleting(state, 'old')), 'staged')
  t.equal(staged(batch, await one('old')), 'staged', 'the name is free again')
  t.equal(batch.createdBytes, 16)
  t.equal(state.context.memory().pageBytes, (before as { bytes: number }).bytes + 16)
  t.ok(batch.isStructural)
  batch.abandon()
  t.same(traces(state), before)
})

t.test('what an epoch did to the structure', async (t) => {
  const state = await bench(t)
  const { edgeCount } = state.graph
  const batch = new Batch(5, state)
  t.notOk(batch.isStructural)
  t.notOk(batch.isOneWay)
  t.equal(batch.graphBefore, undefined)
  const made = await creating(state, {
    s: { dtype: 'i32', shape: [4], fill: 2 },
    d: { derive: { op: 'map', inputs: { x: 's', y: 'x' }, expr: 'x + y' } },
  })
  batch.stage(write(state, 'y'))
  batch.stage(made)
  t.notOk(batch.isOneWay)
  t.same(batch.graphBefore, { edges: edgeCount, depth: state.graph.depth() })
  t.equal(batch.destroyedIds.length, 0)
  batch.stage(deleting(state, 'old'))
  t.ok(batch.isOneWay, 'it read the past')
  t.equal(batch.graphBefore?.edges, edgeCount, 'as it was before all of it')
  t.same(batch.destroyedIds.length, 2, 'the page and the past that nobody else reads')
  const [s, d] = made.creates
  t.same([s!.version, s!.createdEpoch, d!.version], [5, 5, 5])
  t.equal(batch.createdPage(s!.id), s)
  t.equal(batch.createdPage(idOf(state, 'y')), undefined)
  const touched = [idOf(state, 'y'), s!.id, d!.id, idOf(state, 'old')].sort((a, b) => a - b)
  t.same([...batch.touchedPages()], touched)
  executed(state, batch)
  t.same([...state.registry.names()], ['d', 'more', 's', 'twice', 'x', 'y'])
  const out = new Int32Array(4)
  state.context.readPage(d!.id, 0, out)
  t.same([...out], [2, 2, 2, 2])
  state.context.readPage(idOf(state, 'more'), 0, out)
  t.same([...out], [3, 0, 0, 0])
  const plain = new Batch(6, state)
  plain.stage(deleting(state, 'd'))
  t.notOk(plain.isOneWay)
  plain.abandon()
  const reading = new Batch(6, state)
  reading.stage(
    await creating(state, { p: { derive: { op: 'map', inputs: { x: { prev: 's' } }, expr: 'x' } } }),
  )
  t.ok(reading.isOneWay)
  reading.abandon()
})

t.test('prepared in slices, it is the same', async (t) => {
  const state = await bench(t)
  const batch = new Batch(2, state)
  batch.stage(write(state, 'y'))
  batch.stage(write(state, 'x'))
  const [plan, touched] = [batch.plan(), batch.touchedPages()]
  t.same([...touched], [idOf(state, 'x'), idOf(state, 'y')], 'ascending')
  t.equal(plan, state.graph.plan([...touched]), 'one plan, in whatever order pages were written')
  atOnce(batch.preparing())
  t.same(batch.plan().steps, plan.steps)
  t.same(batch.touchedPages(), touched)
  t.equal(batch.plan(), batch.plan())
  t.equal(batch.touchedPages(), batch.touchedPages(), 'made once')
})

t.test('room in frames, bytes and pages', async (t) => {
  const state = await bench(t)
  const batch = new Batch(2, state)
  const pending = write(state, 'x')
  batch.stage({ ...pending, count: 3 })
  const bytes = pending.frame.byteLength
  t.same([batch.frameCount, batch.frameBytes], [3, bytes])
  t.ok(batch.hasRoom(BATCH_MAX_TRANSACTIONS - 3, 0))
  t.notOk(batch.hasRoom(BATCH_MAX_TRANSACTIONS - 2, 0))
  t.ok(batch.hasRoom(1, BATCH_MAX_BYTES - bytes))
  t.notOk(batch.hasRoom(1, BATCH_MAX_BYTES - bytes + 1))
  t.ok(batch.hasRoom(1, 0, STAGED_AT_ONCE_MAX))
  t.notOk(batch.hasRoom(1, 0, STAGED_AT_ONCE_MAX + 1))
  batch.stage(deleting(state, 'old'))
  t.notOk(batch.hasRoom(1, 0, STAGED_AT_ONCE_MAX))
  batch.abandon()
})

t.test('frames: one as it is, several and borrowed ones in a buffer', async (t) => {
  const state = await bench(t)
  const [a, b] = [write(state, 'x'), write(state, 'y')]
  const bufferOf = frameBuffers()
  const one = new Batch(2, state)
  one.stage(a)
  t.equal(one.frames(bufferOf), a.frame)
  const borrowed = new Batch(2, state)
  borrowed.stage({ ...a, isBorrowed: true })
  t.not(borrowed.frames(bufferOf), a.frame)
  t.same(borrowed.frames(bufferOf), a.frame)
  const two = new Batch(2, state)
  two.stage(a)
  two.stage(b)
  t.same(two.frames(bufferOf), Buffer.concat([a.frame, b.frame]))
  const buffers = frameBuffers()
  const [first, second, third] = [buffers(100), buffers(100), buffers(128)]
  t.same([first.length, third.length], [100, 128])
  t.not(first.buffer, second.buffer, 'two take turns')
  t.equal(first.buffer, third.buffer, 'with room up to a power of two')
  buffers(1)
  t.not(buffers(129).buffer, third.buffer)
})

// ---- functions --------------------------------------------------------------------------------------------

const USING = { ...PAGES, uses: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'f(x)' } } } as const
const limits = new LimitGuard()

/** A change of the function f. */
async function defining({ registry }: EngineState, expr: string): Promise<Pending> {
  const change = definitionChange(registry.functions, 'f', { params: ['x'], expr }, limits)
  return atOnce(writingFunction(change, await redefinitions(registry, change, new CompileBudget(limits))))
}

async function withFunction(t: Test): Promise<EngineState> {
  const state = await bench(t)
  const batch = new Batch(2, state)
  batch.stage(await defining(state, 'x + 1'))
  executed(state, batch)
  const next = new Batch(3, state)
  next.stage(await creating(state, { uses: USING.uses }))
  executed(state, next)
  return state
}

t.test('a function changes together with the pages that use it', async (t) => {
  const state = await withFunction(t)
  const uses = state.registry.require('uses')
  const { step, derived } = uses
  const before = traces(state)
  const change = await defining(state, 'x + 10')
  const given = new Batch(4, state)
  t.equal(staged(given, change), 'staged')
  t.ok(given.isOneWay)
  t.same([...given.touchedPages()], [uses.id])
  t.equal(staged(given, deleting(state, 'old')), 'later', 'structure waits for another epoch')
  t.equal(staged(given, await creating(state, { z: { dtype: 'u8', shape: [1] } })), 'later')
  t.equal(staged(given, change), 'later', 'and so does another change')
  t.equal(staged(given, write(state, 'x')), 'staged', 'writes do not')
  given.abandon()
  t.same(traces(state), before)
  t.same([uses.step, uses.derived], [step, derived])
  const batch = new Batch(4, state)
  batch.stage(change)
  executed(state, batch)
  t.not(uses.derived, derived)
  t.equal(state.registry.functions.get('f')?.expr, 'x + 10')
  const out = new Int32Array(4)
  state.context.readPage(uses.id, 0, out)
  t.same([...out], [10, 10, 10, 10])
})

t.test('structure first: a change of a function waits', async (t) => {
  const state = await withFunction(t)
  const change = await defining(state, 'x + 10')
  for (const structure of [
    deleting(state, 'old'),
    await creating(state, { z: { dtype: 'u8', shape: [1] } }),
  ]) {
    const batch = new Batch(4, state)
    batch.stage(structure)
    t.equal(staged(batch, change), 'later')
    batch.abandon()
  }
  const migration = { ...change, change: undefined } as unknown as Pending
  const batch = new Batch(4, state)
  batch.stage(write(state, 'x'))
  t.equal(staged(batch, migration), 'later', 'a migration is always first')
  t.equal(atOnce(batch.staging(migration)), 'later', 'in slices too')
  t.equal(batch.pendings.length, 1)
  const alone = new Batch(4, state)
  t.equal(atOnce(alone.staging(migration)), 'staged')
  t.ok(alone.isOneWay)
  alone.abandon()
})

t.test('what was compiled against other functions is stale', async (t) => {
  const state = await withFunction(t)
  const user = await creating(state, { v: USING.uses })
  const other = await creating(state, { w: { dtype: 'u8', shape: [1] } })
  const change = await defining(state, 'x + 5')
  const batch = new Batch(4, state)
  batch.stage(await defining(state, 'x + 10'))
  executed(state, batch)
  t.equal(staged(new Batch(5, state), user), 'stale')
  t.equal(staged(new Batch(5, state), change), 'stale')
  const fine = new Batch(5, state)
  t.equal(staged(fine, other), 'staged', 'it uses none')
  fine.abandon()
  t.equal(
    staged(new Batch(5, state), { ...(await defining(state, 'x')), redefines: [] }),
    'stale',
    'a user is missing',
  )
  const ending = { name: 'f', body: undefined, worldAge: state.registry.functions.worldAge + 1 }
  t.equal(staged(new Batch(5, state), atOnce(writingFunction(ending, []))), 'PAGE_IN_USE')
  const gone = new Batch(5, state)
  gone.stage(deleting(state, 'uses'))
  executed(state, gone)
  const end = new Batch(6, state)
  t.equal(staged(end, atOnce(writingFunction(ending, []))), 'staged')
  executed(state, end)
  t.equal(state.registry.functions.get('f'), undefined)
})

// ---- limits -----------------------------------------------------------------------------------------------

/** A batch under these limits. */
function limited(state: EngineState, given: Partial<Limits>): Batch {
  const guard = new LimitGuard(given)
  return new Batch(2, state, new CostLimits(guard, (id) => `#${id}`), new Quotas(guard, state))
}

t.test('so many pages, and so many bytes of them', async (t) => {
  const state = await bench(t)
  const before = traces(state)
  const one = (name: string, count = 8) => creating(state, { [name]: { dtype: 'u8', shape: [count] } })
  const few = limited(state, { maxPages: 6 })
  t.equal(staged(few, await one('a')), 'staged')
  t.equal(staged(few, await one('b')), 'QUOTA_EXCEEDED')
  t.equal(staged(few, deleting(state, 'old')), 'staged')
  t.equal(staged(few, await one('c')), 'staged', 'one was deleted')
  t.equal(staged(few, await one('d')), 'QUOTA_EXCEEDED')
  few.abandon()
  t.same(traces(state), before)
  const { registry, context } = state
  const taken = context.memory().pageBytes + registry.ownBytes + registry.functions.bytes
  const pair = [await one('a'), await one('b')] as const
  const probe = new Batch(2, state)
  probe.stage(pair[0])
  probe.abandon()
  const small = limited(state, { maxPageBytes: taken + 100_000 })
  t.equal(staged(small, await one('big', 100_001)), 'QUOTA_EXCEEDED')
  t.equal(staged(small, await one('fits', 50_000)), 'staged')
  t.equal(staged(small, await one('more', 50_000)), 'QUOTA_EXCEEDED', 'what is staged counts')
  t.equal(staged(small, write(state, 'x')), 'staged', 'writes are not asked')
  small.abandon()
  t.same(traces(state), before)
})

t.test('what costs too much', async (t) => {
  const ofOther = { derive: { op: 'map', inputs: { x: 'y' }, expr: 'x + 1' } } as const
  const state = await stateWith(t, { ...PAGES, a: ofOther, b: ofOther, c: ofOther })
  const { registry, graph } = state
  const before = traces(state)
  const cost = (name: string): number => registry.require(name).derived!.costNs / 1e6
  const all = graph.totalCostNs / 1e6
  const both = graph.plan([idOf(state, 'x')]).costNs / 1e6
  t.ok(both * 1.2 < all)
  t.equal(staged(limited(state, { maxCommitCostMs: all, maxStepCostMs: all }), write(state, 'x')), 'staged')
  t.equal(staged(limited(state, { maxStepCostMs: cost('more') / 2 }), write(state, 'y')), 'COST_EXCEEDED')
  t.equal(staged(limited(state, { maxCommitCostMs: both / 2 }), write(state, 'x')), 'COST_EXCEEDED')
  const apart = limited(state, { maxCommitCostMs: both * 1.2 })
  t.equal(staged(apart, write(state, 'x')), 'staged')
  t.equal(staged(apart, write(state, 'x')), 'later', 'together they cost too much')
  const dear = await creating(state, {
    m: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'sin(x) + exp(x)' } },
  })
  t.equal(staged(limited(state, { maxStepCostMs: all }), dear), 'COST_EXCEEDED')
  t.same(traces(state), before, 'a refusal leaves nothing behind')
})
