/** Fixed bounds of the stream: what they hold at their value, and one beyond. */
import t from 'tap'
import { Cursors } from '../../src/engine/durable-cursors.js'
import {
  DURABLE_READERS_MAX,
  DURABLE_SEEN_MS,
  PAST_SHARED_PIECES_MAX,
  STREAM_CATCH_UP_QUEUE_BYTES,
  STREAM_LINGERING_MAX,
  STREAM_PATTERNS_MAX,
  STREAM_RATE_MAX_HZ,
  STREAM_RECENT_CUT_MAX_BYTES,
  STREAM_RECENT_EPOCHS,
  STREAM_RECENT_MAX_BYTES,
  STREAM_RUNS_OF_PATTERN,
  STREAM_SNAPSHOTS_KEPT_BYTES,
  STREAM_VIEWPORT_RUNS_MAX,
  STREAM_VIEWPORTS_MAX,
} from '../../src/limits.js'
import { patternSet } from '../../src/state/pattern.js'
import { checkSubscribeOptions } from '../../src/stream/options.js'
import { RecentEpochs } from '../../src/stream/resume/recent-epochs.js'
import { ReplayedEpochs } from '../../src/stream/resume/replayed-epochs.js'
import { viewportsOf } from '../../src/stream/views/viewport.js'
import { refusal } from '../lib/refusal.js'
import { create, remove, set, setup } from './fakes.js'

const names = (count: number): string[] => Array.from({ length: count }, (_, i) => `p${i}`)

t.test('pages that are gone are not kept', async (t) => {
  const { bus, hub, connect } = setup()
  connect().connection.subscribe('s', { pages: ['*'] })
  for (const name of names(20)) {
    bus.commit(create(name, 1))
    bus.commit(remove(name))
  }
  bus.commit(set('a', [0, 1]))
  // A view that comes is shown the pages that the hub knows.
  const seen: string[] = []
  const patterns = {
    ...patternSet(['none*']),
    matches: (name: string) => {
      seen.push(name)
      return false
    },
  }
  const view = { patterns, viewports: viewportsOf(undefined, patterns), mode: 'none' } as const
  hub.enter(view, { prepare() {}, offer() {}, fail() {} })
  t.same(seen, ['a'])
})

t.test('patterns of one subscription', async (t) => {
  const make = (count: number): string => refusal(() => patternSet(names(count)))
  t.equal(make(STREAM_PATTERNS_MAX), 'accepted')
  t.match(make(STREAM_PATTERNS_MAX + 1), /^INVALID_REQUEST pages: more than 256 patterns/)
})

t.test('windows of one subscription, their rows, and what these count', async (t) => {
  const every = patternSet(['p*'])
  const windows = (count: number): string =>
    refusal(() => viewportsOf(Object.fromEntries(names(count).map((name) => [name, [[0, 1]]])), every))
  t.equal(windows(STREAM_VIEWPORTS_MAX), 'accepted')
  t.match(windows(STREAM_VIEWPORTS_MAX + 1), /names more than 256 pages/)
  const rows = (count: number) =>
    viewportsOf(
      {
        p: [
          [0, count],
          [0, 1],
        ],
      } as never,
      every,
    )
  const shape = [STREAM_VIEWPORT_RUNS_MAX + 1, 2]
  t.equal(rows(STREAM_VIEWPORT_RUNS_MAX).windowOf('p', shape)?.starts.length, STREAM_VIEWPORT_RUNS_MAX)
  t.match(
    refusal(() => rows(STREAM_VIEWPORT_RUNS_MAX + 1).windowOf('p', shape)),
    /has 65537 separate rows/,
  )
  t.equal(rows(STREAM_RUNS_OF_PATTERN).weight, 1)
  t.equal(rows(STREAM_RUNS_OF_PATTERN + 1).weight, 2)
})

