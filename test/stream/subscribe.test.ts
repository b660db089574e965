/** The async iterator of the library, over a real bus. */
import t, { type Test } from 'tap'
import { Bus } from '../../src/index.js'
import { STREAM_QUEUE_MAX_BYTES } from '../../src/limits.js'
import { hubOf } from '../../src/stream/hub.js'
import type { Change } from '../../src/stream/subscribe.js'

async function open(t: Test): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('prices', { dtype: 'f32', shape: [5] })
  await bus.derive('twice', { op: 'map', inputs: { p: 'prices' }, expr: 'p*2' })
  return bus
}

t.test('changes come in order, with typed arrays; break ends the subscription', async (t) => {
  const bus = await open(t)
  const subscription = bus.subscribe({ pages: ['twice'] })
  for (let i = 1; i <= 3; i++) await bus.patch('prices', { offset: i, values: [i] })
  const got: Change[] = []
  for await (const change of subscription) {
    got.push(change)
    if (got.length === 3) break
  }
  t.same(
    got.map(({ epoch, first, type }) => [epoch, first, type]),
    [
      [3, 3, 'change'],
      [4, 4, 'change'],
      [5, 5, 'change'],
    ],
  )
  t.same(got[0]?.changes, [
    {
      page: 'twice',
      kind: 'derived',
      dtype: 'f32',
      shape: [5],
      ranges: [[1, 1]],
      values: Float32Array.of(2),
    },
  ])
  t.match(hubOf(bus).stats(), { connections: 0, subscriptions: 0, topics: 0 })
  t.same(await subscription.next(), { done: true, value: undefined })
})

t.test('a reader who waits gets what comes; two readers share one array', async (t) => {
  const bus = await open(t)
  const [one, two] = [bus.subscribe({ pages: ['*'] }), bus.subscribe({ pages: ['*'] })]
  const waiting = Promise.all([one.next(), two.next()])
  await bus.patch('prices', { values: [1] })
  const [a, b] = await waiting
  t.equal(a.value, b.value)
  await one.return?.()
  await two.return?.()
})

t.test('a snapshot first', async (t) => {
  const bus = await open(t)
  await bus.patch('prices', { values: [1, 2, 3, 4, 5] })
  const subscription = bus.subscribe({ pages: ['*'], from: 'snapshot' })
  await bus.patch('prices', { values: [9] })
  const { value: snapshot } = await subscription.next()
  t.match(snapshot, { type: 'snapshot', epoch: 3 })
  t.same(
    snapshot.changes.map(({ page, ranges, values }: Change['changes'][number]) => [page, ranges, values]),
    [
      ['prices', [[0, 5]], Float32Array.of(1, 2, 3, 4, 5)],
      ['twice', [[0, 5]], Float32Array.of(2, 4, 6, 8, 10)],
    ],
  )
  t.match((await subscription.next()).value, { type: 'change', epoch: 4 })
  await subscription.return?.()
})

t.test('ranges or names alone', async (t) => {
  const bus = await open(t)
  const ranges = bus.subscribe({ pages: ['prices'], data: 'ranges' })
  const names = bus.subscribe({ pages: ['prices'], data: 'none' })
  await bus.patch('prices', { values: [1] })
  const page = { page: 'prices', kind: 'source', dtype: 'f32', shape: [5] }
  t.same((await ranges.next()).value.changes, [{ ...page, ranges: [[0, 1]] }])
  t.same((await names.next()).value.changes, [page])
  await ranges.return?.()
  await names.return?.()
})

t.test('a slow reader: lossless ends with where to resume, latest folds', async (t) => {
  const bus = await open(t)
  const elements = 1024 * 1024
  await bus.create('big', { dtype: 'u8', shape: [elements] })
  const lossless = bus.subscribe({ pages: ['big'] })
  const latest = bus.subscribe({ pages: ['big'], policy: 'latest' })
  const from = bus.epoch
  const commits = STREAM_QUEUE_MAX_BYTES / elements + 4
  for (let i = 1; i <= commits; i++) await bus.write('big', new Uint8Array(elements).fill(i))
  const epochs: number[] = []
  const error: unknown = await (async () => {
    for await (const { epoch } of lossless) epochs.push(epoch)
  })().catch((cause: unknown) => cause)
  t.match(error, { code: 'OVERLOADED', extra: { resumeFrom: from + epochs.length } })
  t.same(
    epochs,
    Array.from({ length: epochs.length }, (_, i) => from + 1 + i),
    'what was queued came, without gaps',
  )
  t.ok(epochs.length >= commits - 4 && epochs.length < commits)
  const first = (await latest.next()).value
  t.match(first, { first: from + 1, epoch: from + 1 })
  const rest = (await latest.next()).value
  t.match(rest, { first: from + 2, epoch: from + commits })
  t.equal(rest.changes[0].values[0], commits)
  await latest.return?.()
})

t.test('changes without values fill a queue as well', async (t) => {
  const bus = await open(t)
  const names = Array.from({ length: 2_000 }, (_, i) => `p${i}`)
  await bus.createMany(names.map((name) => ({ name, definition: { dtype: 'u8', shape: [1] } })))
  const subscription = bus.subscribe({ pages: ['p*'], data: 'none' })
  const from = bus.epoch
  for (let i = 1; i <= 100; i++) await bus.transact({ ops: names.map((page) => ({ page, values: [i] })) })
  let count = 0
  const error: unknown = await (async () => {
    for await (const { epoch } of subscription) {
      count = epoch - from
      if (count === 100) break
    }
  })().catch((cause: unknown) => cause)
  t.match(error, { code: 'OVERLOADED', extra: { resumeFrom: from + count } })
  t.ok(count > 0 && count < 100, `${count} epochs were queued`)
})

t.test('a reader that is behind by a little misses nothing, however much comes in the end', async (t) => {
  const bus = await open(t)
  const size = STREAM_QUEUE_MAX_BYTES / 4
  await bus.create('big', { dtype: 'u8', shape: [size] })
  const subscription = bus.subscribe({ pages: ['big'], policy: 'lossless' })
  for (let i = 1; i <= 6; i++) {
    const { epoch } = await bus.write('big', new Uint8Array(size).fill(i))
    t.match(await subscription.next(), { value: { epoch } }, `change ${i}`)
  }
})

t.test('bad options are refused at once, a past epoch by the first next', async (t) => {
  const bus = await open(t)
  t.throws(() => bus.subscribe({ pages: [] }), { code: 'INVALID_REQUEST' })
  t.throws(() => bus.subscribe({ pages: ['a b'] }), { code: 'INVALID_REQUEST' })
  t.throws(() => bus.subscribe({ pages: ['*'], maxRate: Number.NaN }), { code: 'INVALID_REQUEST' })
  t.throws(() => bus.subscribe({ pages: ['*'], from: 99 }), { code: 'EPOCH_NOT_FOUND' })
  await t.rejects(bus.subscribe({ pages: ['*'], from: 1 }).next(), {
    code: 'EPOCH_COMPACTED',
    extra: { minEpoch: 2 },
  })
  t.match(hubOf(bus).stats(), { connections: 0 })
})

t.test('closing the bus ends the iterators', async (t) => {
  const bus = await open(t)
  const subscription = bus.subscribe({ pages: ['*'] })
  const waiting = subscription.next()
  await bus.close()
  t.same(await waiting, { done: true, value: undefined })
})
