/**
 * The guarantees of a watch where they are easiest to break: at the switch from the past to the present, in
 * the middle of a commit, and where a reader stops and goes on. Bus, clock and readers move step by step;
 * test/stream/guarantees.test.ts has the same guarantees under load.
 */
import t from 'tap'
import {
  STREAM_CATCH_UP_QUEUE_BYTES,
  STREAM_FREE_BYTES,
  STREAM_LINGER_MS,
  STREAM_QUEUE_MAX_BYTES,
} from '../../../src/limits.js'
import type { ChangeMessage, StreamMessage } from '../../../src/stream/messages.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../../../src/wire/limits.js'
import { answered, create, FakeSink, remove, set, setup } from '../fakes.js'
import { Mirror } from '../helpers.js'

type World = ReturnType<typeof setup>
type Reader = ReturnType<World['connect']>

const changesOf = ({ got }: FakeSink) => got.filter(({ type }) => type === 'change')
const epochsOf = (sink: FakeSink) => changesOf(sink).map(({ epoch }) => epoch)
const upTo = (first: number, last: number): number[] =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i)

/** Epochs that change page `a`, each to its own number. */
function write({ bus }: World, count: number): void {
  for (let i = 0; i < count; i++) bus.commit(set('a', [0, bus.epoch + 1]))
}

/** A reader that goes on after this epoch. */
function resumed(world: World, from: number, queuedBytes = 0) {
  const reader = world.connect()
  reader.sink.queuedBytes = queuedBytes
  reader.connection.subscribe('s', { pages: ['a'], from })
  return reader
}

function drain({ sink, connection }: Reader): void {
  sink.queuedBytes = 0
  sink.isCongested = false
  connection.drained()
}

/** Epochs are kept in memory from now on. */
const watched = (world: World): void => world.connect().connection.subscribe('w', { pages: ['*'] })

t.test('ordered: what is committed while a reader catches up comes after what it missed', async (t) => {
  for (const place of ['memory', 'log'] as const) {
    const world = setup()
    const { bus } = world
    if (place === 'memory') watched(world)
    write(world, 5)
    const reader = resumed(world, 1, place === 'memory' ? STREAM_CATCH_UP_QUEUE_BYTES : 0)
    write(world, 2)
    t.same(epochsOf(reader.sink), [], `${place}: nothing before what was missed`)
    await answered(world.clock)
    drain(reader)
    await answered(world.clock)
    write(world, 1)
    t.same(epochsOf(reader.sink), upTo(2, bus.epoch), place)
    t.same(
      changesOf(reader.sink).map(({ changes }) => changes?.[0]?.values),
      upTo(2, bus.epoch).map((epoch) => [epoch]),
      `${place}: each as it was published`,
    )
  }
})

t.test('unique: who begins in the middle of a commit does not get its epoch twice', async (t) => {
  for (const [from, wanted] of [
    ['now', []],
    ['snapshot', []],
    [2, [3]],
    [1, [2, 3]],
  ] as const) {
    const world = setup()
    const { bus, connect } = world
    const [first, late] = [connect(), connect()]
    const options = { pages: ['a'] }
    first.connection.subscribe('s', options)
    write(world, 1)
    const send = first.sink.send.bind(first.sink)
    first.sink.send = (id, message) => {
      send(id, message)
      // Both have the same view, and the hub is about to offer the epoch to the newcomer too.
      if (bus.epoch === 3) late.connection.subscribe('s', { ...options, from })
    }
    write(world, 1)
    t.same(epochsOf(late.sink), wanted, `from ${from}`)
    t.match(late.sink.got[0], { type: 'subscribed', epoch: typeof from === 'number' ? from : 3 })
    write(world, 1)
    t.same(epochsOf(late.sink), [...wanted, 4], `from ${from}, and the next`)
  }
})

t.test('unique: over connections that are lost at any message, nothing is missing either', async (t) => {
  for (let taken = 1; taken < 6; taken++) {
    const world = setup()
    world.bus.pieceEpochs = 2
    const epochs: unknown[] = []
    let from = 1
    for (let session = 0; session < 8; session++) {
      write(world, 3)
      const { sink, connection } = resumed(world, from)
      await answered(world.clock)
      // What it was sent after these messages is lost with the connection.
      const told = epochsOf(sink).slice(0, taken)
      connection.close()
      epochs.push(...told)
      from = told.at(-1) ?? from
    }
    const { sink } = resumed(world, from)
    await answered(world.clock)
    t.same([...epochs, ...epochsOf(sink)], upTo(2, world.bus.epoch), `${taken} messages a connection`)
  }
})

