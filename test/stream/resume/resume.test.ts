/**
 * Resuming from an old epoch on a real bus: the log returns what was published, and catching up loses and
 * repeats nothing while commits run.
 */

import t from 'tap'
import { Bus } from '../../../src/index.js'
import { hubOf } from '../../../src/stream/hub.js'
import type { Change } from '../../../src/stream/subscribe.js'
import { randomFrom } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'

const openBus = (dataDir: string): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off' })

/**
 * One random commit: changes values, some to what they were; creates or deletes a page; redefines a function.
 */
async function step(bus: Bus, random: (below: number) => number): Promise<void> {
  const dice = random(20)
  if (dice === 0) {
    await bus.create(`p.${random(1e9)}`, { dtype: 'u64', shape: [1 + random(3)], fill: 7 })
  } else if (dice === 1) {
    const [name] = bus.pageNames().filter((other) => other.startsWith('p.'))
    // Two steps at once may choose the same page.
    if (name !== undefined) await bus.delete(name).catch(() => {})
  } else if (dice === 2) {
    await bus.defineFunction('f', { params: ['x'], expr: `x * ${random(3)}` })
  } else if (dice < 6) {
    await bus.transact({
      ops: [
        { page: 'a', indices: [random(64), random(64)], values: [random(3), random(3)] },
        { page: 'b', offset: random(4), values: [random(5) / 2], merge: 'add' },
      ],
    })
  } else {
    await bus.patch('a', { offset: random(60), values: [random(3), random(3), random(3)] })
  }
}

async function build(bus: Bus): Promise<void> {
  await bus.create('a', { dtype: 'i32', shape: [8, 8] })
  await bus.create('b', { dtype: 'f64', shape: [4] })
  await bus.derive('rows', { op: 'reduce', inputs: { x: 'a' }, fn: 'sum', axes: [1] })
  await bus.derive('max', { op: 'reduce', inputs: { x: 'rows' }, fn: 'max' })
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' })
  await bus.derive('mapped', { op: 'map', inputs: { x: 'rows', b: 'max' }, expr: 'f(x) + b' })
  await bus.derive('ema', { op: 'map', inputs: { x: 'b' }, expr: 'x * 0.5 + prev(x) * 0.5' })
}

/** Reads until the epoch arrives, then leaves. That epoch changes every page. */
async function readUntil(bus: Bus, from: number, pages: readonly string[], last: number): Promise<Change[]> {
  const got: Change[] = []
  for await (const change of bus.subscribe({ pages, from })) {
    if (change.epoch < last) got.push(change)
    if (change.epoch >= last) break
  }
  return got
}

/** An epoch that every subscriber receives. */
async function mark(bus: Bus): Promise<number> {
  await bus.create(`end.${bus.epoch}`, { dtype: 'u8', shape: [1] })
  return bus.epoch
}

t.test('the log gives back every epoch as it was published, over checkpoints and restarts', async (t) => {
  const dataDir = folder(t)
  const random = randomFrom(3)
  const live: Change[] = []
  let last = 0
  for (let run = 0; run < 4; run++) {
    const bus = await openBus(dataDir)
    const recorder = bus.subscribe({ pages: ['*'] })
    if (run === 0) await build(bus)
    for (let i = 0; i < 80; i++) {
      await step(bus, random)
      if (i === 40 && run % 2 === 1) await bus.checkpoint()
    }
    last = await mark(bus)
    for await (const change of recorder) {
      live.push(change)
      if (change.epoch === last) break
    }
    if (run === 3) {
      const all = await readUntil(bus, 0, ['*'], last)
      t.same(all, live.slice(0, -1), 'from the beginning')
      for (const from of [1, 40, last / 3, last / 2, last - 90, last - 30].map(Math.floor)) {
        t.same(
          await readUntil(bus, from, ['*'], last),
          live.filter(({ epoch }) => epoch > from && epoch < last),
          `from ${from}`,
        )
      }
    }
    await bus.close()
  }
})

