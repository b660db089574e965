/** Queues, conflation, rates and progress, with a clock and readers that the test controls. */
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import {
  CHANGED_RANGES_MAX,
  STREAM_CHANGE_MAX_BYTES,
  STREAM_LINGER_MS,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_SNAPSHOT_MAX_BYTES,
} from '../../src/limits.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../../src/wire/limits.js'
import { create, remove, set, setup } from './fakes.js'
import { Mirror } from './helpers.js'

t.test('a lossless reader that stalls is ended with the epoch to resume from', async (t) => {
  const { bus, clock, connect, hub } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'] })
  bus.commit(set('a', [0, 1]))
  sink.queuedBytes = STREAM_QUEUE_MAX_BYTES - 1
  sink.isCongested = true
  bus.commit(set('a', [0, 2]))
  sink.queuedBytes = STREAM_QUEUE_MAX_BYTES
  bus.commit(set('b', [0, 3]))
  bus.commit(set('a', [0, 4]))
  bus.commit(set('a', [0, 5]))
  t.same(sink.types, ['subscribed', 'change', 'change', 'overflow'])
  t.same(sink.got.at(-1), { type: 'overflow', id: 's', resumeFrom: 4 }, 'all up to 4 was delivered')
  t.match(hub.stats(), { subscriptions: 0, topics: 0, overflows: 1 })
  clock.advance(STREAM_LINGER_MS + STREAM_PROGRESS_INTERVAL_MS)
  t.equal(bus.listeners.size, 0, 'and after a while costs nothing any more')
  sink.queuedBytes = 0
  connection.subscribe('s', { pages: ['a'] })
  t.equal(sink.types.at(-1), 'subscribed')
})

t.test('what the disk still writes is made ready, and told only when it is durable', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'] })
  bus.execute(set('a', [0, 1], [5, 2]))
  t.same(sink.types, ['subscribed'], 'nothing is told yet')
  t.equal(sink.prepared.length, 1)
  const { gathers } = bus
  bus.commit()
  t.same(sink.got.at(-1)?.changes?.[0]?.values, [1, 2])
  t.equal(sink.raw.at(-1), sink.prepared[0], 'the message that was made ready')
  t.equal(bus.gathers, gathers, 'nothing was gathered again')

  bus.execute(set('a', [1, 3]))
  const late = connect()
  late.connection.subscribe('l', { pages: ['a'], data: 'ranges' })
  bus.commit()
  t.same(sink.got.at(-1)?.changes?.[0]?.values, [3])
  t.same(late.sink.got.at(-1)?.changes?.[0]?.ranges, [[1, 1]], 'who came meanwhile is told too')

  bus.execute(set('a', [2, 4]))
  bus.execute(set('a', [2, 5]))
  bus.commit()
  t.same(sink.got.at(-1)?.changes?.[0]?.values, [5], 'an epoch that was executed anew')
  bus.execute(create('c', 1), set('a', [0, 9]))
  bus.commit()
  t.same(sink.got.at(-1)?.changes?.[0]?.values, [9])
  t.same(
    sink.got.filter(({ type }) => type === 'change').map(({ epoch }) => epoch),
    [2, 3, 4, 5],
  )
})

t.test('a reader with policy latest gets the epochs it missed as one', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['*'], policy: 'latest' })
  bus.commit(set('a', [0, 1]))
  sink.isCongested = true
  bus.commit(set('a', [0, 2], [3, 2]))
  bus.commit(set('b', [7, 3]))
  bus.commit(set('a', [1, 4], [0, 4]))
  bus.commit(create('c', 2))
  bus.commit(set('c', [1, 6]))
  t.equal(sink.got.length, 2)
  sink.isCongested = false
  connection.drained()
  t.same(sink.got.at(-1), {
    type: 'change',
    id: 's',
    first: 3,
    epoch: 7,
    changes: [
      {
        page: 'a',
        kind: 'source',
        ranges: [
          [0, 2],
          [3, 1],
        ],
        values: [4, 4, 2],
      },
      { page: 'b', kind: 'source', ranges: [[7, 1]], values: [3] },
      { page: 'c', kind: 'created', dtype: 'u32', shape: [2], ranges: [[0, 2]], values: [0, 6] },
    ],
  })
  bus.commit(set('a', [0, 7]))
  t.match(sink.got.at(-1), { first: 8, epoch: 8 })
  connection.drained()
  t.equal(sink.got.length, 4, 'nothing is left')
})

