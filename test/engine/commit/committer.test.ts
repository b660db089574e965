/**
 * The stages of an epoch, one at a time: the log, the event loop and the clocks are the test's own, so it
 * says when an append ends and looks at what is there before and after.
 */
import t from 'tap'
import type { Pending } from '../../../src/engine/commands/pending.js'
import { pendingOfDeletes, pendingOfDelta } from '../../../src/engine/commands/transactions.js'
import { Committer } from '../../../src/engine/commit/committer.js'
import type { CommitEvent } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { START_AT_BYTES } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { Bench, bench, PAGES } from '../../lib/committer-bench.js'
import { stateWith } from '../../lib/engine-state.js'
import { Gate } from '../../lib/gate.js'
import { turn, until } from '../../lib/wait.js'

t.test('an epoch is published once its record is durable, not before', async (t) => {
  const b = await bench(t)
  const { committer, store, state } = b
  const [x, digest] = [state.registry.require('x'), committer.digest]
  t.same([committer.epoch, committer.timestampMs], [1, 500])
  const ahead: CommitEvent[] = []
  committer.onCommit(
    () => {},
    (event) => ahead.push(event),
  )
  let published = 0
  committer.onPublished = () => {
    published++
    t.same(b.ended, [], 'before the answers')
    t.equal(b.events.length, 1, 'after the listeners')
  }
  const answers = [b.write(5), b.write(6, {}, 'y')]
  t.equal(b.soonCount, 1, 'one turn for all that is ready')
  t.same([committer.queued.transactions, committer.staged], [2, undefined])
  b.soon()
  t.equal(committer.queued.transactions, 0)
  t.equal(committer.staged?.epoch, 2)
  t.match(store.appends, [{ epoch: 2, timestampMs: 1_000, frameCount: 2, digestBefore: digest }])
  const [record] = store.appends
  t.same([...record!.touchedPages], [x.id, state.registry.require('y').id])
  t.ok(committer.isExecutionOpen)
  t.ok(committer.isQuiet, 'nothing runs on another thread')
  t.equal(ahead.length, 1, 'listeners that prepare know it already')
  t.equal(b.value('twice'), 10, 'it is executed')
  await turn()
  t.same([committer.epoch, x.version, b.events.length, published, b.ended], [1, 1, 0, 0, []])
  record!.open()
  t.match(await Promise.all(answers), [
    { epoch: 2, pages: { x: 2 } },
    { epoch: 2, pages: { y: 2 } },
  ])
  t.same([committer.epoch, committer.timestampMs, x.version, published], [2, 1_000, 2, 1])
  t.same(committer.digest, state.context.stateDigest())
  t.notSame(committer.digest, digest)
  t.equal(b.events[0], ahead[0], 'the same event')
  t.match(b.events, [{ epoch: 2, timestampMs: 1_000 }])
  t.same(b.events[0]!.changes.map(({ page }) => page).sort(), ['twice', 'x', 'y'])
  t.same([committer.staged, committer.isExecutionOpen], [undefined, false])
  t.same(committer.deltaCounts, { dense: 2, sparse: 0, masked: 0 })
  t.ok(committer.lastResult!.changedPages >= 3)
})

t.test('time never goes back', async (t) => {
  const b = await bench(t)
  for (const [nowMs, stamped] of [
    [400, 500],
    [2_000, 2_000],
    [1_999, 2_000],
    [2_001, 2_001],
  ] as const) {
    b.nowMs = nowMs
    const answer = b.write(nowMs)
    b.soon()
    t.equal(b.store.appends.at(-1)!.timestampMs, stamped)
    b.store.appends.at(-1)!.open()
    await answer
    t.equal(b.committer.timestampMs, stamped)
  }
})

t.test(
  'what comes while an epoch is in flight joins the next one, which starts before the answers',
  async (t) => {
    const b = await bench(t)
    const first = b.write(1)
    b.soon()
    b.write(2)
    b.write(3)
    t.equal(b.soonCount, 0, 'nothing starts meanwhile')
    t.equal(b.store.appends.length, 1)
    let known = -1
    b.committer.onPublished = () => {
      if (known < 0) known = b.store.appends.length
    }
    b.store.appends[0]!.open()
    await first
    t.equal(known, 1)
    // The first epoch had one writer: nobody is waited for, or for as long as a shared disk takes.
    b.ticksMs += 1_000
    b.soon()
    t.match(b.store.appends[1], { epoch: 3, frameCount: 2 })
    t.same(b.store.appends[1]!.digestBefore, b.committer.digest)
    b.store.appends[1]!.open()
    await until(() => b.ended.length === 3, 'the answers')
    t.same(b.ended, ['1: 2', '2: 3', '3: 3'])
    t.equal(b.value(), 3)
  },
)