t.test('the rate of a subscription', async (t) => {
  const { connection } = setup().connect()
  const ask = (maxRate: number): string =>
    refusal(() => connection.subscribe(`s${maxRate}`, { pages: ['a'], policy: 'latest', maxRate }))
  t.equal(ask(STREAM_RATE_MAX_HZ), 'accepted')
  t.match(ask(STREAM_RATE_MAX_HZ + 1), /^INVALID_REQUEST maxRate: 1001 is not in/)
  const check = (maxRate: number): string => refusal(() => checkSubscribeOptions({ pages: ['a'], maxRate }))
  t.equal(check(STREAM_RATE_MAX_HZ), 'accepted')
  t.match(check(STREAM_RATE_MAX_HZ + 1), /maxRate.*1001.*is not a number above 0/)
})

t.test('recent epochs: how many, and how many bytes; both come down', async (t) => {
  const recent = new RecentEpochs()
  recent.begin(0)
  for (let epoch = 1; epoch <= STREAM_RECENT_EPOCHS; epoch++) recent.add(epoch, [])
  t.equal(recent.after, 0)
  const perEpoch = recent.bytes / STREAM_RECENT_EPOCHS
  recent.add(STREAM_RECENT_EPOCHS + 1, [])
  t.equal(recent.after, 1)
  t.equal(recent.bytes, perEpoch * STREAM_RECENT_EPOCHS)
  const change = {
    pageId: 1,
    page: 'a',
    kind: 'source',
    dtype: 'u8',
    shape: [1],
    ranges: new Uint32Array(2),
  } as const
  const large = [{ change, values: new Uint8Array(STREAM_RECENT_MAX_BYTES / 4) }]
  for (let i = 2; i < 10; i++) recent.add(STREAM_RECENT_EPOCHS + i, large)
  t.equal(recent.last - recent.after, 3, 'three quarters and what each costs beside its values')
  t.ok(recent.bytes <= STREAM_RECENT_MAX_BYTES && recent.bytes > STREAM_RECENT_MAX_BYTES / 2)
  recent.begin(7)
  t.equal(recent.bytes, 0)
})

t.test('views without subscribers: the oldest is dropped', async (t) => {
  const { bus, connect } = setup()
  const { connection } = connect()
  const pages = names(STREAM_LINGERING_MAX + 1)
  bus.commit(...pages.map((name) => create(name, 1)))
  const visit = (name: string): void => {
    connection.subscribe(name, { pages: [name] })
    connection.unsubscribe(name)
  }
  const gathered = (name: string): number => {
    const { gathers } = bus
    bus.commit(set(name, [0, bus.epoch]))
    return bus.gathers - gathers
  }
  for (const name of pages.slice(0, STREAM_LINGERING_MAX)) visit(name)
  t.equal(gathered(pages[0]!), 1, 'its values are still kept for one that resumes')
  visit(pages.at(-1)!)
  t.equal(gathered(pages[0]!), 0, 'the oldest')
  t.equal(gathered(pages[1]!), 1)
  t.equal(gathered(pages.at(-1)!), 1)
})

t.test('snapshots that are kept: the oldest are forgotten', async (t) => {
  const { hub } = setup()
  const view = (snapshotBytes: number) => ({
    snapshotBytes,
    forgetSnapshot() {
      this.snapshotBytes = 0
    },
  })
  const [first, second, third] = [STREAM_SNAPSHOTS_KEPT_BYTES / 2, STREAM_SNAPSHOTS_KEPT_BYTES / 2, 1].map(
    view,
  )
  for (const each of [first, second]) hub.keepSnapshot(each as never)
  t.equal(hub.keptSnapshotBytes, STREAM_SNAPSHOTS_KEPT_BYTES, 'nothing is forgotten at the limit')
  hub.keepSnapshot(third as never)
  t.same([first!.snapshotBytes, hub.keptSnapshotBytes], [0, STREAM_SNAPSHOTS_KEPT_BYTES / 2 + 1])
})

