/** Which state answers a request: one that holds what is asked for, near, and its caller's own. */
import t from 'tap'
import { Timelines, type Wanted } from '../../../../src/engine/history/cones/timelines.js'
import type { Timeline } from '../../../../src/engine/history/timeline.js'
import { REPLAY_NEAR_EPOCHS, REPLAY_STATES_MAX, REPLAY_STATES_OF_CALLER } from '../../../../src/limits.js'
import { pastOf } from '../../../lib/past.js'

const PAGES = 14
const BYTES = 4_000
const LAST = PAGES + 40

/** Epochs 1 to 14 make p1 to p14, then each epoch writes one of them. */
const past = await pastOf(t, async (bus) => {
  for (let i = 1; i <= PAGES; i++) await bus.create(`p${i}`, { dtype: 'u8', shape: [BYTES] })
  for (let i = PAGES + 1; i <= LAST; i++) await bus.patch(`p${1 + (i % PAGES)}`, { values: [i] })
})

class Bench {
  readonly timelines: Timelines

  constructor(quotaBytes?: number) {
    const quota = quotaBytes === undefined ? {} : { quotaBytes }
    this.timelines = new Timelines({ reader: past.reader, onPause: () => {}, ...quota })
  }

  /** The state for these pages, moved to the epoch. */
  at(epoch: number, wanted: Wanted | string[], caller = 1): Timeline {
    const asked = Array.isArray(wanted) ? { names: wanted } : wanted
    const timeline = this.timelines.get({ caller, wanted: asked, from: epoch, to: epoch })
    timeline.seek(epoch)
    return timeline
  }
}

const holds = (timeline: Timeline): string[] => [...timeline.registry.names()].sort()

t.test('a caller goes on with its own state', async (t) => {
  const b = new Bench()
  const first = b.at(20, ['p1'])
  t.same(holds(first), ['p1'])
  t.equal(b.at(50, ['p1']), first)
  t.equal(b.at(21, ['p1']), first)
  const all = b.at(30, 'all')
  t.not(all, first)
  t.equal(all.registry.size, PAGES)
  t.equal(b.at(40, 'all'), all)
  b.timelines.trim(true)
})

t.test('one at the very epoch answers everyone whom its pages suffice', async (t) => {
  const b = new Bench()
  const all = b.at(30, 'all')
  t.equal(b.at(30, ['p3'], 2), all)
  t.equal(b.at(30, ['p4'], 3), all)
  const one = b.at(35, ['p3'], 2)
  t.not(one, all)
  t.not(b.at(35, ['p4'], 3), one, 'it does not hold p4')
})

t.test('a near one that is no larger is shared, a farther one or a larger one is not', async (t) => {
  const b = new Bench()
  const one = b.at(30, ['p1'])
  t.equal(b.at(30 + REPLAY_NEAR_EPOCHS, ['p1'], 2), one)
  t.equal(b.at(30, ['p1'], 2), one, "it is the other one's now")
  t.not(b.at(31 + REPLAY_NEAR_EPOCHS, ['p1'], 3), one)
  const c = new Bench()
  const two = c.at(30, ['p1', 'p2'])
  t.not(c.at(31, ['p1'], 2), two, 'more pages make every epoch dearer')
  t.equal(c.at(32, ['p2', 'p1'], 3), two)
})

t.test('pages that did not exist yet can join a state', async (t) => {
  const b = new Bench()
  const early = b.at(3, ['p1'])
  t.same(holds(early), ['p1'])
  t.equal(b.at(6, ['p1', 'p5']), early)
  t.same(holds(early), ['p1', 'p5'])
  t.not(b.at(8, ['p2']), early, 'one that existed cannot')
})