t.test('so much is queued that it starts at once', async (t) => {
  const b = new Bench(await stateWith(t, { ...PAGES, big: { dtype: 'u8', shape: [START_AT_BYTES] } }))
  const page = b.state.registry.require('big')
  const pending = (length: number): Pending =>
    pendingOfDelta(page, { offset: 0, values: new Uint8Array(length) }, {})
  const small = b.committer.commit(pending(1_000))
  t.equal(b.store.appends.length, 0)
  const large = b.committer.commit(pending(START_AT_BYTES - 1_000))
  t.match(b.store.appends, [{ frameCount: 2 }])
  t.equal(b.committer.queued.bytes, 0)
  b.store.appends[0]!.open()
  await Promise.all([small, large])
  const memory = await bench(t, { isDurable: false })
  memory.write(1)
  t.same(memory.ended, [])
})

t.test('a full log refuses the epoch and changes nothing', async (t) => {
  const b = await bench(t)
  const { committer, store } = b
  const digest = committer.digest
  store.reserveError = new MmsbError('LOG_FULL', 'full')
  b.write(1)
  const gone = committer.commit(pendingOfDeletes([b.state.registry.require('twice').id]))
  b.soon()
  await t.rejects(gone, { code: 'LOG_FULL' })
  t.same(b.ended, ['1: LOG_FULL'])
  t.equal(committer.lifecycle.failure, undefined)
  t.same(committer.digest, digest)
  t.equal(store.appends.length, 0)
  store.reserveError = undefined
  const next = b.write(2)
  b.soon()
  t.match(store.appends, [{ epoch: 2 }])
  store.appends[0]!.open()
  await next
  t.equal(b.value('twice'), 4, 'the page is still there')
})

t.test('what is queued behind an epoch that a full log refused is tried again', async (t) => {
  const b = await bench(t)
  b.store.reserving = new Gate()
  b.write(1)
  b.soon()
  b.write(2)
  t.equal(b.soonCount, 0)
  b.store.reserving.fail(new MmsbError('LOG_FULL', 'full'))
  b.store.reserving = undefined
  await until(() => b.soonCount > 0, 'the next epoch')
  b.soon()
  t.match(b.store.appends, [{ epoch: 2 }])
  b.store.appends[0]!.open()
  await until(() => b.ended.length === 2, 'both ends')
  t.same(b.ended, ['1: LOG_FULL', '2: 2'])
})

for (const [what, act] of Object.entries<(b: Bench) => void>({
  'room cannot be had': (b) => b.store.reserving!.fail(new Error('broken')),
  'the append fails': (b) => {
    b.store.reserving!.open()
    void until(() => b.store.appends.length > 0, 'the append').then(() =>
      b.store.appends[0]!.fail(new Error('broken')),
    )
  },
  'the store says so': (b) => {
    b.store.fail(new Error('broken'))
    b.store.reserving!.open()
    void until(() => b.store.appends.length > 0, 'the append').then(() =>
      b.store.appends[0]!.fail(new Error('other')),
    )
  },
})) {
  t.test(`the bus stops for good: ${what}`, async (t) => {
    const b = await bench(t)
    const { committer, store } = b
    const reasons: string[] = []
    committer.lifecycle.onFailure((reason) => reasons.push(reason))
    store.reserving = new Gate()
    b.write(1)
    b.soon()
    b.write(2)
    const woken = committer.idle()
    act(b)
    await woken
    await until(() => b.ended.length === 2, 'both ends')
    for (const end of b.ended) t.match(end, /^(1: broken|[12]: BUS_FAILED)$/)
    t.same([reasons, committer.lifecycle.failure], [['broken'], 'broken'])
    t.equal(committer.queued.transactions, 0)
    t.throws(() => committer.settle(), { code: 'BUS_FAILED' })
    await t.rejects(
      committer.hold(async () => t.fail('no work')),
      { code: 'BUS_FAILED' },
    )
    t.equal(committer.epoch, 1)
    t.equal(b.events.length, 0)
  })
}

t.test('a synchronous read publishes an epoch whose append still runs', async (t) => {
  const b = await bench(t)
  const { committer, store } = b
  committer.settle()
  t.same(store.calls, [], 'there is nothing to do')
  b.write(1)
  committer.settle()
  t.equal(committer.epoch, 1, 'it has not started')
  b.soon()
  b.write(2)
  committer.settle()
  t.same(store.calls, ['reserve true', 'append 2', 'complete'])
  t.same([committer.epoch, b.value(), b.events.length], [2, 1, 1])
  await turn()
  t.same(b.ended, ['1: 2'])
  b.soon()
  await turn()
  t.equal(store.appends.length, 1, 'the next append waits for the one before')
  t.equal(committer.staged?.epoch, 3)
  committer.settle()
  t.equal(committer.epoch, 2, 'what is not in the log is not published')
  store.appends[0]!.open()
  await until(() => store.appends.length === 2, 'the next append')
  t.equal(store.appends[1]!.epoch, 3)
  store.appends[1]!.open()
  await until(() => b.ended.length === 2, 'the answer')
  t.same([b.ended, b.events.length], [['1: 2', '2: 3'], 2])
})