t.test('pages that come and go while a reader lags', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['*'], policy: 'latest' })
  sink.isCongested = true
  bus.commit(create('brief', 1))
  bus.commit(remove('brief'))
  sink.isCongested = false
  connection.drained()
  t.same(sink.types, ['subscribed'], 'a page that came and went leaves nothing')
  sink.isCongested = true
  bus.commit(set('a', [0, 1]))
  bus.commit(remove('a'))
  bus.commit(create('a', 2))
  sink.isCongested = false
  connection.drained()
  t.match(
    sink.got.at(-1)?.changes?.map(({ page, kind }) => [page, kind]),
    [
      ['a', 'deleted'],
      ['a', 'created'],
    ],
  )
})

t.test('what was deleted and created in one epoch under one name is told in that order', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'] })
  const gone = bus.delete('a')
  bus.commit(create('a', 1), () => gone)
  t.same(
    sink.got.at(-1)?.changes?.map(({ kind }) => kind),
    ['deleted', 'created'],
  )
})

t.test('a maximum rate folds what comes too soon and sends it on time', async (t) => {
  const { bus, clock, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'], maxRate: 10 })
  for (let i = 1; i <= 10; i++) {
    bus.commit(set('a', [0, i]))
    clock.advance(30)
  }
  clock.advance(200)
  const changes = sink.got.filter(({ type }) => type === 'change')
  t.same(
    changes.map(({ first, epoch }) => [first, epoch]),
    [
      [2, 2],
      [3, 5],
      [6, 8],
      [9, 11],
    ],
  )
  t.same(
    changes.map((c) => c.changes?.[0]?.values),
    [[1], [4], [7], [10]],
  )
})

t.test('folded changes are read between epochs only', async (t) => {
  const { bus, clock, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'], maxRate: 10 })
  bus.commit(set('a', [0, 1]))
  bus.commit(set('a', [0, 2]))
  bus.begin()
  clock.advance(1000)
  t.same(sink.types.filter((type) => type === 'change').length, 1, 'waits for the epoch in flight')
  bus.commit(set('a', [1, 3]))
  t.match(sink.got.at(-1), { first: 3, epoch: 4, changes: [{ values: [2, 3] }] })
})

t.test('a snapshot waits for the epoch in flight and for room in the queue', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  bus.begin()
  connection.subscribe('s', { pages: ['a'], from: 'snapshot' })
  t.same(sink.types, [])
  bus.commit(set('a', [0, 5]))
  t.same(sink.types, ['subscribed', 'snapshot'])
  t.match(sink.got[1], { epoch: 2, pages: { a: { version: 2, values: [5, 0, 0, 0, 0, 0, 0, 0] } } })
  sink.isCongested = true
  connection.subscribe('s2', { pages: ['a'], from: 'snapshot' })
  bus.commit(set('a', [0, 6]))
  t.same(
    sink.got.filter(({ id }) => id === 's2'),
    [],
  )
  sink.isCongested = false
  connection.drained()
  t.same(
    sink.got.filter(({ id }) => id === 's2').map(({ type, epoch }) => [type, epoch]),
    [
      ['subscribed', 3],
      ['snapshot', 3],
    ],
  )
  sink.isCongested = true
  connection.subscribe('s3', { pages: ['a'], from: 'snapshot' })
  t.ok(connection.unsubscribe('s3'), 'one that waits can be ended')
  sink.isCongested = false
  connection.drained()
  t.same(
    sink.got.filter(({ id }) => id === 's3').map(({ type }) => type),
    ['unsubscribed'],
  )
})

t.test('a snapshot in the queue does not count against the changes that follow', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    if (message.type === 'snapshot') sink.queuedBytes = 2 * STREAM_QUEUE_MAX_BYTES
    send(id, message)
  }
  connection.subscribe('s', { pages: ['a'], from: 'snapshot' })
  bus.commit(set('a', [0, 1]))
  t.equal(sink.types.at(-1), 'change')
  sink.queuedBytes = 3 * STREAM_QUEUE_MAX_BYTES
  bus.commit(set('a', [0, 2]))
  t.equal(sink.types.at(-1), 'overflow', 'the bound holds beyond the snapshot')
})

