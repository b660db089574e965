/**
 * How a timeline gets to an epoch: what it reads of the log and of checkpoints, what it undoes, and what it
 * holds then. Values and versions are always those that were live.
 */
import t, { type Test } from 'tap'
import { Interrupted, Timeline, type TimelineOptions } from '../../../src/engine/history/timeline.js'
import { hex } from '../../../src/engine/pages/describe.js'
import { REPLAY_CANCEL_EPOCHS, REPLAY_CANCEL_MS } from '../../../src/limits.js'
import { DTYPE_INFO } from '../../../src/wire/dtype.js'
import { type LivePast, pastOf, spied, tellStory } from '../../lib/past.js'

const CHECKPOINT = 9

const story = await pastOf(t, async (bus) => {
  let checkpoint: Promise<unknown> | undefined
  const stop = bus.onCommit(({ epoch }) => {
    if (epoch === CHECKPOINT) checkpoint = bus.checkpoint()
  })
  await tellStory(bus)
  stop()
  await checkpoint
})
const newest = story.epochs.length - 1
const [loaded] = story.reader.checkpointEpochs() as [number]

/** A timeline, and what it has read since the last question. */
function stepping({ reader }: LivePast, options: Partial<TimelineOptions> = {}) {
  const { reader: spy, reads } = spied(reader)
  return { timeline: new Timeline({ reader: spy, ...options }), reads }
}

/** The state is that of the epoch, but for pages that it need not hold. */
function isAt(t: Test, timeline: Timeline, epoch: number, names?: readonly string[]): void {
  const { pages, digest } = story.epochs[epoch]!
  t.equal(timeline.epoch, epoch)
  if (names === undefined) t.equal(hex(timeline.digest), digest)
  const wanted = names ?? Object.keys(pages)
  for (const name of wanted) {
    const page = timeline.registry.byName(name)
    const live = pages[name]
    if (live === undefined) {
      t.equal(page, undefined, `no ${name} at ${epoch}`)
      continue
    }
    const { view } = DTYPE_INFO[page!.dtype]
    const values = view(new ArrayBuffer(page!.bytes), 0, page!.elements)
    if (page!.bytes > 0) timeline.context.readPage(page!.id, 0, values)
    t.match({ id: page!.id, version: page!.version, values }, live, `${name} at ${epoch}`)
  }
  t.equal(timeline.registry.size, names === undefined ? wanted.length : timeline.registry.size)
}

t.test('forwards by records, backwards by undoing', async (t) => {
  const { timeline, reads } = stepping(story)
  t.equal(timeline.epoch, undefined)
  t.equal(timeline.pageBytes, 0)
  t.throws(() => timeline.digest, { code: 'INTERNAL' })
  timeline.seek(3)
  t.equal(reads(), '1..3')
  isAt(t, timeline, 3)
  t.equal(timeline.pageBytes, 96, 'three pages, and the past of one')
  timeline.seek(8)
  t.equal(reads(), '4..8')
  for (const epoch of [7, 5, 4, 3]) {
    timeline.seek(epoch)
    t.equal(reads(), '', `back to ${epoch}`)
    isAt(t, timeline, epoch)
  }
  t.notOk(timeline.reaches(2), 'a page that reads the past cannot be taken back')
  for (const epoch of [2, 1, 0]) {
    timeline.seek(epoch)
    isAt(t, timeline, epoch)
  }
  t.equal(reads(), '1..2')
  timeline.seek(8)
  t.equal(reads(), '1..8')
  timeline.seek(8)
  t.equal(reads(), '', 'it is there')
  isAt(t, timeline, 8)
  timeline.close()
  t.equal(timeline.epoch, undefined)
  timeline.seek(1)
  t.equal(reads(), '1..1', 'and starts over')
  timeline.close()
})

t.test('partials of a long reduction are those of the epoch that was stepped back to', async (t) => {
  const length = 8 * 1024
  const long = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'f64', shape: [length], fill: 1 })
    await bus.derive('sum', { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' })
    await bus.patch('x', { offset: 5, values: [3] })
    await bus.patch('x', { offset: length - 1, values: [100] })
  })
  const timeline = new Timeline({ reader: long.reader })
  for (const epoch of [4, 2, 3, 4]) {
    timeline.seek(epoch)
    t.equal(hex(timeline.digest), long.epochs[epoch]!.digest, `epoch ${epoch}`)
  }
  timeline.close()
})

