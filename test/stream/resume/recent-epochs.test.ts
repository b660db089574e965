/** The epochs kept in memory: within their bound, all of them can be resumed from, and no other. */
import t from 'tap'
import type { PageChange } from '../../../src/engine/types.js'
import { STREAM_LINGER_MS, STREAM_RECENT_EPOCHS, STREAM_RECENT_MAX_BYTES } from '../../../src/limits.js'
import { patternSet } from '../../../src/state/pattern.js'
import type { ChangeMessage } from '../../../src/stream/messages.js'
import { RecentEpochs, VALUES_MISSING } from '../../../src/stream/resume/recent-epochs.js'
import { SharedView } from '../../../src/stream/views/shared-view.js'
import { viewportsOf } from '../../../src/stream/views/viewport.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../../../src/wire/limits.js'
import { turn } from '../../lib/wait.js'
import { create, set, setup } from '../fakes.js'

const PATTERNS = patternSet(['a'])
const VIEW = new SharedView('a', {
  patterns: PATTERNS,
  viewports: viewportsOf(undefined, PATTERNS),
  mode: 'values',
})
const ALL = (): boolean => true

function change(elements: number): PageChange {
  const ranges = Uint32Array.of(0, elements)
  return { pageId: 1, page: 'a', kind: 'source', dtype: 'u8', shape: [elements], ranges }
}

/** Adds an epoch whose elements are all its number. */
function add(recent: RecentEpochs, epoch: number, elements: number): void {
  recent.add(epoch, [{ change: change(elements), values: new Uint8Array(elements).fill(epoch) }])
}

/** Of the epochs from 1 to `last`, those that can be told from memory with the right values. */
function told(recent: RecentEpochs, last: number): number[] {
  return Array.from({ length: last }, (_, i) => i + 1).filter((epoch) => {
    const message = recent.messageOf(VIEW, epoch, true)
    if (message === undefined || message === VALUES_MISSING) return false
    const [part] = (message as ChangeMessage).parts
    return part?.values().every((value) => Number(value) === epoch % 256) === true
  })
}

const between = (after: number, last: number): number[] =>
  Array.from({ length: last - after }, (_, i) => after + 1 + i)

t.test('at most so many epochs; the newest can all be resumed from', async (t) => {
  const recent = new RecentEpochs()
  recent.begin(0)
  const bytes: number[] = []
  for (let epoch = 1; epoch <= STREAM_RECENT_EPOCHS + 50; epoch++) {
    recent.add(epoch, [])
    bytes.push(recent.bytes)
  }
  t.equal(recent.after, 50)
  t.equal(recent.last, STREAM_RECENT_EPOCHS + 50)
  t.ok(recent.reaches(ALL, 50, true))
  t.notOk(recent.reaches(ALL, 49, false))
  const full = bytes[STREAM_RECENT_EPOCHS - 1] as number
  t.equal(full, STREAM_RECENT_EPOCHS * (bytes[0] as number))
  t.same(new Set(bytes.slice(STREAM_RECENT_EPOCHS - 1)), new Set([full]), 'not one more once it is full')
})

t.test('at most so many bytes, and as many epochs as fit', async (t) => {
  const recent = new RecentEpochs()
  recent.begin(0)
  const elements = 1024 ** 2
  add(recent, 1, elements)
  const one = recent.bytes
  t.ok(one > elements && one < elements + 4096)
  const fit = Math.floor(STREAM_RECENT_MAX_BYTES / one)
  for (let epoch = 2; epoch <= 3 * fit; epoch++) {
    add(recent, epoch, elements)
    t.equal(recent.bytes, Math.min(epoch, fit) * one, `epoch ${epoch}`)
  }
  t.equal(recent.after, 2 * fit)
  t.same(told(recent, 3 * fit), between(2 * fit, 3 * fit))
  // Small ones push out large ones, and the other way round.
  const small = 1024
  for (let epoch = 3 * fit + 1; epoch <= 3 * fit + 200; epoch++) add(recent, epoch, small)
  const last = 3 * fit + 200
  t.ok(recent.bytes <= STREAM_RECENT_MAX_BYTES && recent.bytes > STREAM_RECENT_MAX_BYTES - one)
  t.same(told(recent, last), between(recent.after, last))
  add(recent, last + 1, STREAM_RECENT_MAX_BYTES - 4 * small)
  t.same(told(recent, last + 1), between(recent.after, last + 1))
  t.ok(recent.after < last && recent.after > last - 4, 'the last few small ones stay')
})

