/** When an epoch waits for the writers of the one before, and for how long. */
import t from 'tap'
import { GroupCommit } from '../../../src/engine/commit/group-commit.js'
import { PACE_PAUSE_MAX_EPOCHS, PACE_WAIT_MAX_MS, PACE_WAIT_OF_APPEND } from '../../../src/limits.js'

t.test('who writes alone never waits', async (t) => {
  const pace = new GroupCommit()
  for (let epoch = 0; epoch < 100; epoch++) {
    t.notOk(pace.shouldWait(1, epoch))
    pace.published(1, 1, 0, epoch)
    t.notOk(pace.shouldWait(1, epoch))
  }
})

t.test(
  'those who take turns are waited for, until they are all there or most of a sync has gone by',
  async (t) => {
    const pace = new GroupCommit()
    pace.published(1, 5, 5, 100)
    t.ok(pace.shouldWait(5, 100))
    t.ok(pace.shouldWait(9, 100 + PACE_WAIT_OF_APPEND - 0.01))
    t.notOk(pace.shouldWait(10, 100.1), 'all are there')
    t.notOk(pace.shouldWait(3, 100.2), 'decided once an epoch')
    pace.published(1, 10, 0, 102)
    t.ok(pace.shouldWait(1, 102.5))
    t.notOk(pace.shouldWait(9, 102 + PACE_WAIT_OF_APPEND), 'not all came in time')
    const slow = new GroupCommit()
    slow.published(1000, 2, 0, 0)
    t.ok(slow.shouldWait(1, PACE_WAIT_MAX_MS - 0.01))
    t.notOk(slow.shouldWait(1, PACE_WAIT_MAX_MS), 'however slow the disk is')
  },
)

t.test('waiting in vain is tried less and less often, and again when it helps', async (t) => {
  const pace = new GroupCommit()
  const waits: number[] = []
  let atMs = 0
  for (let epoch = 0; epoch < 4 * PACE_PAUSE_MAX_EPOCHS; epoch++) {
    atMs += 10
    pace.published(1, 4, 4, atMs)
    if (pace.shouldWait(4, atMs)) waits.push(epoch)
    t.notOk(pace.shouldWait(4, atMs + 5))
  }
  const gaps = waits.slice(1).map((epoch, i) => epoch - waits[i]!)
  t.same(gaps.slice(0, 5), [2, 3, 5, 9, 17])
  t.equal(Math.max(...gaps), PACE_PAUSE_MAX_EPOCHS + 1)
  for (let epoch = 0; epoch <= PACE_PAUSE_MAX_EPOCHS; epoch++) {
    atMs += 10
    pace.published(1, 4, 4, atMs)
    t.notOk(pace.shouldWait(8, atMs))
  }
  atMs += 10
  pace.published(1, 4, 4, atMs)
  t.ok(pace.shouldWait(4, atMs), 'the last try found all of them')
})