t.test('pieces of the past that are kept to be shared', async (t) => {
  const { bus } = setup()
  for (let i = 0; i < 100; i++) bus.commit(set('a', [0, i]))
  const replayed = new ReplayedEpochs(bus)
  const view = { key: 'v', patterns: patternSet(['a']), messageOf: () => undefined }
  const read = async (after: number): Promise<number> => {
    const { asked } = bus
    const { piece, release } = replayed.read({}, view as never, after, true)
    await piece
    release()
    return bus.asked - asked
  }
  for (let after = 0; after < PAST_SHARED_PIECES_MAX; after++) t.equal(await read(after), 1)
  t.equal(await read(0), 0, 'shared')
  t.equal(await read(PAST_SHARED_PIECES_MAX), 1)
  t.equal(await read(0), 1, 'the oldest was dropped for it')
  t.equal(await read(PAST_SHARED_PIECES_MAX), 0)
  replayed.forget()
  t.equal(await read(PAST_SHARED_PIECES_MAX), 1)
})

t.test('a reader that catches up is sent more while little is queued for it', async (t) => {
  const { bus, clock, connect } = setup()
  connect().connection.subscribe('w', { pages: ['a'] })
  for (let i = 0; i < 8; i++) bus.commit(set('a', [0, i + 1]))
  for (const [queuedBytes, changes] of [
    [STREAM_CATCH_UP_QUEUE_BYTES - 1, 8],
    [STREAM_CATCH_UP_QUEUE_BYTES, 0],
  ] as const) {
    const { connection, sink } = connect()
    sink.queuedBytes = queuedBytes
    connection.subscribe('s', { pages: ['a'], from: bus.epoch - 8 })
    clock.advance(10)
    t.equal(sink.types.filter((type) => type === 'change').length, changes, `${queuedBytes} bytes`)
    connection.close()
  }
})

t.test('durable readers: how many, and how often they are seen', async (t) => {
  let nowMs = 1
  let puts = 0
  const store = {
    load: async () => ({ rows: [], problems: [] }),
    put: async () => void puts++,
    remove: async () => {},
    close: async () => {},
  }
  const cursors = await Cursors.open({
    store,
    nowMs: () => nowMs,
    newestEpoch: () => 5,
    history: 'h',
    bytesSince: () => 0,
    holdMs: 1_000 * DURABLE_SEEN_MS,
    holdBytes: 1,
    onNotice: t.fail,
  })
  for (const name of names(DURABLE_READERS_MAX)) await cursors.define(name, ['a'], 5)
  await t.rejects(cursors.define('one more', ['a'], 5), { code: 'OVERLOADED' })
  await cursors.define('p0', ['b'], 5)
  await cursors.remove('p1')
  await cursors.define('one more', ['a'], 5)
  await t.rejects(cursors.define('p1', ['a'], 5), { code: 'OVERLOADED' })
  const before = puts
  nowMs += DURABLE_SEEN_MS - 1
  cursors.touch('p2')
  t.equal(puts, before, 'seen a moment ago')
  nowMs++
  cursors.touch('p2')
  cursors.touch('p2')
  t.equal(puts, before + 1)
})

t.test('a change that only windows need is kept while it is small', async (t) => {
  for (const [bytes, gathers] of [
    [STREAM_RECENT_CUT_MAX_BYTES, 0],
    [STREAM_RECENT_CUT_MAX_BYTES + 4, 1],
  ] as const) {
    const { bus, clock, connect } = setup()
    const count = bytes / 4
    bus.commit(create('w', count))
    const { connection } = connect()
    connection.subscribe('s', { pages: ['w'], slice: { w: [[0, 1]] } })
    const { epoch } = bus
    bus.commit((bus) => ({ ...bus.set('w', [0, 5]), ranges: Uint32Array.of(0, count) }))
    const before = bus.asked
    const late = connect()
    late.connection.subscribe('t', { pages: ['w'], from: epoch, slice: { w: [[0, 1]] } })
    for (let turn = 0; turn < 5; turn++) {
      await new Promise(setImmediate)
      clock.advance(1)
    }
    t.equal(late.sink.got.filter(({ type }) => type === 'change').length, 1)
    t.equal(
      bus.asked - before > 0 ? 1 : 0,
      gathers,
      `${bytes} bytes: ${gathers === 0 ? 'from memory' : 'replayed'}`,
    )
  }
})
