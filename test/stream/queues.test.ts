/** The budget of all stream queues: shared pieces count once, slow readers are put aside, then cut off. */
import t from 'tap'
import {
  STREAM_FREE_BYTES,
  STREAM_LOOK_INTERVAL_MS,
  STREAM_PRESSED_BYTES_PER_S,
  STREAM_PRESSED_PATIENCE_MS,
  STREAM_SLOWEST_BYTES_PER_S,
} from '../../src/limits.js'
import { LimitGuard } from '../../src/operator-limits.js'
import { StreamQueues } from '../../src/stream/queues.js'
import { create, FakeClock, FakeSink, set, setup } from './fakes.js'

const M = 2 ** 20

class SlowSink extends FakeSink {
  sharedBytes = 0
  takenBytes = 0
  cuts = 0

  cut(): void {
    this.cuts++
  }
}

function queues(streamBudgetBytes = M) {
  const limits = new LimitGuard({ streamBudgetBytes, idleTimeoutMs: 5_000 })
  const clock = new FakeClock()
  const used = (): number | undefined => new Map(limits.uses()).get('streamBudgetBytes')
  return { limits, clock, used, all: new StreamQueues(limits, clock) }
}

t.test('a piece that is queued for several readers counts once, until the last has it', async (t) => {
  const { all, used } = queues()
  const [one, other] = [new SlowSink(), new SlowSink()]
  const piece = new Uint8Array(M)
  const release = all.hold(one, piece)
  all.hold(other, piece)
  t.equal(used(), M)
  t.ok(all.isFull)
  release()
  release()
  t.equal(used(), M, 'the other has it still')
  all.gone(other)
  t.equal(used(), 0, 'it went away with it')
  all.gone(other)
  t.equal(used(), 0)
})

t.test('what is not shared counts as it is queued; little does not count', async (t) => {
  const { all, used } = queues()
  const sink = new SlowSink()
  sink.queuedBytes = STREAM_FREE_BYTES
  all.observe(sink)
  t.equal(used(), 0)
  sink.queuedBytes = 3 * STREAM_FREE_BYTES
  sink.sharedBytes = STREAM_FREE_BYTES
  all.observe(sink)
  t.equal(used(), 2 * STREAM_FREE_BYTES)
  sink.queuedBytes = 0
  sink.sharedBytes = 0
  all.observe(sink)
  t.equal(used(), 0)
})

t.test('what was queued for a connection that closes makes room for those who wait', async (t) => {
  const { all, used, clock } = queues()
  const [sink, other] = [new SlowSink(), new SlowSink()]
  sink.queuedBytes = M
  all.observe(sink)
  other.queuedBytes = 2 * STREAM_FREE_BYTES
  all.observe(other)
  const piece = new Uint8Array(M)
  all.hold(sink, piece)
  const release = all.hold(other, piece)
  t.equal(used(), 2 * M + 2 * STREAM_FREE_BYTES)
  let ran = 0
  all.whenRoom(() => ran++)
  all.gone(sink)
  t.equal(used(), M + 2 * STREAM_FREE_BYTES, 'the other holds the piece still')
  clock.advance(1)
  t.equal(ran, 0)
  release()
  t.equal(used(), 2 * STREAM_FREE_BYTES)
  clock.advance(1)
  t.equal(ran, 1)
  all.gone(other)
  t.equal(used(), 0)
})

t.test('those who wait for room go on one after another', async (t) => {
  const { all, clock } = queues()
  const sink = new SlowSink()
  const release = all.hold(sink, new Uint8Array(M))
  const ran: string[] = []
  let again = (): void => {}
  all.whenRoom(() => {
    ran.push('first')
    again = all.hold(sink, new Uint8Array(M))
  })
  all.whenRoom(() => ran.push('second'))
  clock.advance(10)
  t.same(ran, [])
  release()
  clock.advance(10)
  t.same(ran, ['first'], 'it took the room again')
  again()
  clock.advance(10)
  t.same(ran, ['first', 'second'])
})

t.test('a reader that takes nothing is cut off, sooner while the budget is used up', async (t) => {
  const { all, clock, limits } = queues()
  const stalled = new SlowSink()
  const slow = new SlowSink()
  for (const sink of [stalled, slow]) {
    sink.queuedBytes = M / 4
    all.observe(sink)
  }
  // 5 s, and 2 s for a quarter of a MiB at the slowest rate.
  for (let s = 0; s < 7; s++) {
    slow.takenBytes++
    clock.advance(1_000)
  }
  t.equal(stalled.cuts, 0)
  slow.takenBytes++
  clock.advance(1_000 + STREAM_LOOK_INTERVAL_MS)
  t.equal(stalled.cuts > 0, true)
  t.equal(slow.cuts, 0, 'one that takes a little is not')
  t.ok((new Map(limits.refusals()).get('idleTimeoutMs') as number) > 0)
  all.gone(stalled)
  slow.queuedBytes = 0
  clock.advance(3 * STREAM_LOOK_INTERVAL_MS)
  t.equal(clock.timerCount, 0, 'nobody is looked at any more')
})

