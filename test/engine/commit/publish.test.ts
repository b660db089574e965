/**
 * What becomes visible at once when an epoch is published: versions, structure, events, answers. And how an
 * epoch ends otherwise: taken back, or executed again because the device was lost.
 */
import t, { type Test } from 'tap'
import type { Pending } from '../../../src/engine/commands/pending.js'
import {
  pendingOfDeletes,
  pendingOfDelta,
  pendingOfTransaction,
} from '../../../src/engine/commands/transactions.js'
import { Batch, frameBuffers } from '../../../src/engine/commit/batch.js'
import { type EpochInFlight, Publisher } from '../../../src/engine/commit/publish.js'
import { IdempotencyKeys } from '../../../src/engine/idempotency/keys.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import { StageTimings } from '../../../src/engine/stage-timings.js'
import type { CommitEvent } from '../../../src/engine/types.js'
import { DeviceLost } from '../../../src/ffi/library.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { Bench as CommitterBench } from '../../lib/committer-bench.js'
import { creating, stateWith } from '../../lib/engine-state.js'
import { turns, until } from '../../lib/wait.js'

const PAGES = {
  x: { dtype: 'i32', shape: [4] },
  y: { dtype: 'i32', shape: [4] },
  twice: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x * 2' } },
  old: { derive: { op: 'map', inputs: { y: { prev: 'y' } }, expr: 'y + 1' } },
} as const

interface Bench {
  readonly state: EngineState
  readonly publisher: Publisher
  readonly keys: IdempotencyKeys
  readonly timings: StageTimings
}

async function bench(t: Test): Promise<Bench> {
  const state = await stateWith(t, PAGES)
  const [keys, timings] = [new IdempotencyKeys(new LimitGuard()), new StageTimings()]
  const publisher = new Publisher(state, keys, timings)
  t.same(publisher.digest, state.context.stateDigest(), 'before anything is recovered')
  publisher.startFrom(1, state.context.stateDigest(), 100)
  t.same([publisher.epoch, publisher.timestampMs], [1, 100])
  return { state, publisher, keys, timings }
}

/** An epoch with these transactions, executed. */
function flightOf(
  { state, publisher }: Bench,
  pendings: readonly Pending[],
  timestampMs = 200,
): EpochInFlight {
  const batch = new Batch(publisher.epoch + 1, state)
  for (const pending of pendings) batch.stage(pending)
  const submissions = pendings.map((pending) => ({ pending, queuedAtMs: 7, resolve() {}, reject() {} }))
  const result = state.context.execute(batch.plan().steps, batch.frames(frameBuffers()))
  const none = {
    appended: undefined,
    appendStartedMs: undefined,
    appendEndedMs: undefined,
    plan: undefined,
    cancelled: undefined,
    event: undefined,
  }
  const flags = {
    isStaging: false,
    isExecuting: false,
    isAppending: false,
    isFailingOver: false,
    isKept: false,
  }
  return { batch, submissions, timestampMs, result, ...none, ...flags }
}

const write = ({ registry }: EngineState, page: string, values: number[], key?: string): Pending =>
  pendingOfDelta(registry.require(page), { offset: 0, values }, key === undefined ? {} : { key })

const shown = ({ changes }: CommitEvent): unknown[] =>
  changes.map(({ page, kind, ranges }) => `${page} ${kind} ${[...ranges]}`)

function publish(
  { publisher }: Bench,
  flight: EpochInFlight,
  observer?: { saveWhole: (id: number) => void },
) {
  publisher.apply(flight, flight.result!, observer && { absorb() {}, ...observer })
  return publisher.tell(flight, 12)
}

t.test('versions move to the epoch where bytes changed, and events say where', async (t) => {
  const b = await bench(t)
  const { publisher, state } = b
  const events: CommitEvent[] = []
  publisher.onCommit((event) => {
    t.equal(publisher.epoch, event.epoch, 'the state is that of the epoch')
    t.equal(state.registry.require('x').version, event.epoch)
    events.push(event)
  })
  const answers = publish(b, flightOf(b, [write(state, 'x', [1, 2]), write(state, 'y', [0], 'k')]))
  t.same(answers, [
    { epoch: 2, pages: { x: 2 } },
    { epoch: 2, pages: { y: 1 } },
  ])
  t.match(events, [{ epoch: 2, timestampMs: 200 }])
  t.same(shown(events[0]!), ['x source 0,2', 'twice derived 0,2'])
  t.match(events[0]!.changes[0], { dtype: 'i32', shape: [4], pageId: state.registry.require('x').id })
  t.same([publisher.epoch, publisher.timestampMs], [2, 200])
  t.same(publisher.digest, state.context.stateDigest())
  t.same(publisher.lastResult?.stateDigest(), publisher.digest)
  t.match(b.keys.firstUse('k'), { answer: { epoch: 2, pages: { y: 1 } } })
  const { commit } = b.timings.summary()
  t.equal(commit.count, 2)
  t.ok(Math.abs(commit.max - 5_000) < 500, `queued at 7 ms, answered at 12: ${commit.max} us`)
})