t.test('what is too large to send ends the subscription with an error, not the server', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['big'] })
  connection.subscribe('names', { pages: ['big'], data: 'ranges' })
  bus.commit(create('big', STREAM_CHANGE_MAX_BYTES / 4 + 1))
  t.match(
    sink.got.find(({ type }) => type === 'error'),
    { id: 's', code: 'PAYLOAD_TOO_LARGE' },
  )
  t.match(sink.got.at(-1), { type: 'change', id: 'names' })
  connection.subscribe('s', { pages: ['big'], from: 'snapshot' })
  t.match(
    sink.got.at(-1),
    { type: 'error', id: 's', code: 'PAYLOAD_TOO_LARGE' },
    String(STREAM_SNAPSHOT_MAX_BYTES),
  )
})

t.test('progress, at least every so often while nothing happens', async (t) => {
  const { bus, clock, connect, hub } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'] })
  const started = clock.nowMs()
  for (let i = 0; i < 12; i++) {
    bus.commit(set('b', [0, i]))
    clock.advance(STREAM_PROGRESS_INTERVAL_MS / 4)
  }
  const progress = sink.got.filter(({ type }) => type === 'progress')
  t.ok(progress.length >= (clock.nowMs() - started) / STREAM_PROGRESS_INTERVAL_MS)
  t.match(progress.at(-1), { id: 's', epoch: Number })
  t.ok(progress.at(-1)!.epoch! >= bus.epoch - 3)
  sink.isCongested = true
  const before = sink.got.length
  clock.advance(60_000)
  t.equal(sink.got.length, before, 'a full queue gets none')
  connection.close()
  clock.advance(STREAM_LINGER_MS + STREAM_PROGRESS_INTERVAL_MS)
  t.same([clock.timerCount, hub.stats().connections, sink.isClosed], [0, 0, true])
})

t.test('one encoding for all who asked for the same, gathered once', async (t) => {
  const { bus, hub, connect } = setup()
  const readers = Array.from({ length: 50 }, connect)
  for (const [i, { connection }] of readers.entries()) {
    connection.subscribe(`s${i % 2}`, { pages: i % 3 === 0 ? ['a', 'b'] : ['b', 'a'] })
  }
  connect().connection.subscribe('other', { pages: ['a'] })
  t.equal(hub.stats().topics, 2)
  bus.commit(set('a', [0, 1]), set('b', [0, 1]))
  t.equal(new Set(readers.map(({ sink }) => sink.raw.at(-1))).size, 1, 'one message')
  t.equal(bus.gathers, 2, 'one gather a page')
  const [message] = readers[0]!.sink.raw.slice(-1) as { encoded<T>(key: string, make: () => T): T }[]
  let made = 0
  for (let i = 0; i < 5; i++) message!.encoded('x', () => ++made)
  t.equal(made, 1)
})

t.test('a bus that fails tells its subscribers', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'] })
  bus.fail('the disk is gone')
  t.match(sink.got.at(-1), { type: 'error', id: 's', code: 'BUS_FAILED', detail: /the disk is gone/ })
  connection.subscribe('s', { pages: ['a'], from: 'snapshot' })
  t.match(sink.got.at(-1), { type: 'error', id: 's', code: 'BUS_FAILED' })
})

