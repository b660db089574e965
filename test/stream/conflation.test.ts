/**
 * Folding epochs for a reader that wants fewer messages: what it is told when it leaves meanwhile, and what
 * windows leave of a change.
 */
import t from 'tap'
import type { PageChange } from '../../src/engine/types.js'
import { CHANGED_RANGES_MAX, STREAM_CATCH_UP_QUEUE_BYTES } from '../../src/limits.js'
import { Conflation, coarsen } from '../../src/stream/conflation.js'
import type { Connection } from '../../src/stream/connection.js'
import type { SubscribeOptions } from '../../src/stream/types.js'
import { Draw } from '../lib/draw.js'
import { turn } from '../lib/wait.js'
import { create, type FakeBus, type FakeSink, remove, set, setup } from './fakes.js'
import { type Changed, type Message, Mirror } from './helpers.js'

const changesOf = ({ got }: FakeSink): Message[] => got.filter(({ type }) => type === 'change')
const epochsOf = (sink: FakeSink): unknown[] => changesOf(sink).map(({ first, epoch }) => [first, epoch])

// ---- by itself --------------------------------------------------------------------------------------------

const NOT_GATHERED = (): never => {
  throw new Error('gathered')
}
const changed = (pageId: number, kind: PageChange['kind'], ...ranges: number[]): PageChange => {
  const shape = [9_999]
  return { pageId, page: `p${pageId}`, kind, dtype: 'u8', shape, ranges: Uint32Array.from(ranges) }
}
/** What the changes of epochs from 5 on become, folded: the changes that are left. */
function folded(...epochs: PageChange[][]): readonly [string, number[]][] | undefined {
  const conflation = new Conflation(5)
  for (const [i, changes] of epochs.entries()) conflation.add(5 + i, changes)
  const message = conflation.finish('ranges', NOT_GATHERED)
  return message?.parts.map(({ change }) => [`${change.kind} ${change.page}`, [...change.ranges]])
}

t.test('what epochs become when they are folded', async (t) => {
  const source = (...ranges: number[]): PageChange => changed(1, 'source', ...ranges)
  const [created, deleted] = [changed(1, 'created', 0, 9), changed(1, 'deleted')]
  const other = changed(2, 'created', 0, 4)
  t.same(folded(), undefined)
  t.same(folded([]), undefined)
  t.same(folded([source(1, 2)]), [['source p1', [1, 2]]])
  t.same(folded([source(1, 2, 8, 1)], [source(2, 3)]), [['source p1', [1, 4, 8, 1]]])
  t.same(folded([created], [source(2, 3)]), [['created p1', [0, 9]]])
  t.same(folded([created], [source(2, 3)], [deleted]), undefined, 'it leaves no trace')
  t.same(folded([source(1, 2)], [deleted]), [['deleted p1', []]])
  t.same(folded([other, source(1, 2)], [deleted]), [
    ['deleted p1', []],
    ['created p2', [0, 4]],
  ])
})

t.test('the epochs that a folded change spans; what is cut away is not in it', async (t) => {
  const conflation = new Conflation(5)
  t.same([conflation.first, conflation.last], [5, 5])
  conflation.add(8, [changed(1, 'source', 0, 1), changed(2, 'source', 0, 1)])
  t.equal(conflation.last, 8)
  const message = conflation.finish('none', NOT_GATHERED, (part) =>
    part.change.pageId === 1 ? undefined : part,
  )
  t.match(message, { first: 5, epoch: 8, mode: 'none' })
  t.same(
    message!.parts.map(({ change }) => change.pageId),
    [2],
  )
  t.equal(
    conflation.finish('none', NOT_GATHERED, () => undefined),
    undefined,
  )
})