t.test('readers that start anywhere while commits run get what a live reader gets', async (t) => {
  const bus = await openBus(folder(t))
  t.teardown(() => bus.close())
  await build(bus)
  const random = randomFrom(5)
  const recorder = bus.subscribe({ pages: ['*'], from: 0 })
  const late: { from: number; pages: readonly string[]; got: Promise<Change[]> }[] = []
  const rounds = Number(process.env.MMSB_RESUME_ROUNDS ?? 400)
  const start = (from: number, pages: readonly string[]): void => {
    const subscription = bus.subscribe({ pages, from })
    const got = (async () => {
      const changes: Change[] = []
      for await (const change of subscription) {
        changes.push(change)
        if (change.changes.some(({ page }) => page === 'end.of.all')) break
        if (random(40) === 0) await new Promise((resolve) => setTimeout(resolve, random(20)))
      }
      return changes
    })()
    late.push({ from, pages, got })
  }
  for (let i = 0; i < rounds; i++) {
    await Promise.all(Array.from({ length: 1 + random(3) }, () => step(bus, random)))
    if (random(12) > 0) continue
    const near = Math.max(0, bus.epoch - random(20))
    start(random(2) === 0 ? near : random(bus.epoch + 1), random(2) === 0 ? ['*'] : ['end.*', 'max', 'b'])
  }
  await bus.create('end.of.all', { dtype: 'u8', shape: [1] })
  const all: Change[] = []
  for await (const change of recorder) {
    all.push(change)
    if (change.changes.some(({ page }) => page === 'end.of.all')) break
  }
  for (const { from, pages, got } of late) {
    const wanted = all
      .filter(({ epoch }) => epoch > from)
      .map((change) => ({
        ...change,
        changes: change.changes.filter(
          ({ page }) => pages[0] === '*' || page.startsWith('end.') || page === 'max' || page === 'b',
        ),
      }))
      .filter(({ changes }) => changes.length > 0)
    t.same(await got, wanted, `${pages} from ${from}`)
  }
  t.match(hubOf(bus).stats(), { subscriptions: 0 })
})

t.test('who takes the latest gets what he missed as one', async (t) => {
  const bus = await openBus(folder(t))
  t.teardown(() => bus.close())
  await build(bus)
  const from = bus.epoch
  for (let i = 1; i <= 50; i++) await bus.patch('b', { offset: i % 3, values: [i] })
  const subscription = bus.subscribe({ pages: ['b'], from, policy: 'latest' })
  const { value } = await subscription.next()
  t.match(value, { first: from + 1, epoch: from + 50 })
  t.same(value.changes, [
    {
      page: 'b',
      kind: 'source',
      dtype: 'f64',
      shape: [4],
      ranges: [[0, 3]],
      values: Float64Array.of(48, 49, 50),
    },
  ])
  await bus.patch('b', { offset: 3, values: [9] })
  t.match((await subscription.next()).value, { first: from + 51, epoch: from + 51 })
  await subscription.return?.()
})

t.test('a bus in memory resumes from memory, and says so when it cannot', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'u8', shape: [4] })
  const first = bus.subscribe({ pages: ['a'] })
  await bus.patch('a', { values: [1] })
  await bus.patch('a', { values: [2] })
  await first.return?.()
  await bus.patch('a', { values: [3] })
  const again = bus.subscribe({ pages: ['a'], from: 2 })
  const epochs = [(await again.next()).value, (await again.next()).value].map(
    ({ epoch, changes }: Change) => [epoch, changes[0]?.values?.[0]],
  )
  t.same(epochs, [
    [3, 2],
    [4, 3],
  ])
  await t.rejects(bus.subscribe({ pages: ['a'], from: 0 }).next(), {
    code: 'EPOCH_COMPACTED',
    extra: { minEpoch: 4 },
  })
  await again.return?.()
})
