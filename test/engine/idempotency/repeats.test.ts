/** Idempotency keys: a repeat gets the first answer, anything else under the key is refused. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parseCheckpointExtra } from '../../../src/engine/checkpoints/contents.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { Bus } from '../../../src/index.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { openCheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import { checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { folder } from '../../lib/folder.js'

async function open(t: Test, options: BusOptions = {}): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...options })
  t.teardown(() => bus.close())
  return bus
}

const refusal = (call: () => Promise<unknown>): Promise<unknown> =>
  (async () => call())().then(
    () => 'accepted',
    (error: unknown) => error,
  )

const SOURCE = { dtype: 'f32', shape: [4] } as const
const one = { values: [1] }
const mismatch = { code: 'IDEMPOTENCY_MISMATCH', status: 422 }

async function withPages(t: Test, options: BusOptions = {}): Promise<Bus> {
  const bus = await open(t, options)
  for (const name of ['a', 'b']) await bus.create(name, SOURCE)
  return bus
}

t.test('a key used again for something else is refused, and changes nothing', async (t) => {
  const bus = await withPages(t)
  const first = await bus.patch('a', { ...one, merge: 'add' }, { key: 'k' })
  const { epoch } = bus
  const others: [string, () => Promise<unknown>][] = [
    ['another page', () => bus.patch('b', { ...one, merge: 'add' }, { key: 'k' })],
    ['another value', () => bus.patch('a', { values: [2], merge: 'add' }, { key: 'k' })],
    ['another offset', () => bus.patch('a', { ...one, offset: 1, merge: 'add' }, { key: 'k' })],
    ['another merge', () => bus.patch('a', one, { key: 'k' })],
    ['the whole page', () => bus.write('a', [1, 2, 3, 4], { key: 'k' })],
    ['a wrong body', () => bus.patch('a', { values: [1], offset: 9 }, { key: 'k' })],
    ['a page that was never there', () => bus.patch('c', one, { key: 'k' })],
    [
      'a transaction of two pages',
      () =>
        bus.transact({
          ops: [
            { page: 'a', ...one },
            { page: 'b', ...one },
          ],
          key: 'k',
        }),
    ],
    ['an empty transaction', () => bus.transact({ ops: [], key: 'k' })],
    ['an intent', () => bus.transact({ ops: [{ page: 'a', ...one, merge: 'add' }], key: 'k', intent: 1 })],
  ]
  for (const [what, call] of others) t.match(await refusal(call), mismatch, what)
  t.equal(bus.epoch, epoch)
  t.same(await bus.patch('a', { ...one, merge: 'add' }, { key: 'k' }), first)
  const same = await bus.transact({ ops: [{ page: 'a', ...one, merge: 'add' }], key: 'k' })
  t.equal(same.epoch, first.epoch, 'the same delta in a transaction is the same write')
  t.same(bus.read('a'), new Float32Array([1, 0, 0, 0]))
})

t.test('a key in flight is compared too', async (t) => {
  const bus = await withPages(t)
  const first = bus.patch('a', one, { key: 'k' })
  const [other, same] = await Promise.all([
    refusal(() => bus.patch('b', one, { key: 'k' })),
    bus.patch('a', one, { key: 'k' }),
  ])
  t.match(other, mismatch)
  t.same(same, await first)
})

t.test('a page that is gone, or made anew: the first answer', async (t) => {
  const bus = await withPages(t)
  const first = await bus.patch('a', one, { key: 'k' })
  const both = {
    ops: [
      { page: 'a', ...one },
      { page: 'b', ...one },
    ],
    key: 'two',
  }
  const second = await bus.transact(both)
  await bus.delete('a')
  t.same(await bus.patch('a', one, { key: 'k' }), first)
  t.same(await bus.transact(both), second)
  t.match(await refusal(() => bus.patch('b', one, { key: 'k' })), mismatch)
  await bus.create('a', { dtype: 'u8', shape: [1] })
  t.same(await bus.patch('a', one, { key: 'k' }), first)
  t.same(bus.read('a'), new Uint8Array([0]))
})

t.test('a page deleted in the epoch of the write: the first answer', async (t) => {
  const bus = await withPages(t)
  const [first] = await Promise.all([bus.patch('a', one, { key: 'k' }), bus.delete('a')])
  t.equal(first.epoch, bus.epoch, 'one epoch')
  t.same(await bus.patch('a', one, { key: 'k' }), first)
})

t.test('frames', async (t) => {
  const bus = await withPages(t)
  const id = bus.page('a').id
  const delta = (value: number): Uint8Array => {
    const writer = new FrameWriter({ key: 'f' })
    writer.delta(id, 'f32', 4, { values: [value] })
    return writer.finish().slice()
  }
  const first = await bus.submit(delta(1))
  t.same(await bus.submit(delta(1)), first)
  t.match(await refusal(() => bus.submit(delta(2))), mismatch)
  t.equal((await bus.patch('a', one, { key: 'f' })).epoch, first.epoch, 'the same write in another form')
  await bus.delete('a')
  t.same(await bus.submit(delta(1)), first, 'also when the page is gone')
  const create = (name: string): Uint8Array => {
    const writer = new FrameWriter({ key: 'c' })
    const fields = { name, dtype: 'f32', shape: [2], kind: 'source', location: 'auto' } as const
    writer.createPage({ id: PAGE_ID_UNASSIGNED, ...fields, fill: 0n, definition: new Uint8Array(0) })
    return writer.finish().slice()
  }
  const created = await bus.submit(create('n'))
  t.same(await bus.submit(create('n')), created)
  t.match(await refusal(() => bus.submit(create('m'))), mismatch)
})

for (const checkpoint of [false, true]) {
  t.test(`after a restart ${checkpoint ? 'from a checkpoint' : 'from the log'}`, async (t) => {
    const dataDir = folder(t)
    const before = await Bus.open({ backend: 'cpu', threads: 1, dataDir })
    for (const name of ['a', 'b', 'gone']) await before.create(name, SOURCE)
    const first = await before.patch('a', one, { key: 'k' })
    const [fromGone] = await Promise.all([before.patch('gone', one, { key: 'g' }), before.delete('gone')])
    const writer = new FrameWriter({ key: 'f', source: 's', intent: { why: 'x' } })
    writer.delta(before.page('b').id, 'f32', 4, { indices: [1], values: [3] })
    const frame = writer.finish().slice()
    const framed = await before.submit(frame)
    if (checkpoint) await before.checkpoint()
    await before.close()
    const bus = await open(t, { dataDir })
    t.same(await bus.patch('a', one, { key: 'k' }), first)
    t.same(await bus.patch('gone', one, { key: 'g' }), fromGone)
    t.same(await bus.submit(frame), framed)
    t.match(await refusal(() => bus.patch('a', { values: [2] }, { key: 'k' })), mismatch)
    t.match(await refusal(() => bus.patch('b', one, { key: 'f' })), mismatch)
  })
}

t.test('answers are remembered within a limit of bytes', async (t) => {
  const bus = await withPages(t, { limits: { maxIdempotencyBytes: 1_024 } })
  const ops = (value: number) => ({ ops: [{ page: 'a', values: [value], merge: 'add' as const }] })
  for (let i = 0; i < 10; i++) await bus.transact({ ...ops(1), key: `k${i}` })
  t.equal(bus.read('a')[0], 10)
  await bus.transact({ ...ops(1), key: 'k9' })
  t.equal(bus.read('a')[0], 10, 'the newest is known')
  await bus.transact({ ...ops(1), key: 'k0' })
  t.equal(bus.read('a')[0], 11, 'the oldest is forgotten')
  const forgotten = new Map(bus.limits.refusals()).get('maxIdempotencyBytes') ?? 0
  t.ok(forgotten >= 6, `${forgotten}`)
})

// ---- through checkpoints -------------------------------------------------------------------------

/** The keys in a checkpoint, oldest first. */
function keysIn(dataDir: string, epoch: number): string[] {
  const file = openCheckpointFile(checkpointFolder(join(dataDir, 'checkpoints')), epoch, undefined)
  if (typeof file === 'string') throw new Error(file)
  const { answers } = parseCheckpointExtra(file.header.extra)
  file.close()
  return answers.map(([key]) => key)
}

