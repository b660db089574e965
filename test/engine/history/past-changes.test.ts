/** Past changes are what listeners got when they were live: kinds, ranges, values, order and time. */
import t from 'tap'
import { OfflineFolder } from '../../../src/engine/history/offline-folder.js'
import { pastEpochs } from '../../../src/engine/history/past-changes.js'
import type { PastEpoch, PastEpochsQuery } from '../../../src/engine/types.js'
import { PAST_ANSWER_BYTES } from '../../../src/limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { asker, type LiveEpoch, type LivePast, pastOf, tellStory } from '../../lib/past.js'

const creating = (name: string): Uint8Array => {
  const writer = new FrameWriter({})
  const page = { name, dtype: 'f32', shape: [2], location: 'auto', kind: 'source', fill: 5n } as const
  writer.createPage({ ...page, id: PAGE_ID_UNASSIGNED, definition: new Uint8Array(0) })
  return writer.finish()
}

const deleting = (id: number): Uint8Array => {
  const writer = new FrameWriter({})
  writer.deletePage(id)
  return writer.finish()
}

const past = await pastOf(t, async (bus) => {
  await tellStory(bus)
  // 21 and 22: a name passes to another page, and a page comes and goes.
  const { id } = bus.peek('b')
  await Promise.all([deleting(id), creating('b')].map((frame) => bus.submit(frame)))
  await Promise.all([creating('short'), deleting(bus.peek('b').id + 1)].map((frame) => bus.submit(frame)))
})
const { epochs } = past
const newest = epochs.length - 1

const ask = (of: LivePast = past) => asker(of)

type Shown = readonly [epoch: number, timestampMs: number, changes: readonly unknown[]]

/** Of epochs that have changes: everything, as plain values. */
function shown(epochs: readonly PastEpoch[], values = true): Shown[] {
  return epochs.map(({ epoch, timestampMs, changes }) => [
    epoch,
    timestampMs,
    changes.map((change) => [
      change.page,
      change.pageId,
      change.kind,
      change.dtype,
      [...change.shape],
      [...change.ranges],
      values ? [...change.values] : [],
    ]),
  ])
}

function expected(from: number, to: number, matches: (name: string) => boolean, values = true): Shown[] {
  const list = epochs.map((live: LiveEpoch, epoch) => ({
    epoch,
    timestampMs: live.timestampMs,
    changes: live.changes.filter(({ page }) => matches(page)),
  }))
  return shown(
    list.slice(from, to + 1).filter(({ changes }) => changes.length > 0),
    values,
  )
}

t.test('all changes, from any epoch on', async (t) => {
  const asker = ask()
  for (let after = 0; after < newest; after += 3) {
    for (const to of new Set([after, after + 1, Math.min(newest, after + 5), newest])) {
      const found = pastEpochs(asker, { after, to, pages: ['*'], values: true })
      t.equal(found.through, to)
      t.same(
        shown(found.epochs),
        after === to ? [] : expected(after + 1, to, () => true),
        `${after} to ${to}`,
      )
    }
  }
})

t.test('a name that passes to another page, and a page that comes and goes', async (t) => {
  const found = pastEpochs(ask(), { after: 20, to: newest, pages: ['*'], values: true })
  const kinds = found.epochs.map(({ epoch, changes }) => [epoch, ...changes.map(({ kind }) => kind)])
  t.same(
    kinds,
    [[21, 'deleted', 'created', 'derived']],
    'the deletion first; nothing of a page without an epoch',
  )
})

t.test('of some pages, with values and without', async (t) => {
  const asker = ask()
  for (const pages of [['a'], ['b', 'none'], ['st*'], ['d', 'e'], ['short'], ['nobody']]) {
    for (const values of [true, false]) {
      const found = pastEpochs(asker, { after: 0, to: newest, pages, values })
      const matches = (name: string): boolean =>
        pages.some((page) => (page.endsWith('*') ? name.startsWith(page.slice(0, -1)) : name === page))
      t.same(shown(found.epochs), expected(1, newest, matches, values), `${pages.join()} ${values}`)
      t.equal(found.through, newest)
    }
  }
  const [first] = pastEpochs(asker, { after: 3, to: 4, pages: ['a'], values: false }).epochs
  t.equal(first!.changes[0]!.values.length, 0)
})

t.test('one answer is bounded in bytes, and the next goes on', async (t) => {
  const size = PAST_ANSWER_BYTES / 2
  const past = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u8', shape: [size] })
    for (let i = 1; i <= 4; i++) await bus.write('x', new Uint8Array(size).fill(i))
  })
  const asker = ask(past)
  const told = (query: Partial<PastEpochsQuery>): unknown[] => {
    const { epochs, through } = pastEpochs(asker, { after: 0, to: 5, pages: ['x'], values: true, ...query })
    return [through, ...epochs.map(({ epoch }) => epoch)]
  }
  t.same(told({}), [2, 1, 2])
  t.same(told({ after: 2 }), [4, 3, 4])
  t.same(told({ after: 4 }), [5, 5])
  t.same(told({ values: false }), [5, 1, 2, 3, 4, 5], 'what is left out takes no room')
})

t.test('one answer is bounded in time', async (t) => {
  const asker = ask()
  const { epochs, through } = pastEpochs(asker, { after: 0, to: newest, pages: ['*'], values: true }, 0)
  t.ok(through < newest, 'it ends early')
  t.equal(epochs.length, through)
  t.equal(pastEpochs(ask(), { after: 9, to: newest, pages: ['*'], values: true }, 0).through, 9, 'not before')
})

t.test('only the pages that match are held, with a look ahead', async (t) => {
  const asker = ask()
  const asked: unknown[] = []
  const get = asker.timelines.get.bind(asker.timelines)
  asker.timelines.get = (wanted) => {
    asked.push(wanted)
    return get(wanted)
  }
  pastEpochs(asker, { after: 3, to: 9, pages: ['a', 'st*'], values: true })
  pastEpochs(asker, { after: 3, to: newest, pages: ['a', '*'], values: true })
  t.match(asked, [
    { caller: 1, from: 3, to: 9, ahead: 9, wanted: { key: /a/ } },
    { caller: 1, from: 3, to: newest, ahead: newest, wanted: 'all' },
  ])
})

t.test('a folder lists its pages by name, whenever they were made', async (t) => {
  const { dir } = await pastOf(t, async (bus) => {
    for (const name of ['c', 'a', 'd', 'b']) await bus.create(name, { dtype: 'u8', shape: [1] })
  })
  const offline = new OfflineFolder(dir)
  t.teardown(() => offline.close())
  t.strictSame(
    offline.pages().map(({ name }) => name),
    ['a', 'b', 'c', 'd'],
  )
})
