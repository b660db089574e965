/**
 * Callers share the past: they take turns, their requests are bounded, and nobody waits for a verification.
 */
import t, { type Test } from 'tap'
import { Bus } from '../../../src/index.js'
import { folder } from '../../lib/folder.js'

type Limits = NonNullable<NonNullable<Parameters<typeof Bus.open>[0]>['limits']>

/** A bus whose every epoch takes some milliseconds to replay. */
async function slowBus(t: Test, epochs: number, limits: Limits = {}): Promise<Bus> {
  const bus = await Bus.open({ dataDir: folder(t), backend: 'cpu', threads: 1, fsync: 'off', limits })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'f64', shape: [160, 160], fill: 1 })
  await bus.derive('m', { op: 'matmul', inputs: { a: 'x', b: 'x' } })
  for (let i = 0; i < epochs; i++)
    await bus.patch('x', { offset: 0, values: new Float64Array(25_600).fill(i) })
  return bus
}

/** The code of the error, or 'answered'. */
const outcomeOf = (request: Promise<unknown>): Promise<string> =>
  request.then(
    () => 'answered',
    (error: { code: string }) => error.code,
  )

t.test('one caller with many requests delays another by one request', async (t) => {
  const bus = await slowBus(t, 20, { maxPastRequestsPerConnection: 1_000 })
  let served = 0
  const crowd = {}
  const many = Array.from({ length: 24 }, (_, i) =>
    bus.data('m', { epoch: i % 2 === 0 ? 3 : 21, caller: crowd }).then(() => {
      served++
    }),
  )
  await bus.data('x', { epoch: 10, caller: 'polite' })
  t.ok(served <= 3, `${served} requests of the crowd came first`)
  await Promise.all(many)
})

t.test('waiting requests are bounded, in all and of each caller', async (t) => {
  const bus = await slowBus(t, 5, { maxPastRequests: 8, maxPastRequestsPerConnection: 3 })
  const ask = (caller?: object | string): Promise<string> =>
    outcomeOf(bus.data('m', { epoch: 4, ...(caller === undefined ? {} : { caller }) }))
  const [a, b] = [{}, 'b']
  const running = ask('first')
  const ofA = [ask(a), ask(a), ask(a), ask(a)]
  const ofB = [ask(b), ask(b), ask(b), ask(b)]
  const ofProgram = [ask(), ask(), ask(), ask()]
  t.same(await Promise.all(ofA), ['answered', 'answered', 'answered', 'OVERLOADED'])
  t.same(await Promise.all(ofB), ['answered', 'answered', 'answered', 'OVERLOADED'])
  t.same(await Promise.all(ofProgram), ['answered', 'answered', 'OVERLOADED', 'OVERLOADED'])
  t.equal(await running, 'answered')
  const refusals = new Map(bus.limits.refusals())
  t.equal(refusals.get('maxPastRequestsPerConnection'), 2)
  t.equal(refusals.get('maxPastRequests'), 2)
})

t.test('a caller that leaves takes its waiting requests along', async (t) => {
  const bus = await slowBus(t, 30, { maxPastRequests: 4 })
  const running = outcomeOf(bus.data('m', { epoch: 30 }))
  const controller = new AbortController()
  const waiting = Array.from({ length: 4 }, () =>
    outcomeOf(bus.data('m', { epoch: 29, signal: controller.signal, caller: controller })),
  )
  t.equal(await outcomeOf(bus.data('m', { epoch: 29 })), 'OVERLOADED')
  controller.abort()
  t.same(await Promise.all(waiting), Array(4).fill('INVALID_REQUEST'))
  t.equal(await outcomeOf(bus.data('m', { epoch: 29 })), 'answered')
  t.equal(await running, 'answered')
})

t.test('a replay has a time limit, and the next try goes on from there', async (t) => {
  const bus = await slowBus(t, 60, { maxReplayTimeMs: 40 })
  const { epoch } = bus
  await t.rejects(bus.data('m', { epoch: epoch - 1 }), {
    code: 'COST_EXCEEDED',
    extra: { limitMs: 40, limit: '--max-replay-time' },
  })
  let tries = 1
  while ((await outcomeOf(bus.data('m', { epoch: epoch - 1 }))) === 'COST_EXCEEDED' && tries < 200) tries++
  t.equal((await bus.data('m', { epoch: epoch - 1 })).values[0], 160 * 58 * 58)
  t.match(await bus.verify(), { ok: true }, 'a verification has no such limit')
})

t.test('reads do not wait for verifications, and these end with their caller', async (t) => {
  const bus = await slowBus(t, 90)
  const controller = new AbortController()
  const order: string[] = []
  const verifications = [1, 2, 3].map((i) =>
    outcomeOf(bus.verify({}, { signal: controller.signal, caller: `v${i}` })).then((outcome) => {
      order.push(outcome)
    }),
  )
  await bus.data('x', { epoch: 4 })
  order.push('read')
  controller.abort()
  await Promise.all(verifications)
  // The first verification may be done before the read on a busy machine; the others wait their turn.
  t.ok(order.indexOf('read') <= 1, order.join(' '))
  t.same(order.slice(2), ['INVALID_REQUEST', 'INVALID_REQUEST'])
})

t.test('past changes come as they are replayed, to all readers in turn', async (t) => {
  const bus = await slowBus(t, 90)
  const query = { to: bus.epoch, pages: ['m'], values: false }
  await bus.pastChanges({ ...query, after: 0, to: 1 }, { caller: 'warm' })
  const pieces: string[] = []
  const read = async (name: string, after: number): Promise<number[]> => {
    const epochs: number[] = []
    for (let at = after; at < query.to; ) {
      const piece = await bus.pastChanges({ ...query, after: at }, { caller: name })
      at = piece.through
      epochs.push(...piece.epochs.map(({ epoch }) => epoch))
      if (piece.epochs.length > 0) pieces.push(name)
    }
    return epochs
  }
  const [early, late] = await Promise.all([read('early', 1), read('late', 40)])
  t.same(
    early,
    Array.from({ length: query.to - 1 }, (_, i) => i + 2),
  )
  t.same(
    late,
    Array.from({ length: query.to - 40 }, (_, i) => i + 41),
  )
  const counts = (name: string): number => pieces.filter((piece) => piece === name).length
  // How many pieces there are depends on the machine.
  t.ok(counts('early') >= 2 && counts('late') >= 1, `in pieces: ${pieces.join(' ')}`)
  t.ok(pieces.indexOf('late') < pieces.lastIndexOf('early'), `in turn: ${pieces.join(' ')}`)
})