t.test('any number of answers, in their order, through two checkpoints and no log', async (t) => {
  for (const count of [0, 1, 999, 1_000, 1_001, 2_050]) {
    const dataDir = folder(t)
    const options = { dataDir, backend: 'cpu', threads: 1, fsync: 'off' } as const
    const keys = Array.from({ length: count }, (_, i) => `key ${i}`)
    const add = (bus: Bus, key: string) => bus.patch('a', { values: [1], merge: 'add' }, { key })
    const before = await Bus.open(options)
    await before.create('a', SOURCE)
    const answers = await Promise.all(keys.map((key) => add(before, key)))
    const { epoch } = await before.checkpoint()
    await before.close()
    t.same(keysIn(dataDir, epoch), keys, `${count} answers`)
    const between = await Bus.open(options)
    await between.transact({ ops: [] })
    t.same(keysIn(dataDir, (await between.checkpoint()).epoch), keys)
    await between.close()
    const bus = await open(t, options)
    for (const i of [0, 1, 998, 999, 1_000, 1_001, count - 1]) {
      if (i < 0 || i >= count) continue
      t.same(await add(bus, keys[i] as string), answers[i])
      t.match(await refusal(() => bus.patch('a', { values: [2] }, { key: keys[i] as string })), mismatch)
    }
    t.equal(bus.read('a')[0], count, 'each was done once')
  }
})