t.test('many ranges become as few as may be kept; the narrowest gaps are closed first', async (t) => {
  /** Ranges of one element with these gaps between them. */
  const withGaps = (gaps: readonly number[]): Uint32Array => {
    const ranges = [3, 1]
    let at = 4
    for (const gap of gaps) {
      ranges.push(at + gap, 1)
      at += gap + 1
    }
    return Uint32Array.from(ranges)
  }
  const gaps = (count: number, gap: (i: number) => number): number[] =>
    Array.from({ length: count }, (_, i) => gap(i))
  const few = withGaps(gaps(CHANGED_RANGES_MAX - 1, () => 1))
  t.equal(coarsen(few), few, 'as many as may be kept')
  t.same([...coarsen(withGaps(gaps(CHANGED_RANGES_MAX, () => 1)))], [3, 2 * CHANGED_RANGES_MAX + 1])
  t.same([...coarsen(withGaps(gaps(CHANGED_RANGES_MAX, () => 2)))], [3, 3 * CHANGED_RANGES_MAX + 1])
  t.same([...coarsen(withGaps(gaps(CHANGED_RANGES_MAX, () => 9)))], [3, 10 * CHANGED_RANGES_MAX + 1])
  // Of every three gaps one has 1 element, one 3 and one 8: to close those of 1 or of 3 is not enough each.
  const mixed = withGaps(gaps(600, (i) => [1, 3, 8][i % 3]!))
  const expected: number[] = []
  for (let group = 0; group <= 200; group++) expected.push(3 + 15 * group, group < 200 ? 7 : 1)
  t.same([...coarsen(mixed)], expected)
  // After the gaps of 1 so many ranges are left as may be kept.
  const enough = withGaps(gaps(300, (i) => (i < 45 ? 1 : 5)))
  t.equal(coarsen(enough).length, 2 * CHANGED_RANGES_MAX)
  t.same([...coarsen(enough).subarray(0, 4)], [3, 91, 99, 1])
})

// ---- with readers that leave and come back ----------------------------------------------------------------

t.test('whoever leaves while epochs are folded is told the epoch before the first of them', async (t) => {
  const { bus, clock, connect } = setup()
  const { sink, connection } = connect()
  const options = { pages: ['a'], maxRate: 10 }
  connection.subscribe('s', options)
  bus.commit(set('a', [0, 2]))
  bus.commit(set('b', [0, 3]))
  bus.commit(set('a', [0, 4]))
  bus.commit(set('a', [1, 5]))
  bus.commit(set('b', [0, 6]))
  const { timerCount } = clock
  t.ok(connection.unsubscribe('s'))
  t.same(sink.got.at(-1), { type: 'unsubscribed', id: 's', epoch: 3 }, 'epochs 4 and 5 were folded, not sent')
  t.equal(clock.timerCount, timerCount - 1, 'nor does a timer wait for them')
  clock.advance(10_000)
  t.equal(sink.types.at(-1), 'unsubscribed', 'nothing comes later')
  connection.subscribe('s', { pages: ['a'], from: 3 })
  t.same(epochsOf(sink), [
    [2, 2],
    [4, 4],
    [5, 5],
  ])
  bus.commit(set('b', [0, 7]))
  connection.unsubscribe('s')
  t.match(sink.got.at(-1), { type: 'unsubscribed', epoch: 7 }, 'with nothing folded: the newest epoch')
})

