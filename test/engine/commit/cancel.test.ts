/**
 * A commit, a what-if: cancelled while they run. Nothing has changed then, to the byte; what was in the log
 * already is a void epoch, and everyone who looks at it sees the same.
 */
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'

const NO_COST_LIMITS = { maxStepCostMs: 86_400_000, maxCommitCostMs: 86_400_000 }
/**
 * Elements of a side of x: its conv is estimated to take so long that every commit of it can be cancelled.
 */
const SIDE = 120
const conv = { op: 'conv' as const, inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' as const }

async function open(test: Test, options: BusOptions = {}): Promise<EngineBus> {
  const bus = await EngineBus.open({ backend: 'cpu', threads: 2, fsync: 'off', ...options })
  test.teardown(() => bus.close())
  return bus
}

/**
 * Far below the minutes that the steps of 700 x 700 elements take, and enough for a machine with other work.
 */
const SOON_MS = 10_000

const limits = (maxCommitTimeMs: number): BusOptions => ({ limits: { ...NO_COST_LIMITS, maxCommitTimeMs } })

/** Pages whose steps keep state and read the past, below a costly one. */
async function fill(bus: EngineBus): Promise<void> {
  await bus.create('x', { dtype: 'f64', shape: [SIDE, SIDE] })
  await bus.derive('double', { op: 'map', inputs: { a: 'x' }, expr: 'a * 2' })
  await bus.derive('flat', { op: 'reshape', inputs: { x: 'double' }, shape: [-1] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'flat' }, fn: 'sum' })
  await bus.derive('before', { op: 'map', inputs: { a: { prev: 'sum' }, b: 'sum' }, expr: 'b - a' })
  await bus.derive('slow', conv)
  await bus.derive('after', { op: 'reduce', inputs: { x: 'slow' }, fn: 'max' })
  await bus.patch('x', { offset: 0, values: Array.from({ length: SIDE * SIDE }, (_, i) => i % 7) })
}

const everything = (bus: EngineBus): Record<string, unknown> =>
  Object.fromEntries(bus.pageNames().map((name) => [name, Array.from(bus.read(name) as Float64Array)]))

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error instanceof MmsbError ? error.code : error),
  )

t.setTimeout(120_000)

const ones = { offset: 5, values: Array.from({ length: SIDE * 80 }, () => 1) }

t.test('a definition of minutes is cancelled at its deadline', async (t) => {
  const bus = await open(t, { dataDir: t.testdir(), ...limits(300) })
  await bus.create('x', { dtype: 'f64', shape: [700, 700] })
  const { digest } = bus.status()
  const startedMs = performance.now()
  t.equal(await codeOf(bus.derive('y', conv)), 'COST_EXCEEDED')
  t.ok(performance.now() - startedMs < 300 + SOON_MS, 'soon after the deadline')
  t.equal(bus.epoch, 2)
  t.equal(bus.status().digest, digest)
  t.notOk(bus.hasPage('y'))
  t.match(await bus.epochInfo(2), { void: true, transactions: [], changed: [], digest })
  await bus.create('y', { dtype: 'u8', shape: [1] })
  t.equal(bus.epoch, 3)
})

for (const threads of [1, 2]) {
  t.test(`a cancelled write leaves nothing behind, with ${threads} threads`, async (t) => {
    const dataDir = t.testdir()
    const before = await open(t, { dataDir, threads })
    await fill(before)
    await before.close()
    const bus = await open(t, { dataDir, threads, ...limits(30) })
    const old = everything(bus)
    const { digest, epoch } = bus.status()
    const events: number[] = []
    bus.onCommit((event) => events.push(event.epoch, event.changes.length))
    const write = { key: 'once' }
    t.equal(await codeOf(bus.patch('x', ones, write)), 'COST_EXCEEDED')
    t.same(events, [epoch + 1, 0])
    t.match(bus.status(), { digest, epoch: epoch + 1 })
    t.same(everything(bus), old)
    t.equal(bus.page('x').version, epoch)
    t.match(
      bus.limits.refusals().find(([name]) => name === 'maxCommitTimeMs'),
      ['maxCommitTimeMs', 1],
    )
    t.match(await bus.epochInfo(epoch + 1), { void: true, transactions: [], changed: [], digest })
    t.equal((await bus.history('x')).versions.at(-1)?.epoch, epoch)
    t.same((await bus.diff({ from: epoch })).pages, [])
    t.match(await bus.pastChanges({ after: epoch, to: epoch + 1, pages: ['**'], values: true }), {
      epochs: [],
      through: epoch + 1,
    })
    t.match(await bus.verify(), { ok: true, to: epoch + 1 })
    await bus.close()

    const again = await open(t, { dataDir, threads })
    t.match(again.status(), { digest, epoch: epoch + 1 })
    t.same(everything(again), old)
    await again.patch('x', ones, write)
    const reference = await open(t)
    await fill(reference)
    await reference.patch('x', ones)
    t.same(everything(again), everything(reference), 'the steps that keep state go on as if nothing had been')
    t.equal(again.status().digest, reference.status().digest)
    t.match(await again.verify(), { ok: true })
    t.same(Array.from((await again.readAt('x', epoch + 1)) as Float64Array), old.x)
  })
}

