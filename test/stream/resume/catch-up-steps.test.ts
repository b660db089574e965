/** Catching up by itself: from the log, then from memory, then live; in order, each epoch once. */
import t from 'tap'
import type { PageChange } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { PAST_SHARED_PIECES_MAX, STREAM_CATCH_UP_SLICE_MS } from '../../../src/limits.js'
import { patternSet } from '../../../src/state/pattern.js'
import type { ChangeMessage } from '../../../src/stream/messages.js'
import { CatchUp } from '../../../src/stream/resume/catch-up.js'
import { DurableReaders, type NamedSubscription } from '../../../src/stream/resume/durable-readers.js'
import { RecentEpochs } from '../../../src/stream/resume/recent-epochs.js'
import { ReplayedEpochs } from '../../../src/stream/resume/replayed-epochs.js'
import { SharedView } from '../../../src/stream/views/shared-view.js'
import { viewportsOf } from '../../../src/stream/views/viewport.js'
import { turn, turns } from '../../lib/wait.js'
import { create, FAKE_HISTORY, FakeBus, FakeClock, FakeCursorStore, set } from '../fakes.js'

const PATTERNS = patternSet(['a'])
const VIEW = new SharedView('a', {
  patterns: PATTERNS,
  viewports: viewportsOf(undefined, PATTERNS),
  mode: 'values',
})

/** A bus whose page was changed in every epoch from 2 on, and memory of the epochs after `after`. */
function setup(last: number, after: number) {
  const bus = new FakeBus()
  bus.commit(create('a', 8), create('b', 8))
  for (let epoch = 2; epoch <= last; epoch++) bus.commit(set('a', [0, epoch]))
  const clock = new FakeClock()
  const recent = new RecentEpochs()
  recent.begin(after)
  const keep = (epoch: number, values?: Uint32Array): void => {
    const ranges = Uint32Array.of(0, 1)
    const change: PageChange = { pageId: 1, page: 'a', kind: 'source', dtype: 'u32', shape: [8], ranges }
    recent.add(epoch, [{ change, values }])
  }
  for (let epoch = after + 1; epoch <= last; epoch++) keep(epoch, Uint32Array.of(epoch))
  return { bus, clock, recent, keep, deps: { clock, recent, replayed: new ReplayedEpochs(bus) } }
}

class Reader {
  readonly got: (number | string)[] = []
  room = Number.POSITIVE_INFINITY
  onTake: (() => void) | undefined
  hasRoom = (): boolean => this.room > 0
  take = (message: ChangeMessage): void => {
    this.room--
    this.got.push(message.epoch)
    this.onTake?.()
  }
  live = (): void => void this.got.push('live')
  fail = (error: unknown): void => void this.got.push(`failed: ${(error as Error).message}`)
}

t.test('what is in memory comes at once, then it is live', async (t) => {
  const { deps, bus } = setup(5, 2)
  const reader = new Reader()
  const catchUp = new CatchUp(deps, { view: VIEW, after: 3, needsValues: true }, reader)
  t.equal(catchUp.at, 3)
  catchUp.pump()
  t.same([reader.got, catchUp.at, bus.asked], [[4, 5, 'live'], 5, 0])
  catchUp.pump()
  t.equal(reader.got.length, 3, 'once')
})

t.test('the log first, a piece at a time; where memory begins, memory', async (t) => {
  const { deps, bus } = setup(9, 6)
  const reader = new Reader()
  const catchUp = new CatchUp(deps, { view: VIEW, after: 1, needsValues: true }, reader)
  catchUp.pump()
  catchUp.pump()
  t.same([reader.got, bus.asked], [[], 1], 'it waits for one piece')
  await turns()
  t.same(reader.got, [2, 3, 4, 5, 6, 7, 8, 9, 'live'])
  t.equal(bus.asked, 2)
  t.equal(catchUp.at, 9)
})

t.test('it takes as much as there is room for, and goes on from there', async (t) => {
  const { deps } = setup(9, 6)
  const reader = new Reader()
  reader.room = 2
  const catchUp = new CatchUp(deps, { view: VIEW, after: 1, needsValues: true }, reader)
  catchUp.pump()
  await turns()
  t.same([reader.got, catchUp.at], [[2, 3], 3])
  reader.room = 4
  catchUp.pump()
  await turns()
  t.same([reader.got, catchUp.at], [[2, 3, 4, 5, 6, 7], 7])
  reader.room = 2
  catchUp.pump()
  t.same(reader.got.slice(6), [8, 9])
  reader.room = 1
  catchUp.pump()
  t.same(reader.got.slice(8), ['live'])
})

t.test('values that memory does not have are replayed', async (t) => {
  const { deps, bus, keep } = setup(5, 4)
  bus.commit(set('a', [0, 6]))
  keep(6)
  const reader = new Reader()
  new CatchUp(deps, { view: VIEW, after: 4, needsValues: true }, reader).pump()
  t.same([reader.got, bus.asked], [[5], 1])
  await turns()
  t.same(reader.got, [5, 6, 'live'])
  const without = new Reader()
  new CatchUp(deps, { view: VIEW, after: 4, needsValues: false }, without).pump()
  t.same([without.got, bus.asked], [[5, 6, 'live'], 1])
})