t.test(
  'how long a reader may take nothing: by what is queued, and less while the budget is used up',
  async (t) => {
    const cutAfterMs = (queuedBytes: number, isPressed: boolean): number => {
      const limits = new LimitGuard({ streamBudgetBytes: 64 * M, idleTimeoutMs: 60_000 })
      const clock = new FakeClock()
      const all = new StreamQueues(limits, clock)
      const sink = new SlowSink()
      sink.queuedBytes = queuedBytes
      all.observe(sink)
      if (isPressed) all.hold(new SlowSink(), new Uint8Array(64 * M))
      let ms = 0
      for (; sink.cuts === 0 && ms < 1_000_000; ms += 100) clock.advance(100)
      return ms
    }
    const bytes = 8 * M
    for (const [isPressed, patienceMs] of [
      [false, 60_000 + (bytes / STREAM_SLOWEST_BYTES_PER_S) * 1e3],
      [true, STREAM_PRESSED_PATIENCE_MS + (bytes / STREAM_PRESSED_BYTES_PER_S) * 1e3],
    ] as const) {
      const ms = cutAfterMs(bytes, isPressed)
      t.ok(ms > patienceMs && ms <= patienceMs + 2 * STREAM_LOOK_INTERVAL_MS, `${ms} ms for ${patienceMs} ms`)
    }
  },
)

t.test('a full budget ends lossless readers of large changes, folds others, keeps small ones', async (t) => {
  const { bus, hub, clock, connect } = setup({ streamBudgetBytes: M })
  bus.commit(create('big', M / 4))
  const hog = new SlowSink()
  const release = hub.queues.hold(hog, new Uint8Array(M))
  const [lossless, latest, small] = [connect(), connect(), connect()]
  lossless.connection.subscribe('s', { pages: ['big'] })
  latest.connection.subscribe('s', { pages: ['big'], policy: 'latest' })
  small.connection.subscribe('s', { pages: ['a'] })
  const { epoch } = bus
  const all = Array.from({ length: STREAM_FREE_BYTES / 4 + 1 }, (_, i): [number, number] => [i, 1])
  bus.commit(set('big', ...all), set('a', [0, 1]))
  t.same(lossless.sink.types, ['subscribed', 'overflow'])
  t.match(lossless.sink.got.at(-1), { resumeFrom: epoch })
  t.same(latest.sink.types, ['subscribed'])
  t.same(small.sink.types, ['subscribed', 'change'], 'a reader that keeps up does not meet it')
  t.ok((new Map(bus.limits.refusals()).get('streamBudgetBytes') as number) >= 2)
  release()
  clock.advance(10)
  t.same(latest.sink.types, ['subscribed', 'change'], 'the folded change comes when there is room')
})

t.test('snapshots and readers that catch up wait for room', async (t) => {
  const { bus, hub, clock, connect } = setup({ streamBudgetBytes: M })
  bus.commit(set('a', [0, 1]))
  const watcher = connect()
  watcher.connection.subscribe('w', { pages: ['a'] })
  bus.commit(set('a', [0, 2]))
  const release = hub.queues.hold(new SlowSink(), new Uint8Array(M))
  const [fresh, late] = [connect(), connect()]
  fresh.connection.subscribe('s', { pages: ['a'], from: 'snapshot' })
  late.connection.subscribe('s', { pages: ['a'], from: bus.epoch - 1 })
  clock.advance(3_000)
  t.same(fresh.sink.types, [])
  t.notOk(late.sink.types.includes('change'))
  release()
  clock.advance(100)
  t.same(fresh.sink.types.slice(0, 2), ['subscribed', 'snapshot'])
  t.ok(late.sink.types.includes('change'))
})

t.test('large snapshots are gathered one after another', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', (8 * M) / 4))
  const readers = [0, 1, 2].map(() => connect())
  for (const [i, { connection }] of readers.entries())
    connection.subscribe('s', { pages: ['big', `other${i}`], from: 'snapshot' })
  const begun = (): number[] => readers.map(({ sink }) => sink.types.length)
  const seen = new Set([begun().join()])
  while (clock.step()) seen.add(begun().join())
  t.same([...seen], ['0,0,0', '2,0,0', '2,2,0', '2,2,2'])
  for (const { sink } of readers) t.same(sink.types, ['subscribed', 'snapshot'])
})

t.test('snapshots that are kept to be shared are bounded', async (t) => {
  const { bus, hub, clock, connect } = setup()
  const elements = (8 * M) / 4
  bus.commit(create('big', elements))
  for (let i = 0; i < 12; i++) {
    const { sink, connection } = connect()
    connection.subscribe('s', { pages: ['big', `other${i}`], from: 'snapshot', data: 'values' })
    clock.advance(1)
    t.equal(sink.types.at(-1), 'snapshot')
    sink.got.length = 0
    sink.raw.length = 0
  }
  t.ok(hub.keptSnapshotBytes <= 64 * M, `${hub.keptSnapshotBytes} bytes`)
  t.ok(hub.keptSnapshotBytes >= 32 * M)
})

t.test('who is behind is known: by epochs, and by what waits in the queue', async (t) => {
  const { bus, connect, hub } = setup()
  const quick = connect()
  quick.connection.subscribe('quick', { pages: ['a'] })
  const lossless = connect()
  lossless.connection.subscribe('queued', { pages: ['a', 'b*', 'c', 'd'] })
  const folding = connect()
  folding.connection.subscribe('folding', { pages: ['a'], policy: 'latest' })
  t.same(hub.farthestBehind(9), [])
  folding.sink.isCongested = true
  for (let i = 1; i <= 3; i++) bus.commit(set('a', [0, i]))
  lossless.sink.queuedBytes = 700
  t.same(hub.farthestBehind(9), [
    { id: 'folding', pages: ['a'], lag: 3, queuedBytes: 0 },
    { id: 'queued', pages: ['a', 'b*', 'c'], lag: 0, queuedBytes: 700 },
  ])
  t.same(
    hub.farthestBehind(1).map(({ id }) => id),
    ['folding'],
  )
  folding.sink.isCongested = false
  folding.connection.drained()
  lossless.connection.close()
  t.same(hub.farthestBehind(9), [])
})
