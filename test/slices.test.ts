/** Long works share the turns of the event loop. */
import t from 'tap'
import { atNextSlice, atOnce, type Sliced, Slices } from '../src/slices.js'

const STEP_MS = 5
const STEPS = 12

/** Computes for a while between its yields. */
function* work(done: () => void): Sliced<number> {
  for (let i = 0; i < STEPS; i++) {
    const endMs = performance.now() + STEP_MS
    while (performance.now() < endMs);
    done()
    yield
  }
  return STEPS
}

t.test('many works take turns, one slice in a turn of the event loop', async (t) => {
  const works = 8
  const steps = Array<number>(works).fill(0)
  let inTurn = new Set<number>()
  let most = 0
  let apart = 0
  let isOver = false
  const count = (): void => {
    // The first slices are not asked for.
    if (steps.every((done) => done > 1)) most = Math.max(most, inTurn.size)
    inTurn = new Set()
    if (!isOver) setImmediate(count)
  }
  const results = Promise.all(
    steps.map(async (_, i) => {
      return new Slices(undefined, undefined, STEP_MS).run(
        work(() => {
          steps[i]!++
          inTurn.add(i)
          const others = steps.filter((_, other) => other !== i)
          if (steps[i]! < STEPS) apart = Math.max(apart, steps[i]! - Math.min(...others))
        }),
      )
    }),
  )
  setImmediate(count)
  t.same(await results, Array(works).fill(STEPS))
  isOver = true
  t.ok(most <= 4, `${most} works in one turn`)
  t.ok(apart <= 3, `one work is ${apart} steps ahead of another`)
})

t.test('short slices share a turn, in the order in which they asked', async (t) => {
  const order: number[] = []
  let turns = 0
  let isOver = false
  const count = (): void => {
    turns++
    if (!isOver) setImmediate(count)
  }
  setImmediate(count)
  await new Promise<void>((resolve) => {
    for (let i = 0; i < 100; i++) {
      atNextSlice(() => {
        order.push(i)
        if (order.length === 100) resolve()
      })
    }
  })
  isOver = true
  t.same(
    order,
    Array.from({ length: 100 }, (_, i) => i),
  )
  t.ok(turns <= 20, `${turns} turns`)
})

t.test('an aborted signal ends a work where it is', async (t) => {
  const end = new AbortController()
  let steps = 0
  const running = new Slices(end.signal, undefined, STEP_MS).run(
    work(() => {
      if (++steps === 3) end.abort(new Error('enough'))
    }),
  )
  await t.rejects(running, { message: 'enough' })
  t.ok(steps <= 4, `${steps} steps`)
  t.equal(atOnce(work(() => {})), STEPS)
})