t.test('the ranges of a change count as well', async (t) => {
  const bytesOf = (pairs: number): number => {
    const recent = new RecentEpochs()
    recent.begin(0)
    const ranges = Uint32Array.from({ length: 2 * pairs }, (_, i) => (i % 2 === 0 ? i : 1))
    recent.add(1, [{ change: { ...change(2 * pairs), ranges }, values: undefined }])
    return recent.bytes
  }
  t.equal(bytesOf(1000) - bytesOf(10), 990 * 8)
})

t.test('an epoch larger than the bound is not held, and those after it are', async (t) => {
  const recent = new RecentEpochs()
  recent.begin(7)
  add(recent, 8, 100)
  add(recent, 9, STREAM_RECENT_MAX_BYTES)
  t.same([recent.after, recent.last, recent.bytes], [9, 9, 0])
  t.notOk(recent.reaches(ALL, 8, false))
  t.ok(recent.reaches(ALL, 9, true), 'whoever has seen it goes on')
  add(recent, 10, 100)
  t.same(told(recent, 10), [10])
  const { bytes } = recent
  recent.begin(20)
  t.same([recent.after, recent.last, recent.bytes], [20, 20, 0])
  add(recent, 21, 100)
  t.equal(recent.bytes, bytes, 'counted from nothing')
  t.same(told(recent, 21), [21])
})

t.test('epochs whose values nobody asked for are held without them', async (t) => {
  const recent = new RecentEpochs()
  recent.begin(0)
  recent.add(1, [{ change: change(4), values: undefined }])
  recent.add(2, [{ change: change(4), values: Uint8Array.of(2, 2, 2, 2) }])
  const isA = PATTERNS.matches
  t.notOk(recent.reaches(isA, 0, true))
  t.ok(recent.reaches(isA, 0, false))
  t.ok(recent.reaches(isA, 1, true), 'the epoch after it has them')
  t.ok(
    recent.reaches((name) => name === 'b', 0, true),
    'the values of other pages are not needed',
  )
  t.equal(recent.messageOf(VIEW, 1, true), VALUES_MISSING)
  t.match(recent.messageOf(VIEW, 1, false), { epoch: 1 })
  recent.add(3, [{ change: change(4), values: undefined }])
  t.notOk(recent.reaches(isA, 1, true), 'the newest of all lacks them')
  t.ok(recent.reaches(isA, 3, true))
})

/** Elements of a page of 1 MiB. */
const MIB = 1024 ** 2 / 4

t.test('a hub holds what the bound allows; older epochs come from the log', async (t) => {
  const { bus, clock, hub, connect } = setup()
  const live = connect()
  live.connection.subscribe('l', { pages: ['*'] })
  let most = 0
  for (let i = 0; i < 50; i++) {
    bus.commit(create(`p${i}`, MIB))
    most = Math.max(most, hub.stats().recentBytes)
  }
  t.ok(most <= STREAM_RECENT_MAX_BYTES && most > STREAM_RECENT_MAX_BYTES - 2 * MIB * 4)
  const { after, last } = hub.recent
  t.equal(last, bus.epoch)
  const resume = async (from: number): Promise<{ asked: number; epochs: unknown[] }> => {
    const { sink, connection } = connect()
    const before = bus.asked
    connection.subscribe('r', { pages: ['*'], from })
    for (let i = 0; i < 100; i++) {
      await turn()
      clock.advance(1)
    }
    connection.close()
    const epochs = sink.got.filter(({ type }) => type === 'change').map(({ epoch }) => epoch)
    return { asked: bus.asked - before, epochs }
  }
  t.same(await resume(after), { asked: 0, epochs: between(after, last) }, 'the oldest that is in memory')
  t.same(await resume(after - 1), { asked: 1, epochs: between(after - 1, last) }, 'one more needs the log')
  t.same(await resume(last), { asked: 0, epochs: [] })

  // Without a log only memory is left, and the boundary is the same.
  bus.minEpoch = bus.epoch
  t.same(await resume(after), { asked: 0, epochs: between(after, last) })
  const gone = connect()
  gone.connection.subscribe('g', { pages: ['*'], from: after - 1 })
  t.match(gone.sink.got, [{ type: 'compacted', minEpoch: bus.epoch }])

  live.connection.close()
  clock.advance(STREAM_LINGER_MS + STREAM_PROGRESS_INTERVAL_MS)
  t.equal(hub.stats().recentBytes, 0, 'nothing is held while nobody listens')
  connect().connection.subscribe('n', { pages: ['a'] })
  bus.commit(set('a', [0, 1]))
  t.ok(hub.stats().recentBytes < 2048)
})
