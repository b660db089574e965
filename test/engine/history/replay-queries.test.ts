/**
 * Questions about the past, answered on this thread, are what was live: values, versions, records, cursors.
 */
import t from 'tap'
import {
  epochPast,
  epochsPast,
  historyPast,
  peekPast,
  readPast,
} from '../../../src/engine/history/replay-queries.js'
import type { EpochInfo } from '../../../src/engine/types.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { BinaryList } from '../../../src/state/json-parts.js'
import { patternSetOf } from '../../../src/state/pattern.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { asker, type LivePast, pastOf, tellStory } from '../../lib/past.js'

const past = await pastOf(t, tellStory)
const { epochs } = past
const newest = epochs.length - 1

const ask = (of: LivePast = past) => asker(of)

const changedIn = (epoch: number): string[] =>
  [...new Set(epochs[epoch]!.changes.map(({ page }) => page))].sort()

/** The numbers of an answer, with its lists as plain arrays. */
const plain = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_, v) => (v instanceof BinaryList ? [...(v.values as never)] : v)))

t.test('every page of every epoch, forwards and backwards', async (t) => {
  const asker = ask()
  for (const order of [epochs.map((_, epoch) => epoch), epochs.map((_, i) => newest - i)]) {
    for (const epoch of order) {
      const { pages } = epochs[epoch]!
      const names = Object.keys(pages)
      const found = readPast(
        asker,
        epoch,
        names.map((name) => ({ name })),
      )
      for (const [i, name] of names.entries()) {
        const { version, values, id } = pages[name]!
        t.match(found[i], { name, version, epoch, values }, `${name} at ${epoch}`)
        t.match(peekPast(asker, epoch, name), { name, id, version, elements: values.length })
      }
    }
  }
})

t.test('a part of a page', async (t) => {
  const asker = ask()
  const { values } = epochs[17]!.pages.a!
  for (const range of [{}, { offset: 2 }, { count: 3 }, { offset: 1, count: 4 }, { offset: 6 }]) {
    const { offset = 0, count = 6 - offset } = range
    const [found] = readPast(asker, 17, [{ name: 'a', ...range }])
    t.same(found!.values, values.slice(offset, offset + count))
  }
  const many = readPast(asker, 17, [{ name: 'b' }, { name: 'a', count: 1 }])
  t.same(
    many.map(({ name }) => name),
    ['b', 'a'],
    'in the order of the question',
  )
  t.throws(() => readPast(asker, 17, [{ name: 'a', offset: 7 }]), { code: 'RANGE_NOT_SATISFIABLE' })
  t.throws(() => readPast(asker, 17, [{ name: 'a', offset: 5, count: 2 }]), { code: 'RANGE_NOT_SATISFIABLE' })
  t.throws(() => readPast(asker, 13, [{ name: 'b' }]), { code: 'PAGE_NOT_FOUND' })
  t.throws(() => peekPast(asker, 0, 'a'), { code: 'PAGE_NOT_FOUND' })
})

/** What the transactions of an epoch were: source, intent, and commands. */
const RECORDS: Readonly<Record<number, readonly unknown[]>> = {
  1: [[null, null, [{ op: 'create', page: 'a', dtype: 'i32', shape: [6], location: 'auto', fill: 3 }]]],
  3: [
    [
      null,
      null,
      [
        {
          op: 'create',
          page: 'step',
          dtype: 'i32',
          shape: [6],
          location: 'auto',
          derive: { op: 'map', inputs: { now: 'a', old: { prev: 'a' } }, expr: 'now - old' },
        },
      ],
    ],
  ],
  4: [['ann', { n: 1 }, [{ page: 'a', offset: 1, values: [7, 8], merge: 'set' }]]],
  7: [
    ['bob', null, [{ page: 'c', offset: 0, values: [0.5], merge: 'set' }]],
    ['ann', 'both', [{ page: 'a', indices: [0, 5], values: [1, 2], merge: 'set' }]],
    ['cid', null, [{ page: 'c', offset: 3, values: [1.5], merge: 'set' }]],
  ],
  9: [[null, null, [{ op: 'define', function: 'f', params: ['x'], expr: 'x + 1' }]]],
  11: [[null, null, [{ op: 'define', function: 'f', params: ['x'], expr: 'x + 2' }]]],
  13: [[null, null, [{ op: 'delete', page: 'b' }]]],
  16: [
    [null, null, [{ op: 'delete', page: 'none' }]],
    [null, null, [{ op: 'create', page: 'e', dtype: 'bool', shape: [2], location: 'auto', fill: true }]],
  ],
  19: [[null, null, [{ op: 'undefine', function: 'f' }]]],
}