t.test('what cannot be undone is rebuilt from the nearest checkpoint', async (t) => {
  const { timeline, reads } = stepping(story)
  timeline.seek(newest)
  t.equal(reads(), `checkpoint ${loaded} ${loaded + 1}..${newest}`)
  isAt(t, timeline, newest)
  // Epoch 19 ends a function, which cannot be undone.
  timeline.seek(19)
  t.equal(reads(), '')
  t.ok(timeline.reaches(19))
  t.notOk(timeline.reaches(18))
  timeline.seek(18)
  t.equal(reads(), `checkpoint ${loaded} ${loaded + 1}..18`)
  isAt(t, timeline, 18)
  for (const epoch of [17, 16, 15, 14, 13, 12]) {
    timeline.seek(epoch)
    isAt(t, timeline, epoch)
  }
  t.equal(reads(), '', 'pages come back and go with their values')
  timeline.seek(loaded - 1)
  t.equal(reads(), `1..${loaded - 1}`)
  isAt(t, timeline, loaded - 1)
  timeline.close()
})

t.test('so many epochs can be undone, and no more', async (t) => {
  for (const undoEpochs of [0, 1, 3]) {
    const { timeline, reads } = stepping(story, { undoEpochs })
    timeline.seek(8)
    reads()
    t.ok(timeline.reaches(8 - undoEpochs))
    t.notOk(timeline.reaches(8 - undoEpochs - 1))
    timeline.seek(8 - undoEpochs)
    t.equal(reads(), '', `${undoEpochs} back`)
    isAt(t, timeline, 8 - undoEpochs)
    timeline.seek(8 - undoEpochs - 1)
    t.equal(reads(), `1..${8 - undoEpochs - 1}`)
    isAt(t, timeline, 8 - undoEpochs - 1)
    timeline.close()
  }
})

t.test('what is kept of deleted pages is bounded in bytes', async (t) => {
  const past = await pastOf(t, async (bus) => {
    for (const name of ['x', 'y', 'z']) await bus.create(name, { dtype: 'u8', shape: [4_000], fill: 1 })
    for (const name of ['x', 'y', 'z']) await bus.delete(name)
  })
  for (const [undoBytes, oldest] of [
    [12_000, 0],
    [11_999, 4],
    [8_000, 4],
    [7_999, 5],
    [0, 6],
  ] as const) {
    const { timeline, reads } = stepping(past, { undoBytes })
    timeline.seek(6)
    reads()
    for (let epoch = 0; epoch <= 6; epoch++)
      t.equal(timeline.reaches(epoch), epoch >= oldest, `epoch ${epoch} with ${undoBytes} bytes`)
    timeline.seek(oldest)
    t.equal(reads(), '')
    t.equal(hex(timeline.digest), past.epochs[oldest]!.digest)
    timeline.close()
  }
})

t.test('what was kept before an epoch that cannot be undone takes no room', async (t) => {
  const past = await pastOf(t, async (bus) => {
    for (const name of ['x', 'y']) await bus.create(name, { dtype: 'u8', shape: [4_000], fill: 1 })
    await bus.delete('x') // 3
    await bus.defineFunction('f', { params: ['v'], expr: 'v' }) // 4
    await bus.delete('y') // 5
  })
  const { timeline, reads } = stepping(past, { undoBytes: 4_000 })
  timeline.seek(5)
  reads()
  timeline.seek(4)
  t.equal(reads(), '', 'there was room for one')
  t.equal(hex(timeline.digest), past.epochs[4]!.digest)
  timeline.close()
})

t.test('a far way ahead is not jumped if every record is wanted', async (t) => {
  for (const neverJump of [false, true]) {
    const { timeline, reads } = stepping(story, { neverJump })
    timeline.seek(2)
    timeline.seek(loaded + 3)
    t.equal(reads(), `1..2 3..${loaded + 3}`, 'a near one is walked')
    timeline.close()
  }
})

t.test('who watches sees every epoch on the way, once', async (t) => {
  const { timeline } = stepping(story)
  const seen: number[] = []
  const watch = ({ record }: { record: { epoch: number } }) => seen.push(record.epoch)
  timeline.seek(4, watch)
  t.same(seen.splice(0), [1, 2, 3, 4])
  timeline.seek(4, watch)
  timeline.seek(3, watch)
  t.same(seen, [], 'nothing on the way back')
  t.equal(timeline.walk(5, 8, watch), 8)
  t.same(seen.splice(0), [6, 7, 8], 'those after the first')
  t.equal(
    timeline.walk(5, 8, watch, () => seen.length === 2),
    7,
  )
  t.same(seen.splice(0), [6, 7])
  t.equal(timeline.walk(3, 3, watch), 3)
  t.equal(
    timeline.walk(6, 8, watch, () => true),
    4,
    'it may end before the first',
  )
  t.same(seen, [])
  timeline.close()
})