t.test('a synchronous read that cannot complete the log stops the bus', async (t) => {
  const b = await bench(t)
  b.write(1)
  b.soon()
  b.store.syncError = new Error('lost')
  t.throws(() => b.committer.settle(), { code: 'BUS_FAILED' })
  t.equal(b.committer.lifecycle.failure, 'lost')
  await turn()
  t.same(b.ended, ['1: BUS_FAILED'])
})

t.test('a hold has the state to itself; what is queued meanwhile comes after it', async (t) => {
  const b = await bench(t)
  const { committer, store } = b
  const order: string[] = []
  b.write(1)
  b.soon()
  const hold = new Gate()
  const held = committer.hold(async () => {
    order.push('held')
    await hold.promise
    return 'done'
  })
  const second = committer.hold(async () => order.push('second'))
  await turn()
  t.same(order, [], 'it waits for the epoch in flight')
  committer.between(() => order.push('between'))
  store.appends[0]!.open()
  await until(() => order.includes('held'), 'the hold')
  t.same(order, ['between', 'held'])
  b.write(2)
  t.equal(b.soonCount, 0, 'no epoch starts')
  hold.open()
  t.equal(await held, 'done')
  await second
  t.same(order, ['between', 'held', 'second'])
  b.soon()
  t.match(store.appends[1], { epoch: 3 }, 'it starts after them')
  store.appends[1]!.open()
  await until(() => b.ended.length === 2, 'the answers')
  committer.between(() => order.push('now'))
  t.equal(order.at(-1), 'now', 'at once when nothing is in flight')
  await committer.idle()
  await committer.quiet()
})

t.test('what was taken is finished before the log is closed', async (t) => {
  const b = await bench(t)
  const { committer, store } = b
  b.write(1)
  b.soon()
  b.write(2)
  const closed = committer.close(async () => {
    store.calls.push('before the end')
    t.same(b.ended, ['1: 2', '2: 3'])
    await turn()
    store.calls.push('end')
  })
  t.notOk(committer.lifecycle.isWritable)
  t.throws(() => committer.lifecycle.refuseWrites(), { code: 'BUS_FAILED' })
  store.appends[0]!.open()
  await until(() => b.ended.length === 1, 'the first answer')
  b.ticksMs += 1_000
  b.soon()
  t.notOk(store.calls.includes('close'))
  store.appends[1]!.open()
  await closed
  t.same(store.calls.slice(-3), ['before the end', 'end', 'close'])
  t.equal(committer.lifecycle.failure, 'the bus is closed')
  t.equal(committer.epoch, 3)
})

t.test('the log is closed after an append that a synchronous read did not wait for', async (t) => {
  const b = await bench(t)
  b.write(1)
  b.soon()
  b.committer.settle()
  let isClosed = false
  const closed = b.committer.close().then(() => {
    isClosed = true
  })
  await turn()
  t.notOk(isClosed)
  t.notOk(b.store.calls.includes('close'))
  b.store.appends[0]!.open()
  await closed
  t.equal(b.store.calls.at(-1), 'close')
})

t.test('in a hurry, what is queued is refused', async (t) => {
  const b = await bench(t)
  b.write(1)
  b.soon()
  b.write(2)
  b.committer.hurry()
  await turn()
  t.same(b.ended, ['2: BUS_FAILED'])
  b.store.appends[0]!.open()
  await b.committer.close()
  t.same(b.ended, ['2: BUS_FAILED', '1: 2'], 'what the log has is finished')
})

t.test('an execution on another thread', async (t) => {
  for (const isDurable of [true, false]) {
    const b = await bench(t, { isDurable })
    const { committer, store } = b
    b.onThread = true
    let looked = 0
    committer.observe({ absorb: () => looked++, saveWhole() {} })
    const first = b.write(1)
    b.soon()
    t.same([committer.isQuiet, committer.isExecutionOpen], [false, true])
    t.notOk(committer.cancelCommit(), 'it is too short to be cancelled')
    const quiet = committer.quiet().then(() => committer.epoch)
    store.appends[0]?.open()
    await first
    t.equal(await quiet, 2)
    t.same([committer.isQuiet, committer.isExecutionOpen], [true, false])
    b.write(2)
    b.soon()
    committer.settle()
    t.same([committer.epoch, b.value('twice')], [3, 4], 'a synchronous read waits for it')
    t.ok(committer.isQuiet)
    t.equal(looked, 2, 'what each has overwritten is looked at before the next')
    store.appends[1]?.open()
    await until(() => b.executionsEnded === 2, 'the end of the execution')
    await turn()
    t.equal(looked, 2, 'once')
    const last = b.write(3)
    b.soon()
    await until(() => (isDurable ? store.appends.length === 3 : true), 'the append')
    store.appends[2]?.open()
    await last
    t.same(b.ended, ['1: 2', '2: 3', '3: 4'])
    t.equal(b.events.length, 3)
  }
})