t.test('the record of every epoch', async (t) => {
  const asker = ask()
  for (let epoch = newest; epoch >= 1; epoch--) {
    const info = plain(epochPast(asker, epoch)) as EpochInfo
    const { digest, timestampMs } = epochs[epoch]!
    const timestamp = new Date(timestampMs).toISOString()
    t.match(info, { epoch, timestamp, digest, changed: changedIn(epoch) }, `epoch ${epoch}`)
    t.equal(info.changed.length, changedIn(epoch).length)
    t.notOk('void' in info)
    const known = RECORDS[epoch]
    if (known === undefined) continue
    t.strictSame(
      info.transactions.map(({ source, intent, ops }) => [source, intent, ops]),
      known,
    )
  }
})

t.test('a list of epochs has the same records, and says where to go on', async (t) => {
  const asker = ask()
  const one = (epoch: number): unknown => plain(epochPast(ask(), epoch))
  const list = (from: number, to: number, limit: number, rest: object = {}): unknown[] => {
    const { epochs, next } = epochsPast(asker, { from, to, limit, ...rest })
    return [next, ...epochs.map(({ epoch }) => epoch)]
  }
  const all = epochsPast(asker, { from: 1, to: newest, limit: newest })
  t.equal(all.next, null)
  t.same(
    plain(all.epochs),
    Array.from({ length: newest }, (_, i) => one(i + 1)),
  )
  t.same(list(1, newest, 3), [4, 1, 2, 3])
  t.same(list(4, newest, 1), [5, 4])
  t.same(list(4, 4, 1), [null, 4], 'the whole range was searched')
  t.same(list(3, 5, 3), [null, 3, 4, 5])
  t.same(list(5, 4, 3), [null])
  t.same(plain(epochsPast(asker, { from: 4, to: 4, limit: 1 }).epochs), [one(4)], 'with the digest after it')
  t.same(list(1, newest, 50, { source: 'ann' }), [null, 4, 7, 20])
  t.same(list(1, newest, 2, { source: 'ann' }), [8, 4, 7], 'and goes on after the last that it searched')
  t.same(list(1, newest, 50, { source: 'cid' }), [null, 7], 'a source that is not the first of its epoch')
  t.same(list(1, newest, 50, { source: 'nobody' }), [null])
  t.same(list(1, newest, 50, { page: 'b' }), [null, 2, 4, 7, 13, 14, 15])
  t.same(list(1, newest, 50, { page: 'none' }), [null, 5, 16])
  t.same(list(1, newest, 50, { page: 'b', source: 'ann' }), [null, 4, 7])
})

/** Of each page: its versions, with source and intent of the last transaction that reached it. */
const HISTORIES: Readonly<Record<string, readonly unknown[]>> = {
  a: [
    [1, null, null],
    [4, 'ann', { n: 1 }],
    [7, 'ann', 'both'],
    [17, null, null],
    [20, 'ann', null],
  ],
  b: [
    [2, null, null],
    [4, 'ann', { n: 1 }],
    [7, 'ann', 'both'],
    [13, null, null],
    [14, null, null],
    [15, null, null],
  ],
  c: [
    [6, null, null],
    [7, 'cid', null],
    [12, null, null],
  ],
  d: [
    [10, null, null],
    [11, null, null],
    [12, null, null],
    [18, null, null],
  ],
  none: [
    [5, null, null],
    [16, null, null],
  ],
  e: [[16, null, null]],
  nobody: [],
}