t.test('pages that are made and deleted, some of them in the same epoch', async (t) => {
  const b = await bench(t)
  const { publisher, state } = b
  const events: CommitEvent[] = []
  publisher.onCommit((event) => events.push(event))
  const [x, old] = [state.registry.require('x'), state.registry.require('old')]
  const made = await creating(state, { z: { dtype: 'u8', shape: [3] } })
  const short = await creating(state, { short: { dtype: 'u8', shape: [3] } })
  const [past] = old.derived!.inputs
  const saved: number[] = []
  const flight = flightOf(b, [
    write(state, 'x', [5], 'w'),
    made,
    short,
    pendingOfDeletes([short.creates[0]!.id]),
    pendingOfDeletes([state.registry.require('twice').id, x.id]),
    pendingOfDeletes([old.id]),
  ])
  t.same(flight.batch.destroyedIds.length, 5)
  const answers = publish(b, flight, { saveWhole: (id) => saved.push(id) })
  t.same(shown(events[0]!), ['twice deleted ', 'x deleted ', 'old deleted ', 'z created 0,3'])
  t.same(
    answers.map(({ pages }) => pages),
    [{ x: 2 }, { z: 2 }, { short: 2 }, {}, {}, {}],
  )
  t.ok(
    [x.id, old.id, past!.id].every((id) => saved.includes(id)),
    'their bytes were saved before',
  )
  t.same([...state.registry.names()], ['y', 'z'])
  t.same(publisher.digest, state.context.stateDigest(), 'the digest without them')
  t.notSame(publisher.digest, publisher.lastResult?.stateDigest())
})

t.test('nobody listens, and nothing is made for listeners', async (t) => {
  const b = await bench(t)
  const end = b.publisher.onCommit(
    () => t.fail('it has ended'),
    () => t.fail('it has ended'),
  )
  end()
  const flight = flightOf(b, [write(b.state, 'x', [1])])
  b.publisher.tellAhead(flight, flight.result!)
  t.equal(flight.event, undefined)
  publish(b, flight)
  t.equal(flight.event, undefined)
})

t.test('whoever prepares for an epoch sees the event that all see later', async (t) => {
  const b = await bench(t)
  const [ahead, events]: CommitEvent[][] = [[], []]
  const end = b.publisher.onCommit(
    (event) => events!.push(event),
    (event) => ahead!.push(event),
  )
  b.publisher.onCommit(() => {})
  const flight = flightOf(b, [write(b.state, 'x', [1])])
  b.publisher.tellAhead(flight, flight.result!)
  t.same([ahead!.length, events!.length, b.publisher.epoch], [1, 0, 1])
  publish(b, flight)
  t.equal(events![0], ahead![0])
  end()
  const next = flightOf(b, [write(b.state, 'x', [2])])
  b.publisher.tellAhead(next, next.result!)
  publish(b, next)
  t.same([ahead!.length, events!.length], [1, 1])
})

t.test('deltas are counted by kind', async (t) => {
  const b = await bench(t)
  const ops = [
    { page: 'x', offset: 0, values: [1] },
    { page: 'y', indices: [1, 2], values: [1, 2] },
    { page: 'y', indices: [3], values: [4] },
    { page: 'x', mask: Uint8Array.of(0b0110), values: [7, 8] },
  ]
  publish(b, flightOf(b, [pendingOfTransaction(b.state.registry, { ops })]))
  t.same(b.publisher.deltaCounts, { dense: 1, sparse: 2, masked: 1 })
  publish(b, flightOf(b, [write(b.state, 'x', [1])]))
  t.same(b.publisher.deltaCounts, { dense: 2, sparse: 2, masked: 1 })
})

t.test('a void epoch moves number and time, and nothing else', async (t) => {
  const b = await bench(t)
  const { publisher, state } = b
  publish(b, flightOf(b, [write(state, 'x', [1])]))
  const { digest } = publisher
  const events: CommitEvent[] = []
  publisher.onCommit((event) => events.push(event))
  publisher.applyVoid({ ...flightOf(b, [], 300), batch: new Batch(3, state) })
  t.same([publisher.epoch, publisher.timestampMs, publisher.lastResult], [3, 300, undefined])
  t.equal(publisher.digest, digest)
  t.same(events, [{ epoch: 3, timestampMs: 300, changes: [] }])
})

// ---- other ends of an epoch -------------------------------------------------------------------------------

/** Computing `slow` takes long enough to be cancelled, and is estimated to. */
const SLOW = {
  ...PAGES,
  m: { dtype: 'f64', shape: [90, 90], fill: 1 },
  slow: { derive: { op: 'conv', inputs: { x: 'm', kernel: 'm' }, boundary: 'wrap' } },
  was: { derive: { op: 'map', inputs: { x: { prev: 'm' } }, expr: 'x' } },
} as const