t.test('epochs that change nothing for it are passed over', async (t) => {
  const { deps, bus, recent } = setup(3, 3)
  for (let i = 0; i < 3; i++) bus.commit(set('b', [0, i]))
  for (let epoch = 4; epoch <= 6; epoch++) recent.add(epoch, [])
  const reader = new Reader()
  const catchUp = new CatchUp(deps, { view: VIEW, after: 2, needsValues: true }, reader)
  catchUp.pump()
  await turns()
  t.same([reader.got, catchUp.at], [[3, 'live'], 6])
})

t.test('a replay that fails ends it', async (t) => {
  const { deps, bus } = setup(5, 4)
  bus.pastChanges = () => Promise.reject(new MmsbError('EPOCH_COMPACTED', 'gone'))
  const reader = new Reader()
  new CatchUp(deps, { view: VIEW, after: 1, needsValues: true }, reader).pump()
  await turns()
  t.same(reader.got, ['failed: gone'])
})

t.test('a message that cannot be made ends it', async (t) => {
  const { deps } = setup(5, 2)
  const view = Object.create(VIEW, {
    messageOf: {
      value: () => {
        throw new Error('no')
      },
    },
  }) as SharedView
  Object.defineProperty(view, 'patterns', { value: PATTERNS })
  const reader = new Reader()
  const catchUp = new CatchUp(deps, { view, after: 3, needsValues: true }, reader)
  reader.fail = (error) => {
    reader.got.push((error as Error).message)
    catchUp.stop()
  }
  catchUp.pump()
  t.same(reader.got, ['no'])
})

t.test('once stopped it hears nothing, and its replay is cancelled', async (t) => {
  for (const isFailing of [false, true]) {
    const { deps, bus } = setup(5, 4)
    let signal: AbortSignal | undefined
    const { pastChanges } = bus
    bus.pastChanges = (query, options?: { signal: AbortSignal }) => {
      signal = options?.signal
      return isFailing ? turn().then(() => Promise.reject(new Error('no'))) : pastChanges.call(bus, query)
    }
    const reader = new Reader()
    const catchUp = new CatchUp(deps, { view: VIEW, after: 1, needsValues: true }, reader)
    catchUp.pump()
    catchUp.stop()
    t.equal(signal!.aborted, true)
    await turns()
    catchUp.pump()
    t.same(reader.got, [])
  }
})

t.test('it rests when a slice of time is over, and stopped while it rests it does not go on', async (t) => {
  const steps = 300
  const { deps, clock } = setup(steps, 1)
  for (const stops of [false, true]) {
    let nowMs = 0
    const reader = new Reader()
    reader.onTake = () => {
      nowMs += STREAM_CATCH_UP_SLICE_MS / 100
    }
    const slow = Object.create(clock, { nowMs: { value: () => nowMs } }) as FakeClock
    let rests = 0
    slow.soon = (run) => {
      rests++
      return clock.soon(run)
    }
    const catchUp = new CatchUp({ ...deps, clock: slow }, { view: VIEW, after: 1, needsValues: true }, reader)
    catchUp.pump()
    catchUp.pump()
    t.equal(reader.got.length, 128, 'it looks at the clock every 64 steps')
    if (stops) catchUp.stop()
    t.equal(clock.timerCount, stops ? 0 : 1)
    clock.advance(1)
    t.same([reader.got.at(-1), rests], stops ? [129, 1] : ['live', 2])
  }
})

t.test('time that is over while a piece is asked for does not ask for it twice', async (t) => {
  const last = 200
  for (let pieceEpochs = 60; pieceEpochs < 66; pieceEpochs++) {
    const { deps, bus, clock } = setup(last, last - 10)
    bus.pieceEpochs = pieceEpochs
    bus.pieceTurns = 3
    let nowMs = 0
    const passing = () => (nowMs += STREAM_CATCH_UP_SLICE_MS)
    const slow = Object.create(clock, { nowMs: { value: passing } }) as FakeClock
    slow.soon = (run) => clock.soon(run)
    const reader = new Reader()
    new CatchUp({ ...deps, clock: slow }, { view: VIEW, after: 1, needsValues: true }, reader).pump()
    for (let i = 0; i < 10; i++) {
      clock.advance(1)
      await turns()
    }
    const epochs = Array.from({ length: last - 1 }, (_, i) => i + 2)
    t.same(reader.got, [...epochs, 'live'], `pieces of ${pieceEpochs} epochs`)
  }
})

// ---- pieces that are shared -------------------------------------------------------------------------------