t.test('the history of a page', async (t) => {
  const asker = ask()
  for (const [name, versions] of Object.entries(HISTORIES)) {
    const found = historyPast(asker, name, { from: 1, to: newest, limit: 100 })
    t.equal(found.name, name)
    t.equal(found.next, null)
    t.strictSame(
      found.versions.map(({ epoch, source, intent }) => [epoch, source, intent]),
      versions,
      name,
    )
    for (const { epoch, timestamp } of found.versions)
      t.equal(timestamp, new Date(epochs[epoch]!.timestampMs).toISOString())
  }
  const part = historyPast(asker, 'a', { from: 2, to: 17, limit: 2 })
  t.same([part.next, ...part.versions.map(({ epoch }) => epoch)], [8, 4, 7])
  t.notOk('digest' in part.versions[0]!)
  t.same(historyPast(asker, 'a', { from: 5, to: 6, limit: 2 }).versions, [])
  t.same(historyPast(asker, 'a', { from: 3, to: 1, limit: 2 }), { name: 'a', versions: [], next: null })
})

t.test('of several transactions, the one that reached the page is named', async (t) => {
  const past = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'i32', shape: [2] })
    await bus.create('y', { dtype: 'i32', shape: [2] })
    await bus.derive('sum', { op: 'map', inputs: { x: 'x', y: 'y' }, expr: 'x + y' })
    await bus.derive('old', { op: 'map', inputs: { x: { prev: 'x' } }, expr: 'x * 2' })
    const write = (page: string, source: string) =>
      bus.transact({ ops: [{ page, values: [source.length] }], source })
    await Promise.all([write('x', 'eve'), write('y', 'jo')]) // 5
    await write('y', 'mallory') // 6
    await Promise.all([write('x', 'trent'), bus.delete('old'), write('y', 'a')]) // 7
  })
  const asker = ask(past)
  const origins = (name: string): unknown[] =>
    historyPast(asker, name, { from: 5, to: past.epochs.length - 1, limit: 9 }).versions.map(
      ({ epoch, source }) => [epoch, source],
    )
  t.same(origins('x'), [
    [5, 'eve'],
    [7, 'trent'],
  ])
  t.same(origins('sum'), [
    [5, 'jo'],
    [6, 'mallory'],
    [7, 'a'],
  ])
  t.same(origins('old').slice(0, 1), [[6, 'mallory']], 'the only transaction of an epoch is taken')
  t.same(origins('old').at(-1), [7, null], 'the one that deleted it')
})

t.test('an answer is bounded in bytes', async (t) => {
  const size = 1024 ** 2
  const past = await pastOf(t, async (bus) => {
    await bus.create('big', { dtype: 'u8', shape: [6 * size] })
    for (let i = 1; i <= 4; i++) await bus.write('big', new Uint8Array(6 * size).fill(i))
  })
  const { epochs, next } = epochsPast(ask(past), { from: 1, to: 5, limit: 100 })
  t.same([epochs.map(({ epoch }) => epoch), next], [[1, 2, 3, 4], 5], 'it ends after 16 MiB')
})