async function slowBench(t: Test, isDurable = true) {
  const b = new CommitterBench(await stateWith(t, SLOW), { isDurable, limits: { maxCommitTimeMs: 60_000 } })
  const { graph, registry } = b.state
  const { id, step } = registry.require('slow')
  graph.setStep(id, step!, 1e9)
  b.onThread = true
  const page = registry.require('m')
  const answer = b.committer.commit(pendingOfDelta(page, { offset: 0, values: [2] }, {}))
  answer.catch(() => {})
  b.soon()
  return { ...b, b, committer: b.committer, page, answer }
}

t.test('a synchronous read ends an epoch that was cancelled', async (t) => {
  for (const isDurable of [true, false]) {
    const { b, committer, answer, state, page } = await slowBench(t, isDurable)
    const digest = committer.digest
    t.ok(committer.cancelCommit())
    committer.settle()
    t.equal(committer.staged, undefined, 'it is over')
    t.same(state.context.stateDigest(), digest)
    t.equal(page.version, 1)
    t.equal(committer.epoch, isDurable ? 2 : 1)
    if (isDurable) t.same(b.store.calls, ['reserve true', 'append 2', 'complete', 'void 2'])
    await t.rejects(answer, { code: 'COST_EXCEEDED' })
    b.store.appends[0]?.open()
    await turns()
    t.equal(committer.epoch, isDurable ? 2 : 1, 'once')
    t.equal(b.store.calls.filter((call) => call.startsWith('void')).length, isDurable ? 1 : 0)
    b.onThread = false
    const next = b.write(7)
    b.soon()
    await until(() => !isDurable || b.store.appends.length === 2, 'the next append')
    b.store.appends[1]?.open()
    await next
    t.equal(b.value('twice'), 14)
  }
})

t.test('what overwrites more than is kept cannot be cancelled', async (t) => {
  for (const [bytes, isCancelled] of [
    [90 * 90 * 8, true],
    [2 ** 30, false],
  ] as const) {
    const b = new CommitterBench(await stateWith(t, SLOW), { limits: { maxCommitTimeMs: 60_000 } })
    const slow = b.state.registry.require('slow')
    b.state.graph.setStep(slow.id, slow.step!, 1e9)
    Object.assign(slow, { bytes })
    b.onThread = true
    const page = b.state.registry.require('m')
    const answer = b.committer.commit(pendingOfDelta(page, { offset: 0, values: [2] }, {}))
    b.soon()
    t.equal(b.committer.cancelCommit(), isCancelled, `${bytes} bytes`)
    b.store.appends[0]!.open()
    if (isCancelled) await t.rejects(answer, { code: 'COST_EXCEEDED' })
    else t.match(await answer, { epoch: 2 })
    Object.assign(slow, { bytes: 90 * 90 * 8 })
  }
})

t.test('a synchronous read waits for no execution where none runs', async (t) => {
  const b = new CommitterBench(await stateWith(t, PAGES))
  b.state.context.waitSync = () => {
    throw new Error('nothing runs')
  }
  b.write(1)
  b.soon()
  b.committer.settle()
  t.equal(b.committer.epoch, 2)
  b.store.appends[0]!.open()
  await until(() => b.ended.length === 1, 'the answer')
})

t.test(
  'an epoch whose writers are all there again starts before the answers of the one before',
  async (t) => {
    const b = new CommitterBench(await stateWith(t, PAGES))
    b.write(1)
    b.write(2)
    b.soon()
    b.write(3)
    b.write(4)
    t.equal(b.soonCount, 0)
    b.store.appends[0]!.open()
    await until(() => b.ended.length === 2, 'the answers')
    t.match(b.store.appends[1], { epoch: 3, frameCount: 2 }, 'nobody has asked the event loop')
    b.store.appends[1]!.open()
    await until(() => b.ended.length === 4, 'the other answers')
  },
)

t.test('an epoch that the log has is executed again when the device is lost', async (t) => {
  const reasons: string[] = []
  const failOver = (reason: string): void => {
    reasons.push(reason)
  }
  const b = new CommitterBench(await stateWith(t, PAGES), { failOver })
  const { context } = b.state
  const execute = context.execute.bind(context)
  let losses = 1
  context.execute = (...args) => {
    if (losses-- > 0) throw new DeviceLost('BUS_FAILED', 'lost')
    return execute(...args)
  }
  b.write(1)
  b.soon()
  b.write(2)
  t.equal(b.soonCount, 0)
  b.store.appends[0]!.open()
  await until(() => b.ended.length === 1, 'the answer')
  t.strictSame([reasons, b.ended, b.value('twice')], [['lost'], ['1: 2'], 2])
  t.equal(b.events.length, 1)
  t.equal(b.committer.lifecycle.failure, undefined)
  t.equal(b.soonCount, 1, 'what is queued follows')
  b.ticksMs += 1_000
  b.soon()
  b.store.appends[1]!.open()
  await until(() => b.ended.length === 2, 'the next answer')
  t.equal(b.value('twice'), 4)
})
