/** The anchor up to which the log may be removed, and the checkpoints that are kept. */
import fc from 'fast-check'
import t from 'tap'
import { anchorOf, type RetentionView, thinned } from '../../src/store/retention.js'

const DAY = 86_400_000

/** Ten segments of ten epochs, one per day, 1000 bytes each; the last is being written. */
const view = (changes: Partial<RetentionView>): RetentionView => ({
  limits: {},
  nowMs: 10 * DAY,
  newestEpoch: 100,
  segments: Array.from({ length: 10 }, (_, i) => ({
    firstEpoch: 1 + i * 10,
    lastEpoch: i === 9 ? Number.POSITIVE_INFINITY : 10 + i * 10,
    bytes: 1000,
    createdMs: i * DAY,
  })),
  checkpoints: [15, 35, 55, 75, 95],
  neededEpoch: undefined,
  ...changes,
})

t.test('each limit, and what holds it back', async (t) => {
  t.equal(anchorOf(view({})), undefined, 'no limit, nothing goes')
  t.equal(anchorOf(view({ limits: { maxEpochs: 50 } })), 35)
  t.equal(anchorOf(view({ limits: { maxEpochs: 1 } })), 75, 'not beyond the second newest checkpoint')
  t.equal(anchorOf(view({ limits: { maxBytes: 5500 } })), 35, 'five segments fit, the rest ends at epoch 50')
  t.equal(anchorOf(view({ limits: { maxBytes: 100_000 } })), undefined)
  t.equal(anchorOf(view({ limits: { maxAgeMs: 3.5 * DAY } })), 55, 'segments that ended before day 6.5')
  t.equal(anchorOf(view({ limits: { maxAgeMs: 30 * DAY } })), undefined)
  t.equal(anchorOf(view({ limits: { maxEpochs: 50, maxBytes: 2500 } })), 75, 'what any lets go may go')
  t.equal(anchorOf(view({ limits: { maxEpochs: 1 }, neededEpoch: 40 })), 35, 'a reader needs epoch 40')
  t.equal(anchorOf(view({ limits: { maxEpochs: 1 }, neededEpoch: 5 })), undefined)
  t.equal(
    anchorOf(view({ limits: { maxEpochs: 1 }, checkpoints: [95] })),
    undefined,
    'one checkpoint is none',
  )
  t.equal(anchorOf(view({ limits: { maxEpochs: 94 } })), undefined, 'no whole segment would go')
})

t.test('the boundaries of each limit', async (t) => {
  const anchor = (limits: RetentionView['limits'], changes: Partial<RetentionView> = {}) =>
    anchorOf(view({ limits, ...changes }))
  t.equal(anchor({ maxEpochs: 65 }), 35, 'the state of epoch 35 is kept')
  t.equal(anchor({ maxEpochs: 66 }), 15, 'and so is that of epoch 34')
  t.equal(anchor({ maxEpochs: 85 }), 15)
  t.equal(anchor({ maxEpochs: 86 }), undefined)
  t.equal(anchor({ maxEpochs: 0 }), 75)
  t.equal(anchor({ maxBytes: 5000 }), 35, 'as many bytes as there may be')
  t.equal(anchor({ maxBytes: 4999 }), 55)
  t.equal(anchor({ maxBytes: 8999 }), 15, 'epoch 20 is kept')
  t.equal(anchor({ maxBytes: 9000 }), undefined, 'epoch 10 is kept')
  t.equal(anchor({ maxBytes: 0 }), 75)
  t.equal(anchor({ maxAgeMs: 3 * DAY }), 55, 'a segment that ended as long ago as is kept')
  t.equal(anchor({ maxAgeMs: 3 * DAY - 1 }), 55)
  t.equal(anchor({ maxAgeMs: 4 * DAY }), 35, 'that of day 5 ended on day 6')
  t.equal(anchor({ maxAgeMs: 4 * DAY - 1 }), 55)
  t.equal(anchor({ maxAgeMs: 0 }, { nowMs: 10 * DAY }), 75)
  t.equal(anchor({ maxEpochs: 1 }, { neededEpoch: 75 }), 75)
  t.equal(anchor({ maxEpochs: 1 }, { neededEpoch: 74 }), 55)
  t.equal(anchor({ maxEpochs: 1 }, { neededEpoch: 99 }), 75)
})

t.test('only whole segments go, and never the last', async (t) => {
  const segments = view({}).segments
  const limits = { maxEpochs: 1 }
  t.equal(anchorOf(view({ limits, checkpoints: [10, 95] })), 10, 'the first segment ends with the anchor')
  t.equal(anchorOf(view({ limits, checkpoints: [9, 95] })), undefined, 'one epoch of it is needed')
  t.equal(anchorOf(view({ limits, segments: segments.slice(0, 1) })), undefined)
  t.equal(anchorOf(view({ limits, segments: segments.slice(0, 2) })), 75)
  t.equal(anchorOf(view({ limits, segments: [] })), undefined)
  t.equal(anchorOf(view({ limits, checkpoints: [] })), undefined)
})

t.test('of a few checkpoints, which one goes', async (t) => {
  t.same(thinned([1, 2, 3, 4], 3), [1, 3, 4])
  t.same(thinned([1, 2, 3], 1), [1, 2, 3])
  t.same(thinned([], 3), [])
  // What a checkpoint spans, against its distance from the newest: the least share goes.
  t.same(thinned([0, 40, 50, 90, 100], 4), [0, 50, 90, 100])
  t.same(thinned([0, 10, 50, 90, 100], 4), [0, 50, 90, 100])
  t.same(thinned([0, 50, 60, 90, 100], 4), [0, 50, 90, 100])
  t.same(thinned([0, 10, 20, 80, 90, 100], 5), [0, 20, 80, 90, 100])
  t.same(thinned([0, 60, 62, 64, 90, 100], 5), [0, 60, 64, 90, 100])
  t.same(thinned([0, 10, 12, 60, 80, 90, 100], 4), [0, 60, 90, 100])
})

t.test('checkpoints are thinned out, older ones more', async (t) => {
  const epochs = Array.from({ length: 1000 }, (_, i) => (i + 1) * 100)
  const kept = thinned(epochs, 32)
  t.equal(kept.length, 32)
  t.same([kept[0], ...kept.slice(-2)], [100, 99_900, 100_000])
  t.ok((kept[1] as number) < 30_000, `there are old ones: ${kept.join()}`)
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.nat(1e6), { maxLength: 80 }),
      fc.integer({ min: 1, max: 40 }),
      (list, count) => {
        const sorted = list.sort((a, b) => a - b)
        const left = thinned(sorted, count)
        return (
          left.length === Math.min(sorted.length, Math.max(3, count)) &&
          left.every((epoch) => sorted.includes(epoch)) &&
          left[0] === sorted[0] &&
          left.at(-1) === sorted.at(-1) &&
          left.at(-2) === sorted.at(-2)
        )
      },
    ),
  )
})