t.test('reliable: every epoch comes, from memory, from the log, and where both meet', async (t) => {
  const world = setup()
  world.bus.pieceEpochs = 2
  write(world, 5)
  watched(world)
  const inMemory = world.bus.epoch
  write(world, 5)
  for (const from of [inMemory, inMemory + 1, inMemory - 1, 1]) {
    const { asked } = world.bus
    const { sink } = resumed(world, from)
    await answered(world.clock)
    t.same(epochsOf(sink), upTo(from + 1, world.bus.epoch), `from ${from}`)
    t.equal(
      world.bus.asked > asked,
      from < inMemory,
      `the log is read only for what is not in memory: ${from}`,
    )
  }
})

t.test('atomic: an epoch is one message with every page that moved, live and later', async (t) => {
  const world = setup()
  const { bus } = world
  const live = world.connect()
  live.connection.subscribe('s', { pages: ['*'], from: 'snapshot' })
  bus.commit(set('a', [0, 1]), set('b', [1, 2]), create('c', 2))
  bus.commit(set('c', [0, 3]), remove('b'), set('a', [2, 4]))
  const moved = [
    ['a source', 'b source', 'c created'],
    ['b deleted', 'c source', 'a source'],
  ]
  const seen = (sink: FakeSink) =>
    changesOf(sink).map(({ changes = [] }) => changes.map(({ page, kind }) => `${page} ${kind}`))
  t.same(seen(live.sink), moved, 'live')
  const late = world.connect()
  late.connection.subscribe('s', { pages: ['*'], from: 1 })
  t.same(seen(late.sink), moved, 'from memory')
  for (const { connection } of [live, late]) connection.close()
  world.clock.advance(STREAM_LINGER_MS + STREAM_PROGRESS_INTERVAL_MS)
  const last = world.connect()
  last.connection.subscribe('s', { pages: ['*'], from: 1 })
  await answered(world.clock)
  t.same(seen(last.sink), moved, 'from the log')
})

t.test(
  'resumable: whatever ends a subscription says where to go on, and nothing is lost there',
  async (t) => {
    const ends: Record<string, (world: World, reader: Reader) => void> = {
      'a reader that is too slow': (world, { sink }) => {
        write(world, 2)
        sink.queuedBytes = STREAM_QUEUE_MAX_BYTES
        world.bus.commit(set('b', [0, 1]))
        write(world, 2)
      },
      'one that leaves while it keeps up': (world, { connection }) => {
        write(world, 2)
        connection.unsubscribe('s')
      },
      'one that leaves while epochs are folded for it': (world, { sink, connection }) => {
        write(world, 2)
        sink.isCongested = true
        write(world, 3)
        connection.unsubscribe('s')
      },
    }
    for (const [what, end] of Object.entries(ends)) {
      const world = setup()
      watched(world)
      const reader = world.connect()
      reader.connection.subscribe('s', {
        pages: ['a'],
        ...(what.includes('folded') ? { policy: 'latest' as const } : {}),
      })
      end(world, reader)
      const { type, epoch, resumeFrom = epoch } = reader.sink.got.at(-1)!
      t.match(type, /^(overflow|unsubscribed)$/)
      write(world, 1)
      const again = resumed(world, resumeFrom as number)
      const expected = world.bus.history
        .filter(({ changes }) => changes.some(({ page, kind }) => page === 'a' && kind === 'source'))
        .map((past) => past.epoch)
      t.same([...epochsOf(reader.sink), ...epochsOf(again.sink)], expected, what)
    }
  },
)

t.test('resumable: who leaves while it catches up goes on where it was', async (t) => {
  const world = setup()
  watched(world)
  write(world, 6)
  const { sink, connection } = world.connect()
  // It takes three messages, then no more.
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    send(id, message)
    if (epochsOf(sink).length === 3) sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  }
  connection.subscribe('s', { pages: ['a'], from: 1 })
  write(world, 1)
  connection.unsubscribe('s')
  t.match(sink.got.at(-1), { type: 'unsubscribed', epoch: 4 })
  t.same([...epochsOf(sink), ...epochsOf(resumed(world, 4).sink)], upTo(2, world.bus.epoch))
})