t.test(
  'a checkpoint has the answers of its epoch, and none that are given while it is written',
  async (t) => {
    const dataDir = folder(t)
    const bus = await open(t, { dataDir, fsync: 'off' })
    await bus.create('large', { dtype: 'u8', shape: [8 * 1024 ** 2] })
    await bus.create('a', SOURCE)
    await bus.patch('a', one, { key: 'first' })
    await bus.patch('a', one, { key: 'second' })
    const late: Promise<unknown>[] = []
    const { epoch } = await bus.checkpoint({
      onProgress: () => void late.push(bus.patch('a', one, { key: `late ${late.length}` })),
    })
    await Promise.all(late)
    t.ok(late.length >= 4 && bus.epoch > epoch, `${late.length} answers meanwhile`)
    t.same(keysIn(dataDir, epoch), ['first', 'second'])
  },
)

t.test('after a restart the oldest answers are still the first to be forgotten', async (t) => {
  const dataDir = folder(t)
  const limits = { maxIdempotencyBytes: 5_000 }
  const before = await Bus.open({ dataDir, backend: 'cpu', threads: 1, limits })
  await before.create('a', SOURCE)
  const add = (bus: Bus, key: string) => bus.patch('a', { values: [1], merge: 'add' }, { key })
  for (let i = 0; i < 10; i++) await add(before, `k${i}`)
  await before.checkpoint()
  for (let i = 10; i < 13; i++) await add(before, `k${i}`)
  await before.close()
  const bus = await open(t, { dataDir, limits })
  for (let i = 13; i < 20; i++) await add(bus, `k${i}`)
  t.equal(bus.read('a')[0], 20)
  for (let i = 19; i >= 8; i--) await add(bus, `k${i}`)
  t.equal(bus.read('a')[0], 20, 'the newest are known, whichever of them were in the checkpoint')
  await add(bus, 'k0')
  t.equal(bus.read('a')[0], 21, 'the oldest is not')
})