t.test('a sink that throws ends its own subscription alone', async (t) => {
  const { bus, connect } = setup()
  const [bad, good] = [connect(), connect()]
  bad.connection.subscribe('s', { pages: ['a'] })
  good.connection.subscribe('s', { pages: ['a'] })
  const send = bad.sink.send.bind(bad.sink)
  bad.sink.send = (id, message) => {
    if (message.type === 'change') throw new MmsbError('INTERNAL', 'no')
    send(id, message)
  }
  bus.commit(set('a', [0, 1]))
  t.match(bad.sink.got.at(-1), { type: 'error', code: 'INTERNAL' })
  t.equal(good.sink.types.at(-1), 'change')
})

t.test('a view that came later, or came back, gets its pages and no others', async (t) => {
  const { bus, clock, connect } = setup()
  const first = connect()
  first.connection.subscribe('s', { pages: ['a'] })
  bus.commit(set('a', [0, 1]), set('b', [0, 1]))
  const [later, other] = [connect(), connect()]
  later.connection.subscribe('s', { pages: ['b'] })
  other.connection.subscribe('s', { pages: ['a*'] })
  bus.commit(set('a', [0, 2]))
  t.same([later.sink.types.length, other.sink.types.length], [1, 2])
  bus.commit(set('b', [0, 2]))
  t.same([later.sink.types.length, other.sink.types.length], [2, 2])
  for (const { connection } of [first, later]) connection.unsubscribe('s')
  clock.advance(STREAM_LINGER_MS / 2)
  later.connection.subscribe('s', { pages: ['b'] })
  clock.advance(2 * STREAM_LINGER_MS)
  const { gathers } = bus
  bus.commit(set('a', [0, 3]), set('b', [0, 3]))
  t.match(later.sink.got.at(-1), { type: 'change', changes: [{ values: [3] }] }, 'it is not idle any more')
  t.equal(bus.gathers - gathers, 2, 'of each page once')
  other.connection.unsubscribe('s')
  clock.advance(2 * STREAM_LINGER_MS)
  bus.commit(set('a', [0, 4]))
  t.equal(bus.gathers - gathers, 2, 'nobody wants it any more')
})

t.test('a view stays while one of its subscribers does', async (t) => {
  const { bus, clock, hub, connect } = setup()
  const readers = [connect(), connect()]
  for (const { connection } of readers) connection.subscribe('s', { pages: ['a'] })
  readers[0]!.connection.close()
  t.equal(hub.stats().topics, 1)
  clock.advance(2 * STREAM_LINGER_MS)
  bus.commit(set('a', [0, 1]))
  t.equal(readers[1]!.sink.types.at(-1), 'change')
})

t.test('a view without subscribers lingers for a while, to the end of it', async (t) => {
  const { bus, clock, connect } = setup()
  const { connection } = connect()
  connection.subscribe('s', { pages: ['a'] })
  clock.advance(STREAM_PROGRESS_INTERVAL_MS / 8)
  connection.unsubscribe('s')
  clock.advance(STREAM_LINGER_MS)
  t.equal(bus.listeners.size, 1)
  clock.advance(STREAM_PROGRESS_INTERVAL_MS / 4)
  t.equal(bus.listeners.size, 0)
})

t.test('a closed connection is not asked for anything; a closed hub has none', async (t) => {
  const { bus, clock, hub, connect } = setup()
  const [gone, one, other] = [connect(), connect(), connect()]
  for (const { connection } of [gone, one, other]) connection.subscribe('s', { pages: ['a'] })
  let asked = 0
  gone.connection.progress = () => asked++
  gone.connection.close()
  clock.advance(STREAM_PROGRESS_INTERVAL_MS)
  t.same([asked, hub.stats().connections, one.sink.types.at(-1)], [0, 2, 'progress'])
  hub.close()
  t.same(
    [one, other].map(({ sink, connection }) => [sink.isClosed, connection.isClosed]),
    [
      [true, true],
      [true, true],
    ],
  )
  t.same([bus.listeners.size, clock.timerCount, hub.stats().recentBytes], [0, 0, 0])
})