t.test('a fold that is due while an epoch is in flight is not sent to whoever left', async (t) => {
  const { bus, clock, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'], maxRate: 10 })
  bus.commit(set('a', [0, 2]))
  bus.commit(set('a', [0, 3]))
  bus.begin()
  clock.advance(1_000)
  connection.unsubscribe('s')
  t.match(sink.got.at(-1), { type: 'unsubscribed', epoch: 2 })
  connection.subscribe('s', { pages: ['a'], maxRate: 10, from: 2 })
  bus.commit(set('b', [0, 4]))
  for (let i = 0; i < 5; i++) await turn()
  clock.advance(1_000)
  t.same(epochsOf(sink), [
    [2, 2],
    [3, 3],
  ])
})

t.test('whoever leaves while it catches up is told how far it came', async (t) => {
  const { bus, clock, connect } = setup()
  const first = connect()
  first.connection.subscribe('all', { pages: ['*'] })
  for (let i = 2; i <= 9; i++) bus.commit(set('a', [0, i]))
  const { sink, connection } = connect()
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    send(id, message)
    if (message.type === 'change' && message.epoch === 5) sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  }
  connection.subscribe('s', { pages: ['a'], from: 1 })
  clock.advance(1_000)
  t.equal(sink.got.at(-1)?.epoch, 5, 'the queue is full')
  bus.commit(set('a', [0, 10]))
  t.ok(connection.unsubscribe('s'))
  t.same(sink.got.at(-1), { type: 'unsubscribed', id: 's', epoch: 5 })
  sink.queuedBytes = 0
  connection.drained()
  clock.advance(1_000)
  t.equal(sink.types.at(-1), 'unsubscribed')

  // A reader of the latest folds what it catches up on, and may leave while the log is read.
  const { asked } = bus
  const late = connect()
  late.connection.subscribe('l', { pages: ['a'], from: 0, policy: 'latest' })
  t.equal(bus.asked, asked + 1, 'epoch 1 is older than what is in memory')
  late.connection.unsubscribe('l')
  t.match(late.sink.got.at(-1), { type: 'unsubscribed', epoch: 0 })
  await turn()
  clock.advance(1_000)
  t.equal(late.sink.types.at(-1), 'unsubscribed')
})

/** Commits something random. Names of pages are never used again. */
function commitOne(bus: FakeBus, draw: Draw, number: number): void {
  const names = bus.pageNames()
  const dice = draw.int(0, 9)
  if (dice === 0) bus.commit(create(`p${number}`, draw.int(1, 4)))
  else if (dice === 1 && names.length > 2) bus.commit(remove(names.at(-1) as string))
  else {
    const steps = names.filter(() => draw.chance(0.6))
    const write = (name: string) => set(name, [draw.int(0, bus.values(name).length - 1), number])
    bus.commit(...steps.map(write))
  }
}

t.test('readers that leave at any moment and resume from what they were told miss nothing', async (t) => {
  let [leftWhileFolded, leftBehind] = [0, 0]
  for (let seed = 1; seed <= 25; seed++) {
    const draw = new Draw(seed)
    const { bus, clock, connect } = setup()
    bus.pieceEpochs = draw.int(1, 5)
    bus.pieceTurns = draw.int(0, 2)
    const kinds: SubscribeOptions[] = [
      { pages: ['*'] },
      { pages: ['*'], policy: 'latest' },
      { pages: ['*'], maxRate: 20 },
      { pages: ['*'], maxRate: 200, policy: 'latest' },
    ]
    const readers = kinds.map((options) => {
      const { sink, connection } = connect()
      connection.subscribe('m', { ...options, from: 'snapshot' })
      return { options, sink, connection, isIn: true, told: 0 }
    })
    for (let i = 0; i < 80; i++) {
      commitOne(bus, draw, i)
      for (const reader of readers) {
        const { sink, connection, options } = reader
        if (draw.chance(0.3)) sink.isCongested = !sink.isCongested
        sink.queuedBytes = sink.isCongested && draw.chance(0.3) ? STREAM_CATCH_UP_QUEUE_BYTES : 0
        if (!sink.isCongested) connection.drained()
        if (!draw.chance(0.2)) continue
        if (reader.isIn) {
          const { epoch: sent = 0 } = changesOf(sink).at(-1) ?? {}
          reader.isIn = !connection.unsubscribe('m')
          reader.told = sink.got.at(-1)?.epoch as number
          if (reader.told < bus.epoch) leftBehind++
          if (reader.told > sent && reader.told < bus.epoch) leftWhileFolded++
        } else {
          connection.subscribe('m', { ...options, from: reader.told })
          reader.isIn = true
        }
      }
      if (draw.chance(0.5)) await turn()
      clock.advance(draw.int(0, 30))
    }
    for (const { sink, connection, isIn, options, told } of readers) {
      sink.isCongested = false
      sink.queuedBytes = 0
      if (!isIn) connection.subscribe('m', { ...options, from: told })
      connection.drained()
    }
    for (let i = 0; i < 120; i++) {
      await turn()
      clock.advance(100)
    }
    for (const { sink, options } of readers) {
      const mirror = new Mirror()
      for (const message of sink.got) mirror.apply(message)
      t.same(mirror.faults, [], `seed ${seed}, ${JSON.stringify(options)}`)
      const pages = Object.fromEntries([...mirror.pages].sort())
      const wanted = Object.fromEntries(bus.pageNames().map((name) => [name, bus.values(name)]))
      t.same(pages, wanted, `seed ${seed}, ${JSON.stringify(options)}`)
      t.same(betweenLives(sink), [], `seed ${seed}: nothing comes between leaving and coming back`)
    }
  }
  t.ok(leftBehind > 60 && leftWhileFolded > 12, `${leftBehind} left behind, ${leftWhileFolded} folding`)
})