t.test('with a cone it holds no other pages, and skips what does not touch it', async (t) => {
  const { c, d } = { ...story.epochs[12]!.pages }
  const { timeline, reads } = stepping(story, { cone: new Set([c!.id, d!.id]) })
  const seen: number[] = []
  timeline.seek(17, ({ record }) => seen.push(record.epoch))
  t.same(
    seen.filter((epoch) => epoch === 15 || epoch === 17),
    [],
    'of other pages',
  )
  isAt(t, timeline, 17, ['c', 'd', 'a', 'b'].slice(0, 2))
  t.equal(timeline.registry.byName('a'), undefined)
  t.equal(timeline.registry.size, 2)
  reads()
  for (const epoch of [16, 15, 14, 12, 13, 17]) {
    timeline.seek(epoch)
    isAt(t, timeline, epoch, ['c', 'd'])
  }
  timeline.seek(20)
  isAt(t, timeline, 20, ['c', 'd'])
  timeline.seek(7)
  isAt(t, timeline, 7, ['c', 'd'])
  timeline.close()
})

t.test('a cone of pages that read the past', async (t) => {
  const { a, step } = { ...story.epochs[3]!.pages }
  const { timeline } = stepping(story, { cone: new Set([a!.id, step!.id]) })
  const epochs = story.epochs.map((_, epoch) => epoch)
  for (const epoch of [...epochs, ...epochs.toReversed()]) {
    timeline.seek(epoch)
    isAt(t, timeline, epoch, ['a', 'step'])
  }
  timeline.close()
})

t.test('it looks up from time to time, and an interrupted way goes on from there', async (t) => {
  const long = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u32', shape: [1] })
    for (let i = 0; i < 2 * REPLAY_CANCEL_EPOCHS; i++) await bus.patch('x', { values: [i] })
  })
  let pauses: number[] = []
  let error: Error | undefined
  const onPause = (epoch: number): void => {
    pauses.push(epoch)
    if (error !== undefined) throw error
  }
  const { timeline, reads } = stepping(long, { onPause })
  timeline.seek(2 * REPLAY_CANCEL_EPOCHS)
  t.ok(pauses.length >= 2, `${pauses.length} pauses`)
  t.ok(pauses.every((epoch, i) => epoch - (pauses[i - 1] ?? 0) <= REPLAY_CANCEL_EPOCHS))
  timeline.close()
  pauses = []
  error = new Interrupted('for now')
  t.throws(() => timeline.seek(2 * REPLAY_CANCEL_EPOCHS), { message: 'for now' })
  const [at] = pauses
  t.equal(timeline.epoch, at)
  reads()
  error = undefined
  timeline.seek(2 * REPLAY_CANCEL_EPOCHS)
  t.equal(reads(), `${at! + 1}..${2 * REPLAY_CANCEL_EPOCHS}`)
  timeline.close()
  error = new Error('broken')
  t.throws(() => timeline.seek(2 * REPLAY_CANCEL_EPOCHS), { message: 'broken' })
  t.equal(timeline.epoch, undefined, 'after another error it holds nothing')
})

t.test('it looks up after some time as well, counted from the last time', async (t) => {
  const epochs = 6 * REPLAY_CANCEL_MS
  const long = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u32', shape: [1] })
    while (bus.epoch < epochs) await bus.patch('x', { values: [bus.epoch] })
  })
  const pauses: number[] = []
  const { timeline } = stepping(long, { onPause: (epoch) => pauses.push(epoch) })
  const { now } = performance
  let nowMs = 0
  performance.now = () => nowMs++
  try {
    timeline.seek(epochs)
  } finally {
    performance.now = now
  }
  timeline.close()
  // Whatever else asks for the time makes it go faster.
  t.ok(pauses.length >= 3, `pauses at ${pauses}`)
  t.ok(
    pauses.every((epoch, i) => epoch - (pauses[i - 1] ?? 0) >= REPLAY_CANCEL_MS / 4),
    `pauses at ${pauses}`,
  )
})

t.test('a state that is handed over is not closed', async (t) => {
  const { timeline, reads } = stepping(story)
  t.throws(() => timeline.release(), { code: 'INTERNAL' })
  timeline.seek(4)
  const { registry, context } = timeline.release()
  t.equal(timeline.epoch, undefined)
  timeline.close()
  t.equal(hex(context.stateDigest()), story.epochs[4]!.digest)
  t.same(registry.byName('a')?.version, 4)
  context.close()
  reads()
  timeline.seek(3)
  t.equal(reads(), '1..3')
  isAt(t, timeline, 3)
  timeline.close()
})