/** Computing `slow` takes long enough to be cancelled, and is estimated to. */
const SLOW = {
  ...PAGES,
  m: { dtype: 'f64', shape: [90, 90], fill: 1 },
  slow: { derive: { op: 'conv', inputs: { x: 'm', kernel: 'm' }, boundary: 'wrap' } },
} as const

t.test('a commit that is cancelled becomes void, and the next one follows', async (t) => {
  for (const isDurable of [true, false]) {
    const b = new Bench(await stateWith(t, SLOW), { isDurable, limits: { maxCommitTimeMs: 60_000 } })
    const { committer, store, state } = b
    const { id, step } = state.registry.require('slow')
    state.graph.setStep(id, step!, 1e9)
    const digest = committer.digest
    b.onThread = true
    const page = state.registry.require('m')
    const answer = committer.commit(pendingOfDelta(page, { offset: 0, values: [2] }, { key: 'k' }))
    b.soon()
    b.write(7)
    const published: number[] = []
    committer.onPublished = () => published.push(committer.epoch)
    t.ok(committer.cancelCommit())
    t.notOk(committer.cancelCommit(), 'once')
    if (isDurable) {
      await until(() => b.executionsEnded === 1, 'the end of the execution')
      await turn()
      t.same(store.calls, ['reserve true', 'append 2'], 'the record is not there yet that becomes void')
      store.appends[0]!.open()
    }
    await t.rejects(answer, { code: 'COST_EXCEEDED' })
    t.same(state.context.stateDigest(), digest, 'everything is as before')
    t.same(committer.digest, digest)
    t.equal(page.version, 1)
    t.equal(committer.firstUse('k'), undefined, 'its key is free')
    t.equal(committer.epoch, isDurable ? 2 : 1)
    t.same(b.events, isDurable ? [{ epoch: 2, timestampMs: 1_000, changes: [] }] : [])
    if (isDurable) t.same(store.calls, ['reserve true', 'append 2', 'void 2'])
    t.same(published, isDurable ? [2] : [], 'checkpoints count an epoch that the log keeps')
    b.soon()
    await until(() => !isDurable || store.appends.length === 2, 'the next append')
    store.appends[1]?.open()
    await until(() => b.ended.length === 1, 'the next answer')
    t.same(b.ended, [`7: ${isDurable ? 3 : 2}`])
    t.equal(b.value('twice'), 14)
  }
})

t.test('a key is taken from its queueing on, and known after its epoch', async (t) => {
  const b = await bench(t)
  const { committer } = b
  const first = b.write(1, { key: 'k' })
  const use = committer.firstUse('k')
  t.equal(use?.answer, undefined)
  b.soon()
  b.store.appends[0]!.open()
  await first
  t.same(await use!.result, { epoch: 2, pages: { x: 2 } })
  t.match(committer.firstUse('k'), { answer: { epoch: 2 }, fingerprint: use!.fingerprint })
  t.equal(committer.firstUse('other'), undefined)
  t.equal(committer.firstUse(undefined), undefined)
  const refused = b.write(2, { key: 'l', expectVersion: 1 })
  b.soon()
  await t.rejects(refused, { code: 'PRECONDITION_FAILED' })
  await turn()
  t.equal(committer.firstUse('l'), undefined, 'a refusal leaves it free')
  t.equal(b.soonCount, 0)
  t.same(
    committer.answers.map(([key]) => key),
    ['k'],
  )
  const other = new Committer(b.state, new LimitGuard(), () => {})
  other.startFrom({ epoch: 9, digest: Uint8Array.of(1), timestampMs: 7, answers: committer.answers })
  t.match(other.firstUse('k'), { answer: { epoch: 2 }, fingerprint: use!.fingerprint })
  t.same([other.epoch, other.digest, other.timestampMs], [9, Uint8Array.of(1), 7])
})

t.test('a queue without room refuses, and waiters are woken when all of a batch is refused', async (t) => {
  const b = await bench(t)
  t.throws(
    () => {
      for (let i = 0; i < 70_000; i++)
        b.committer.commit(b.pending('x', i, { expectVersion: 77 })).catch(() => {})
    },
    { code: 'OVERLOADED' },
  )
  t.notOk(b.committer.hasRoom(1))
  const woken = b.committer.close()
  b.soon()
  t.ok(b.committer.hasRoom(1), 'it comes down')
  await woken
  t.equal(b.store.calls.at(-1), 'close')
})
