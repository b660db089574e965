/** Which pages lived when, read from the log and from checkpoints, and no more of them than is needed. */
import t from 'tap'
import { PageLives } from '../../../../src/engine/history/cones/page-lives.js'
import { MmsbError } from '../../../../src/errors.js'
import { REPLAY_LIVES_JUMP_EPOCHS } from '../../../../src/limits.js'
import type { HistoryReader } from '../../../../src/store/history.js'
import { pastOf, spied, tellStory } from '../../../lib/past.js'

const past = await pastOf(t, async (bus) => {
  let made: Promise<unknown> | undefined
  bus.onCommit(({ epoch }) => {
    if (epoch === 12) made = bus.checkpoint()
  })
  await tellStory(bus)
  await made
})
const { epochs, reader } = past
const newest = epochs.length - 1
const [checkpoint] = reader.checkpointEpochs() as [number]

/** Lives that write down what they read. */
function livesOf(changes: Partial<HistoryReader> = {}) {
  const pauses: number[] = []
  const { reader: spy, reads } = spied(reader)
  Object.defineProperties(spy, Object.getOwnPropertyDescriptors(changes))
  const lives = new PageLives(spy, (epoch) => pauses.push(epoch))
  return { lives, pauses, reads }
}

/** Ids of the pages of a name that lived, were made or were deleted in from..to, as it was live. */
function expected(name: string, from: number, to: number): number[] {
  const ids = new Set<number>()
  for (let epoch = from; epoch <= to; epoch++) {
    const { pages, changes } = epochs[epoch]!
    if (pages[name] !== undefined) ids.add(pages[name].id)
    for (const { page, pageId } of changes) if (page === name) ids.add(pageId)
  }
  return [...ids].sort((a, b) => a - b)
}

const NAMES = ['a', 'b', 'c', 'd', 'e', 'none', 'step', 'nobody']

t.test('names in any range of epochs', async (t) => {
  const { lives } = livesOf()
  lives.cover(1, newest)
  for (let from = 0; from <= newest; from++) {
    for (let to = from; to <= newest; to += 3) {
      for (const name of NAMES)
        t.same(
          lives.named([name], from, to).sort((a, b) => a - b),
          expected(name, from, to),
          `${name} in ${from}..${to}`,
        )
    }
  }
  t.same(lives.named(['a', 'a', 'c'], 6, 6), [...expected('a', 6, 6), ...expected('c', 6, 6)], 'each once')
  const short = lives.matching((name) => name.length === 1, 13, 14).sort((a, b) => a - b)
  t.same(
    short,
    ['a', 'b', 'c', 'd'].flatMap((name) => expected(name, 13, 14)).sort((a, b) => a - b),
  )
})

t.test('what pages derive from, when they were made, and their bytes', async (t) => {
  const { lives } = livesOf()
  lives.cover(0, newest)
  const { a, b, step, c } = { ...epochs[8]!.pages }
  const { d } = { ...epochs[12]!.pages }
  t.same([...lives.withInputs([b!.id])], [b!.id, a!.id])
  t.same([...lives.withInputs([step!.id])], [step!.id, a!.id], 'its past is the page itself')
  t.same([...lives.withInputs([d!.id, a!.id])], [d!.id, a!.id, c!.id])
  t.same([...lives.withInputs([])], [])
  t.same(
    [a, b, d].map((page) => lives.createdEpoch(page!.id)),
    [1, 2, 10],
  )
  t.equal(lives.createdEpoch(9_999), 0)
  t.equal(lives.bytesOf([a!.id, c!.id, 9_999]), 24 + 32)
})

t.test('only records that are not known are read', async (t) => {
  const { lives, reads, pauses } = livesOf()
  t.equal(lives.through, -1)
  lives.cover(3, 5)
  t.equal(reads(), '1..5')
  t.same(pauses, [1, 2, 3, 4, 5])
  t.equal(lives.through, 5)
  const { version } = lives
  lives.cover(1, 4)
  lives.cover(5, 5)
  t.equal(reads(), '')
  t.equal(lives.version, version, 'nothing was added')
  lives.cover(0, 8)
  t.equal(reads(), '6..8')
  t.ok(lives.version > version)
  const known = lives.version
  lives.cover(8, 8)
  t.equal(lives.version, known)
})

t.test('from a checkpoint on, and from the beginning again for what came before it', async (t) => {
  const { lives, reads } = livesOf()
  lives.cover(checkpoint + 1, checkpoint + 3)
  t.equal(reads(), `checkpoint ${checkpoint} ${checkpoint + 1}..${checkpoint + 3}`)
  const { id } = epochs[checkpoint]!.pages.a!
  t.equal(lives.createdEpoch(id), 1, 'as the checkpoint says')
  t.same(lives.named(['a'], checkpoint, checkpoint), [id])
  const { version } = lives
  lives.cover(checkpoint, checkpoint)
  t.equal(reads(), '')
  lives.cover(checkpoint - 1, checkpoint)
  t.equal(reads(), `1..${checkpoint}`)
  t.ok(lives.version > version)
  t.same(lives.named(['b'], 2, 2), expected('b', 2, 2))
  t.equal(lives.through, checkpoint)
})

t.test('a damaged checkpoint is passed over', async (t) => {
  const { lives, reads } = livesOf({ checkpointPages: () => undefined })
  lives.cover(checkpoint + 1, checkpoint + 1)
  t.equal(reads(), `1..${checkpoint + 1}`)
})

t.test('what the log no longer has', async (t) => {
  const first = checkpoint + 1
  const { lives } = livesOf({ firstEpoch: first } as Partial<HistoryReader>)
  lives.cover(checkpoint, newest)
  t.same(lives.named(['a'], checkpoint, newest), expected('a', checkpoint, newest))
  t.throws(() => lives.cover(checkpoint - 1, newest), { code: 'EPOCH_COMPACTED' })
  t.throws(
    () => livesOf({ firstEpoch: 2, checkpointEpochs: () => [] } as Partial<HistoryReader>).lives.cover(5, 6),
    MmsbError,
  )
  let shrunkFirst = 1
  const shrunk = livesOf({
    get firstEpoch() {
      return shrunkFirst
    },
  } as Partial<HistoryReader>)
  shrunk.lives.cover(1, 3)
  shrunk.reads()
  shrunkFirst = first
  shrunk.lives.cover(checkpoint, checkpoint + 1)
  t.equal(
    shrunk.reads(),
    `checkpoint ${checkpoint} ${checkpoint + 1}..${checkpoint + 1}`,
    'it begins anew behind the gap',
  )
})

t.test('far ahead, a checkpoint is begun from, also one at the very epoch', async (t) => {
  const near = 3 + REPLAY_LIVES_JUMP_EPOCHS
  for (const [from, at, wanted] of [
    [near, near, `4..${near}`],
    [near + 1, near + 2, `4..${near + 1}`],
    [near + 1, near + 1, `checkpoint ${near + 1}`],
    [near + 2, near + 1, `checkpoint ${near + 1} ${near + 2}..${near + 2}`],
  ] as const) {
    const read: string[] = []
    let made: number[] = []
    const { lives } = livesOf({
      checkpointEpochs: () => made,
      checkpointPages: (epoch) => {
        read.push(`checkpoint ${epoch}`)
        return []
      },
      *records(from, to) {
        read.push(`${from}..${to}`)
        if (to === 3) yield* reader.records(from, to)
      },
    })
    lives.cover(1, 3)
    read.length = 0
    made = [at]
    lives.cover(from, from)
    t.equal(read.join(' '), wanted, `at ${from}, with checkpoint ${at}`)
  }
})