t.test('snapshots that views keep, in bytes, until the next change or tick', async (t) => {
  const { bus, clock, hub, connect } = setup()
  const { connection } = connect()
  const keep = (): void => {
    for (const page of ['a', 'b']) {
      connection.subscribe(page, { pages: [page], from: 'snapshot' })
      connection.unsubscribe(page)
    }
  }
  keep()
  t.equal(hub.keptSnapshotBytes, 64)
  bus.commit(set('a', [0, 1]))
  t.equal(hub.keptSnapshotBytes, 32)
  keep()
  keep()
  t.equal(hub.keptSnapshotBytes, 64)
  clock.advance(STREAM_PROGRESS_INTERVAL_MS / 4)
  t.equal(hub.keptSnapshotBytes, 0)
})

t.test('what was made ready ahead is dropped when a view comes meanwhile', async (t) => {
  const { bus, connect } = setup()
  const [first, later] = [connect(), connect()]
  first.connection.subscribe('s', { pages: ['a'] })
  bus.execute(set('a', [0, 1]))
  t.equal(first.sink.prepared.length, 1)
  later.connection.subscribe('s', { pages: ['a'], data: 'ranges' })
  bus.commit()
  t.same(
    [first, later].map(({ sink }) => sink.types.at(-1)),
    ['change', 'change'],
  )
  bus.execute(create('c', 1))
  t.equal(first.sink.prepared.length, 1, 'pages that come are not made ready')
  bus.commit()
  bus.execute(remove('c'))
  bus.commit()
})

t.test('any history, any reader: the mirror equals the pages', async (t) => {
  let seed = 7
  const random = (below: number): number => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return (seed >> 8) % below
  }
  for (let round = 0; round < 40; round++) {
    const { bus, clock, connect } = setup()
    const readers = [
      { options: { pages: ['*'] }, ...connect() },
      { options: { pages: ['*'], policy: 'latest' as const }, ...connect() },
      { options: { pages: ['*'], maxRate: 20 }, ...connect() },
    ]
    for (const { connection, options } of readers) connection.subscribe('m', { ...options, from: 'snapshot' })
    for (let i = 0; i < 60; i++) {
      const names = bus.pageNames()
      const name = names[random(names.length)]
      const dice = random(10)
      if (dice === 0) bus.commit(create(`p${random(1e6)}`, 1 + random(4)))
      else if (dice === 1 && name !== undefined && names.length > 1) bus.commit(remove(name))
      else if (name !== undefined) bus.commit(set(name, [random(bus.values(name).length), random(1000)]))
      clock.advance(random(40))
      const { sink, connection } = readers[1]!
      if (random(3) === 0) sink.isCongested = !sink.isCongested
      if (!sink.isCongested) connection.drained()
    }
    readers[1]!.sink.isCongested = false
    readers[1]!.connection.drained()
    clock.advance(1000)
    for (const { sink } of readers) {
      const mirror = new Mirror()
      for (const message of sink.got) mirror.apply(message)
      t.same(mirror.faults, [])
      const pages = Object.fromEntries([...mirror.pages].sort())
      t.same(pages, Object.fromEntries(bus.pageNames().map((name) => [name, bus.values(name)])))
    }
  }
})

t.test('folding keeps the number of ranges bounded', async (t) => {
  const { bus, connect } = setup()
  bus.commit(create('wide', 4096))
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['wide'], policy: 'latest' })
  sink.isCongested = true
  for (let i = 0; i < 1024; i++) bus.commit(set('wide', [i * 3, i]))
  sink.isCongested = false
  connection.drained()
  const [change] = sink.got.at(-1)!.changes!
  t.ok(change!.ranges!.length <= CHANGED_RANGES_MAX)
  const covered = new Set(change!.ranges!.flatMap(([o, n]) => Array.from({ length: n }, (_, i) => o + i)))
  t.ok(Array.from({ length: 1024 }, (_, i) => i * 3).every((index) => covered.has(index)))
})