t.test('a caller that reads many cones gets one that holds several', async (t) => {
  const b = new Bench()
  const states = Array.from({ length: REPLAY_STATES_OF_CALLER }, (_, i) => b.at(20 + i, [`p${i + 1}`]))
  t.equal(new Set(states).size, REPLAY_STATES_OF_CALLER)
  const joint = b.at(40, ['p9'])
  t.notOk(states.includes(joint))
  t.same(
    holds(joint),
    ['p9', `p${REPLAY_STATES_OF_CALLER}`].sort(),
    'with the pages of the one that it replaces',
  )
  t.equal(states.at(-1)!.epoch, undefined, 'which is closed')
  t.equal(states[0]!.epoch, 20, 'the other one is not')
  t.equal(b.at(45, [`p${REPLAY_STATES_OF_CALLER}`]), joint)
})

t.test('so many states, the one used longest ago goes first', async (t) => {
  const b = new Bench()
  const states = Array.from({ length: REPLAY_STATES_MAX }, (_, i) => b.at(20 + i, [`p${i + 1}`], i + 1))
  t.equal(new Set(states).size, REPLAY_STATES_MAX)
  t.same(
    states.map(({ epoch }) => epoch),
    states.map((_, i) => 20 + i),
  )
  b.at(20, ['p1'], 1)
  const more = b.at(50, ['p10'], 99)
  t.equal(states[0]!.epoch, 20, 'it was used again')
  t.equal(states[1]!.epoch, undefined)
  t.same(holds(more), ['p10'])
})

t.test('together they hold no more than the quota', async (t) => {
  const b = new Bench(2 * BYTES)
  const [one, two] = [b.at(20, ['p1'], 1), b.at(30, ['p2'], 2)]
  t.same([one.epoch, two.epoch], [20, 30])
  const three = b.at(40, ['p3'], 3)
  t.same([one.epoch, two.epoch, three.epoch], [undefined, 30, 40])
  const large = b.at(45, ['p4', 'p5', 'p6'].slice(0, 2), 4)
  t.same([two.epoch, three.epoch, large.epoch], [undefined, undefined, 45])
})

t.test('where there is no room, one that suffices is lent', async (t) => {
  const b = new Bench(BYTES)
  const one = b.at(20, ['p1'], 1)
  t.equal(b.at(50, ['p1'], 2), one)
  t.equal(one.epoch, 50)
})

t.test('between requests, what is large goes, but for the one used last', async (t) => {
  const b = new Bench(16 * BYTES)
  const states = [1, 2, 3, 4, 5].map((i) => b.at(20 + 6 * i, [`p${i}`], i))
  b.timelines.trim(false)
  t.same(
    states.map(({ epoch }) => epoch !== undefined),
    [false, true, true, true, true],
    'a quarter stays',
  )
  const whole = b.at(30, 'all', 9)
  b.timelines.trim(false)
  t.equal(whole.epoch, 30, 'its caller may go on')
  t.ok(states.every(({ epoch }) => epoch === undefined))
  b.timelines.trim(true)
  t.equal(whole.epoch, undefined, 'nobody asks any more')
  const small = b.at(20, ['p1'])
  b.timelines.trim(true)
  t.equal(small.epoch, 20)
})

t.test('a test of names is asked for once, while the state is where it was left', async (t) => {
  const b = new Bench()
  let count = 0
  const matching = (key: string): Wanted => ({
    key,
    matches: (name) => {
      count++
      return name === 'p1' || name === 'p2'
    },
  })
  const state = b.at(20, matching('k'))
  t.same(holds(state), ['p1', 'p2'])
  const asked = count
  t.equal(b.at(20, matching('k')), state)
  t.equal(count, asked)
  t.equal(b.at(20, matching('other')), state)
  t.ok(count > asked, 'another test may match others')
})

t.test('pages that come later are held too where they are known', async (t) => {
  const { timelines } = new Bench()
  const wanted = { names: ['p1', 'p5', 'p9'] }
  const state = timelines.get({ caller: 1, wanted, from: 2, to: 6, ahead: 8 })
  state.seek(2)
  t.same(holds(state), ['p1'])
  state.seek(6)
  t.same(holds(state), ['p1', 'p5'])
  t.equal(timelines.get({ caller: 1, wanted, from: 6, to: 10 }), state)
  state.seek(10)
  t.same(holds(state), ['p1', 'p5', 'p9'])
})