/** Messages to a subscription that has ended. */
function betweenLives({ got }: FakeSink): string[] {
  let isIn = false
  return got.flatMap(({ type }) => {
    if (type === 'subscribed') isIn = true
    const wrong = isIn ? [] : [type]
    if (type === 'unsubscribed') isIn = false
    return wrong
  })
}

// ---- windows ----------------------------------------------------------------------------------------------

const WINDOW: readonly (readonly [number, number])[] = [[2, 5]]
const SLICE = { a: WINDOW }

t.test('a page whose window shows nothing of a change is not in the message', async (t) => {
  const { bus, clock, connect } = setup()
  const options = { pages: ['a', 'b'], slice: SLICE }
  const [live, folding, names] = [connect(), connect(), connect()]
  live.connection.subscribe('s', options)
  folding.connection.subscribe('s', { ...options, policy: 'latest' })
  names.connection.subscribe('s', { ...options, data: 'none' })
  folding.sink.isCongested = true
  const pages = (): unknown => live.sink.got.at(-1)?.changes?.map(({ page, ranges }) => [page, ranges])
  bus.commit(set('a', [1, 9], [5, 9]))
  t.same(live.sink.types, ['subscribed'], 'both neighbours of the window')
  bus.commit(set('a', [0, 8], [7, 8]), set('b', [3, 8]))
  t.same(pages(), [['b', [[3, 1]]]])
  bus.commit(set('a', [1, 7], [4, 7], [5, 7]), set('b', [0, 7]))
  t.same(pages(), [
    ['a', [[2, 1]]],
    ['b', [[0, 1]]],
  ])
  bus.execute(set('a', [6, 6]))
  bus.commit()
  t.equal(live.sink.got.length, 3, 'neither is what was made ready while the disk wrote')
  t.same(
    names.sink.got.slice(1).map(({ epoch, changes }) => [epoch, changes?.map(({ page }) => page)]),
    [
      [3, ['b']],
      [4, ['a', 'b']],
    ],
    'names alone say no more',
  )
  folding.sink.isCongested = false
  folding.connection.drained()
  t.match(folding.sink.got.at(-1), {
    first: 3,
    epoch: 4,
    changes: [
      {
        page: 'b',
        ranges: [
          [0, 1],
          [3, 1],
        ],
        values: [7, 8],
      },
      { page: 'a', ranges: [[2, 1]], values: [7] },
    ],
  })
  clock.advance(0)
  live.connection.unsubscribe('s')
  t.match(live.sink.got.at(-1), { type: 'unsubscribed', epoch: 5 }, 'epochs outside the window are behind it')
})