t.test('lists that are longer than one step through the log', async (t) => {
  const count = 600
  const past = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u32', shape: [1] })
    for (let epoch = 2; epoch <= count; epoch++)
      await bus.patch('x', { offset: 0, values: [epoch] }, { source: epoch % 100 === 0 ? 'ann' : 'bob' })
  })
  const asker = ask(past)
  const ends = (from: number, to: number, limit: number, source?: string): unknown[] => {
    const query = { from, to, limit, ...(source === undefined ? {} : { source }) }
    const { epochs, next } = epochsPast(asker, query)
    t.ok(epochs.every(({ digest, epoch }) => digest === past.epochs[epoch]!.digest))
    return [epochs[0]?.epoch, epochs.at(-1)?.epoch, epochs.length, next]
  }
  // A step has 256 epochs.
  for (const limit of [255, 256, 257, 512, 513]) {
    t.strictSame(ends(1, count, limit), [1, limit, limit, limit + 1])
    t.strictSame(ends(30, count, limit), [30, 29 + limit, limit, 30 + limit])
    t.strictSame(ends(1, limit, limit), [1, limit, limit, null], 'to the end of the range')
    t.strictSame(ends(1, limit, count), [1, limit, limit, null])
  }
  t.strictSame(ends(1, count, count, 'ann'), [100, 600, 6, null])
  t.strictSame(ends(1, count, 3, 'ann'), [100, 300, 3, 301])
  t.strictSame(ends(45, 300, 3, 'ann'), [100, 300, 3, null], 'the last of the range, and of a step')
  t.strictSame(ends(45, 301, 3, 'ann'), [100, 300, 3, 301])
})

t.test(
  'a page that is written in the epoch that makes it, and one that is gone after its epoch',
  async (t) => {
    const past = await pastOf(t, async (bus) => {
      await bus.create('x', { dtype: 'u8', shape: [2] })
      const { id } = bus.peek('x')
      const creating = new FrameWriter({ source: 'ann' })
      const made = {
        name: 'short',
        dtype: 'u8',
        shape: [2],
        location: 'auto',
        kind: 'source',
        fill: 7n,
      } as const
      creating.createPage({ ...made, id: PAGE_ID_UNASSIGNED, definition: new Uint8Array(0) })
      const deleting = new FrameWriter({ source: 'bob' })
      deleting.deletePage(id + 1)
      await Promise.all([bus.submit(creating.finish()), bus.submit(deleting.finish())])
    })
    const info = epochPast(ask(past), 2)
    t.strictSame(
      info.transactions.map(({ source, ops }) => [source, (ops[0] as { page: string }).page]),
      [
        ['ann', 'short'],
        ['bob', 'short'],
      ],
      'by its name',
    )
    t.same(info.changed, ['short'])
    const { versions } = historyPast(ask(past), 'short', { from: 1, to: 2, limit: 9 })
    t.strictSame(
      versions.map(({ epoch, source }) => [epoch, source]),
      [[2, 'bob']],
    )
  },
)

t.test('a state is asked for where the answer begins', async (t) => {
  const asker = ask()
  const asked: unknown[] = []
  const get = asker.timelines.get.bind(asker.timelines)
  asker.timelines.get = (wanted) => {
    asked.push([wanted.wanted, wanted.from, wanted.to])
    return get(wanted)
  }
  epochsPast(asker, { from: 5, to: 9, limit: 3 })
  epochPast(asker, 7)
  historyPast(asker, 'a', { from: 4, to: 8, limit: 3 })
  readPast(asker, 6, [{ name: 'a' }, { name: 'c' }])
  peekPast(asker, 6, 'a')
  t.strictSame(asked, [
    ['all', 4, 9],
    ['all', 6, 7],
    [{ names: ['a'] }, 3, 8],
    [{ names: ['a', 'c'] }, 6, 6],
    [{ names: ['a'] }, 6, 6],
  ])
})

t.test('whoever sees only some pages gets no digest of all of them', async (t) => {
  const some = { ...ask(), visible: patternSetOf([['a', 'step']]) }
  const { epochs: all } = epochsPast(ask(), { from: 1, to: newest, limit: 100 })
  t.ok(all.every(({ digest, epoch }) => digest === epochs[epoch]!.digest))
  const { epochs: shown } = epochsPast(some, { from: 1, to: newest, limit: 100 })
  t.ok(shown.length > 0)
  for (const info of shown) {
    t.notOk('digest' in info, `epoch ${info.epoch}`)
    t.strictSame(plain(epochPast(some, info.epoch)), plain(info))
  }
})