t.test('readers of one piece share it; the last that waits and leaves cancels it', async (t) => {
  const { bus } = setup(5, 4)
  const signals: AbortSignal[] = []
  const { pastChanges } = bus
  bus.pastChanges = (query, options?: { signal: AbortSignal }) => {
    signals.push(options!.signal)
    return pastChanges.call(bus, query)
  }
  const replayed = new ReplayedEpochs(bus)
  const [one, other] = [replayed.read({}, VIEW, 1, true), replayed.read({}, VIEW, 1, true)]
  t.equal(one.piece, other.piece)
  t.not(replayed.read({}, VIEW, 1, false).piece, one.piece)
  t.not(replayed.read({}, VIEW, 2, true).piece, one.piece)
  one.release()
  t.equal(signals[0]!.aborted, false)
  other.release()
  t.equal(signals[0]!.aborted, true)
  const again = replayed.read({}, VIEW, 1, true)
  t.not(again.piece, one.piece)
  t.match(await again.piece, { through: 4, messages: [{ epoch: 2 }, { epoch: 3 }, { epoch: 4 }] })
  again.release()
  t.equal(signals.at(-1)!.aborted, false, 'it is done')
  t.equal(replayed.read({}, VIEW, 1, true).piece, again.piece, 'and kept for a while')
  replayed.forget()
  t.not(replayed.read({}, VIEW, 1, true).piece, again.piece)
})

t.test('a piece that failed is asked for again; those that are waited for are not dropped', async (t) => {
  const { bus } = setup(5, 4)
  const replayed = new ReplayedEpochs(bus)
  const { pastChanges } = bus
  bus.pastChanges = () => Promise.reject(new Error('no'))
  await t.rejects(replayed.read({}, VIEW, 1, true).piece, { message: 'no' })
  bus.pastChanges = pastChanges
  t.match(await replayed.read({}, VIEW, 1, true).piece, { through: 4 })
  bus.pastChanges = () => new Promise(() => {})
  const waiting = Array.from({ length: PAST_SHARED_PIECES_MAX + 4 }, (_, i) =>
    replayed.read({}, VIEW, 10 + i, true),
  )
  replayed.forget()
  t.equal(replayed.read({}, VIEW, 10, true).piece, waiting[0]!.piece)
})

// ---- who reads under which name ---------------------------------------------------------------------------

const named = (durable: string | undefined) => {
  const ends: string[] = []
  const subscription = {
    durable,
    told: -1,
    toldOfChange: -1,
    position: 0,
    fail: (e: Error) => ends.push(e.message),
  }
  return {
    ends,
    subscription: subscription as { -readonly [K in keyof NamedSubscription]: NamedSubscription[K] },
  }
}

t.test('a name has one reader, who is seen while it is connected', async (t) => {
  const { bus } = setup(5, 4)
  const row = (name: string, epoch: number | null) => {
    return {
      name,
      definition: JSON.stringify({ pages: ['a'], history: FAKE_HISTORY }),
      epoch,
      createdMs: 0,
      seenMs: 0,
    }
  }
  const store = new FakeCursorStore([row('v', null), row('w', 2)])
  const cursors = await store.attachTo(bus)
  const readers = new DurableReaders(bus)
  const [first, second, plain] = [named('w'), named('w'), named(undefined)]
  readers.attach('w', first.subscription)
  readers.detach(plain.subscription)
  t.match(readers.view('w'), {
    name: 'w',
    pages: ['a'],
    epoch: 2,
    lag: 3,
    connected: true,
    held: true,
    createdAt: '1970-01-01T00:00:00.000Z',
  })
  t.match(readers.view('v'), { epoch: null, lag: null, connected: false, held: false })
  t.throws(() => readers.view('x'), { code: 'NOT_FOUND' })
  store.nowMs = 1e8
  readers.onTick()
  t.same([cursors.get('w')!.seenMs, cursors.get('w')!.epoch], [1e8, 2], 'seen, but it was told nothing')
  Object.assign(first.subscription, { told: 4, toldOfChange: 2, position: 4 })
  store.nowMs = 2e8
  readers.onTick()
  t.equal(cursors.get('w')!.epoch, 4, 'it has committed all that changed')
  readers.attach('w', second.subscription)
  t.match(first.ends, [/took over "w"/])
  readers.detach(first.subscription)
  t.same([readers.view('w').connected, second.ends], [true, []])
  store.nowMs = 3e8
  readers.detach(second.subscription)
  t.same([readers.view('w').connected, cursors.get('w')!.seenMs], [false, 3e8])
  readers.attach('w', second.subscription)
  await readers.remove('w')
  t.match(second.ends, [/"w" was deleted/])
  t.throws(() => readers.view('w'), { code: 'NOT_FOUND' })
  await t.rejects(readers.remove('w'), { code: 'NOT_FOUND' })
  readers.detach(second.subscription)
})

t.test('without a data folder there are none', async (t) => {
  const readers = new DurableReaders(new FakeBus())
  t.same(readers.list(), [])
  await t.rejects(readers.remove('w'), { code: 'NOT_FOUND' })
  readers.onTick()
})