t.test('what is folded and then deleted or made anew, seen through a window', async (t) => {
  const { bus, connect } = setup()
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'], slice: SLICE, policy: 'latest' })
  sink.isCongested = true
  bus.commit(set('a', [2, 1]))
  bus.commit(remove('a'))
  bus.commit(create('a', 6))
  bus.commit(set('a', [0, 3], [3, 4]))
  sink.isCongested = false
  connection.drained()
  t.match(sink.got.slice(1), [
    {
      first: 2,
      epoch: 5,
      changes: [
        { page: 'a', kind: 'deleted', ranges: [] },
        { page: 'a', kind: 'created', shape: [3], ranges: [[0, 3]], values: [0, 4, 0] },
      ],
    },
  ])
  sink.isCongested = true
  bus.commit(set('a', [2, 5]))
  bus.commit(remove('a'))
  bus.commit(create('a', 4))
  sink.isCongested = false
  connection.drained()
  t.match(sink.got.at(-1), { type: 'error', code: 'SHAPE_MISMATCH' }, 'the window does not fit the new page')
})

/** What readers of a page of 8 elements with the window see of it. */
const shown = (values: readonly number[]): number[] => values.slice(2, 5)

t.test('through a window, live, folded or from an old epoch: the same, and nothing empty', async (t) => {
  let empty = 0
  for (let seed = 1; seed <= 20; seed++) {
    const draw = new Draw(seed)
    const { bus, clock, connect } = setup()
    bus.pieceEpochs = draw.int(1, 4)
    const options = { pages: ['*'], slice: { a: WINDOW, b: WINDOW }, from: 1 }
    const [live, folding, rated] = [connect(), connect(), connect()]
    live.connection.subscribe('m', options)
    folding.connection.subscribe('m', { ...options, policy: 'latest' })
    rated.connection.subscribe('m', { ...options, maxRate: 30 })
    const late: { from: number; sink: FakeSink; connection: Connection }[] = []
    const visible: number[] = []
    for (let i = 0; i < 40; i++) {
      const before = [...shown(bus.values('a')), ...shown(bus.values('b'))].join()
      const write = (name: string) =>
        set(
          name,
          ...Array.from(
            { length: draw.int(1, 2) },
            (_, j) => [draw.int(0, 7), 10 * i + j + 1] as [number, number],
          )
            .sort(([one], [other]) => one - other)
            .filter(([index], at, all) => at === 0 || all[at - 1]![0] !== index),
        )
      bus.commit(...['a', 'b'].filter(() => draw.chance(0.7)).map(write))
      const after = [...shown(bus.values('a')), ...shown(bus.values('b'))].join()
      if (before === after) empty++
      else visible.push(bus.epoch)
      folding.sink.isCongested = draw.chance(0.7)
      if (!folding.sink.isCongested) folding.connection.drained()
      if (draw.chance(0.2)) {
        const from = draw.int(1, bus.epoch)
        const reader = { from, ...connect() }
        reader.connection.subscribe('m', { ...options, from })
        late.push(reader)
      }
      if (draw.chance(0.5)) await turn()
      clock.advance(draw.int(0, 20))
    }
    folding.sink.isCongested = false
    folding.connection.drained()
    for (let i = 0; i < 30; i++) {
      await turn()
      clock.advance(100)
    }
    t.same(
      changesOf(live.sink).map(({ epoch }) => epoch),
      visible,
      `seed ${seed}: epochs that show nothing are not told`,
    )
    for (const { from, sink } of late) {
      const wanted = changesOf(live.sink).filter(({ epoch }) => epoch! > from)
      t.same(changesOf(sink), wanted, `seed ${seed}: from ${from}`)
    }
    for (const { sink } of [live, folding, rated, ...late]) {
      const parts = changesOf(sink).flatMap(({ changes }) => changes as readonly Changed[])
      t.notOk(
        parts.some(({ ranges }) => ranges?.length === 0),
        `seed ${seed}: no part is empty`,
      )
    }
    for (const { sink } of [live, folding, rated]) {
      const mirror = new Mirror()
      for (const name of ['a', 'b']) mirror.pages.set(name, [0, 0, 0])
      for (const message of sink.got) mirror.apply(message)
      t.same(mirror.faults, [])
      for (const name of ['a', 'b'])
        t.same(mirror.pages.get(name), shown(bus.values(name)), `seed ${seed}, ${name}`)
    }
  }
  t.ok(empty > 60, `${empty} epochs showed nothing`)
})