t.test('bookmarkable: a reader without changes is told the newest epoch, and goes on after it', async (t) => {
  const world = setup()
  const { bus, clock } = world
  const quiet = world.connect()
  quiet.connection.subscribe('s', { pages: ['b'] })
  const stuck = resumed(world, 0, STREAM_CATCH_UP_QUEUE_BYTES)
  for (let i = 0; i < 4; i++) {
    write(world, 3)
    clock.advance(STREAM_PROGRESS_INTERVAL_MS)
    const mark = quiet.sink.got.at(-1)
    t.match(mark, { type: 'progress', epoch: bus.epoch })
  }
  t.match(stuck.sink.got.at(-1), { type: 'progress', epoch: 0 }, 'who has not been told yet is not marked')
  const { epoch } = quiet.sink.got.at(-1)!
  quiet.connection.close()
  bus.commit(set('b', [0, 7]))
  const again = world.connect()
  again.connection.subscribe('s', { pages: ['b'], from: epoch! })
  await answered(world.clock)
  t.same(epochsOf(again.sink), [bus.epoch])
})

t.test('who applies what it receives has the pages, wherever it begins among the writes', async (t) => {
  const world = setup()
  const { bus } = world
  watched(world)
  const readers: (Reader & { readonly mirror: Mirror })[] = []
  for (let i = 0; i < 60; i++) {
    const value = 10 * i
    if (i % 10 === 4) bus.commit(create('c', 3), set('a', [1, value]))
    else if (i % 10 === 9) bus.commit(remove('c'), set('b', [1, value]))
    else bus.commit(set('a', [i % 8, value]), set('b', [(i * 3) % 8, value], [(i * 3 + 1) % 8, value]))
    const mirror = new Mirror()
    const { sink, connection } = world.connect()
    const policy = i % 3 === 0 ? ('latest' as const) : ('lossless' as const)
    if (i % 2 === 0) connection.subscribe('s', { pages: ['*'], from: 'snapshot', policy })
    else connection.subscribe('s', { pages: ['*'], from: 0, policy })
    readers.push({ mirror, sink, connection })
    for (const [k, reader] of readers.entries()) {
      reader.sink.isCongested = (i + k) % 4 > 1
      if (!reader.sink.isCongested) reader.connection.drained()
    }
    if (i % 5 === 0) await answered(world.clock)
  }
  await answered(world.clock)
  const pages = Object.fromEntries(bus.pageNames().map((name) => [name, bus.values(name)]))
  for (const [i, reader] of readers.entries()) {
    drain(reader)
    for (const message of reader.sink.got) reader.mirror.apply(message)
    t.same(reader.mirror.faults, [], `reader ${i}`)
    t.same(Object.fromEntries([...reader.mirror.pages].sort()), pages, `reader ${i}`)
  }
})

/** A reader that takes nothing: all that it was sent stays queued. */
class StuckSink extends FakeSink {
  most = 0
  override send(_id: string, message: StreamMessage): void {
    this.queuedBytes += message.type === 'change' ? (message as ChangeMessage).valueBytes : 0
    this.most = Math.max(this.most, this.queuedBytes)
    this.isCongested = this.queuedBytes > 0
  }
}

t.test('of readers that take nothing a bounded amount is queued, and others get each epoch', async (t) => {
  const world = setup()
  const { bus, hub } = world
  const elements = 256 * 1024
  const bytes = 4 * elements
  bus.commit(create('big', elements))
  const good = world.connect()
  good.connection.subscribe('s', { pages: ['big'], data: 'ranges' })
  const stuck = (policy: 'lossless' | 'latest', from: 'now' | number) => {
    const sink = new StuckSink()
    hub.connect(sink).subscribe('s', { pages: ['big'], policy, from })
    return sink
  }
  const [lossless, latest] = [stuck('lossless', 'now'), stuck('latest', 'now')]
  const epochs = 2 + (2 * STREAM_QUEUE_MAX_BYTES) / bytes
  let late: StuckSink | undefined
  for (let i = 0; i < epochs; i++) {
    bus.commit((bus) => bus.fill('big', () => i))
    t.equal(epochsOf(good.sink).at(-1), bus.epoch, 'within the commit')
    if (i === 5) late = stuck('lossless', 2)
  }
  await answered(world.clock)
  t.equal(lossless.most, STREAM_QUEUE_MAX_BYTES, 'up to the bound, and then no more')
  t.ok(latest.most <= STREAM_FREE_BYTES + bytes, `${latest.most} bytes`)
  t.ok(late!.most > 0 && late!.most <= STREAM_CATCH_UP_QUEUE_BYTES + bytes, `${late?.most} bytes`)
  t.equal(hub.stats().overflows, 1, 'the lossless one that was live was ended')
})