t.test('the same bus goes on after it', async (t) => {
  const dataDir = t.testdir()
  const bus = await open(t, { dataDir })
  await fill(bus)
  const reference = await open(t)
  await fill(reference)
  for (let i = 0; i < 2; i++) {
    const change = { offset: i * 100, values: Array.from({ length: 3_000 }, (_, k) => k % (i + 2)) }
    // Between them: a what-if, which undoes in the other way, and a checkpoint, which watches.
    const cancelled = codeOf(bus.patch('x', change))
    await new Promise((resolve) => setTimeout(resolve, 5 + 10 * i))
    t.equal(bus.cancelCommit(), true)
    if (i % 2 === 1) bus.read('sum')
    t.equal(await cancelled, 'COST_EXCEEDED')
    if (i === 0) await bus.checkpoint()
    const tried = await bus.whatIf({ ops: [{ page: 'x', ...change }], read: ['sum', 'before'] })
    await bus.patch('x', change)
    await reference.patch('x', change)
    t.equal(bus.status().digest, reference.status().digest)
    t.same(tried.pages.sum?.values, bus.read('sum'))
    t.same(tried.pages.before?.values, bus.read('before'))
  }
  t.match(await bus.verify(), { ok: true })
})

t.test('in memory the number of the epoch is used again', async (t) => {
  const bus = await open(t, limits(200))
  await bus.create('x', { dtype: 'f64', shape: [700, 700] })
  t.equal(await codeOf(bus.derive('y', conv)), 'COST_EXCEEDED')
  t.equal(bus.epoch, 1)
  t.equal((await bus.patch('x', { offset: 0, values: [1] })).epoch, 2)
})

t.test('a what-if ends when its caller leaves', async (t) => {
  const bus = await open(t, { limits: NO_COST_LIMITS })
  await fill(bus)
  const old = everything(bus)
  const { digest } = bus.status()
  for (const ms of [1, 20, 60]) {
    const controller = new AbortController()
    const tried = bus.whatIf(
      { ops: [{ page: 'x', ...ones }], read: ['after'] },
      { signal: controller.signal },
    )
    setTimeout(() => controller.abort(), ms)
    t.equal(await codeOf(tried), 'COST_EXCEEDED')
    t.same(everything(bus), old)
    t.equal(bus.status().digest, digest)
  }
  await bus.patch('x', ones)
  const reference = await open(t)
  await fill(reference)
  await reference.patch('x', ones)
  t.equal(bus.status().digest, reference.status().digest)
})

t.test('a stop does not wait for what takes minutes', async (t) => {
  const dataDir = t.testdir()
  const bus = await open(t, { dataDir, fsync: 'always', limits: NO_COST_LIMITS })
  await bus.create('x', { dtype: 'f64', shape: [700, 700] })
  const { digest } = bus.status()
  const running = codeOf(bus.derive('y', conv))
  await new Promise((resolve) => setTimeout(resolve, 50))
  const queued = codeOf(bus.patch('x', { offset: 0, values: [1] }))
  const startedMs = performance.now()
  await bus.close({ graceMs: 100 })
  t.ok(performance.now() - startedMs < 100 + SOON_MS, 'soon after the grace')
  t.equal(await running, 'BUS_FAILED')
  t.equal(await queued, 'BUS_FAILED')
  const again = await open(t, { dataDir })
  t.match(again.status(), { epoch: 2, digest, pages: 1 })
  t.match(await again.epochInfo(2), { void: true })
})
