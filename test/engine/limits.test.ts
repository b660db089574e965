/** Fixed limits of the engine: each at its value, and one beyond; the queue comes down to nothing. */
import t, { type Test } from 'tap'
import { CommitQueue } from '../../src/engine/commit/commit-queue.js'
import type { BusOptions } from '../../src/engine/types.js'
import { Bus } from '../../src/index.js'
import {
  BATCH_MAX_BYTES,
  BATCH_MAX_TRANSACTIONS,
  FUNCTION_OWN_BYTES,
  HISTORY_ANSWER_BYTES,
  HISTORY_LIMIT_DEFAULT,
  HISTORY_LIMIT_MAX,
  MEMORY_QUOTA_DEFAULT_BYTES,
  PAST_ANSWER_BYTES,
  QUEUE_MAX_BYTES,
  RUN_MAX_FRAMES,
  SEGMENT_BYTES_LEAST,
  THREADS_MAX,
} from '../../src/limits.js'
import { FrameWriter } from '../../src/state/frame/writer.js'
import { SlabAllocator } from '../../src/state/slab.js'
import { folder } from '../lib/folder.js'

const open = async (t: Test, options: BusOptions = {}): Promise<Bus> => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...options })
  t.teardown(() => bus.close())
  return bus
}

t.test('an epoch takes so many transactions', async (t) => {
  const bus = await open(t)
  await bus.create('a', { dtype: 'u32', shape: [1] })
  const answers = await Promise.all(
    Array.from({ length: BATCH_MAX_TRANSACTIONS + 1 }, (_, i) => bus.patch('a', { values: [i] })),
  )
  const counts = new Map<number, number>()
  for (const { epoch } of answers) counts.set(epoch, (counts.get(epoch) ?? 0) + 1)
  t.same([...counts.values()], [BATCH_MAX_TRANSACTIONS, 1])
})

t.test('an epoch takes so many bytes', async (t) => {
  const bus = await open(t)
  const size = BATCH_MAX_BYTES / 4
  await bus.create('a', { dtype: 'u8', shape: [size] })
  const values = new Uint8Array(size - 1_000)
  const answers = await Promise.all(Array.from({ length: 5 }, () => bus.patch('a', { offset: 0, values })))
  t.equal(new Set(answers.slice(0, 4).map(({ epoch }) => epoch)).size, 1, 'four fit')
  t.not(answers[4]!.epoch, answers[0]!.epoch)
})

t.test('the queue counts bytes and frames, and comes down', async (t) => {
  const queue = new CommitQueue()
  const pending = { frame: { byteLength: QUEUE_MAX_BYTES } } as never
  t.ok(queue.hasRoom(QUEUE_MAX_BYTES + 1), 'one that is alone is taken, however large')
  const refused = queue.add(pending).catch((error: Error) => error.message)
  t.notOk(queue.hasRoom(1))
  queue.refuseAll(() => new Error('over'))
  t.equal(await refused, 'over')
  t.same([queue.bytes, queue.count, queue.isEmpty], [0, 0, true])
  t.ok(queue.hasRoom(1))
  const writer = new FrameWriter({})
  writer.delta(1, 'u8', 8, { offset: 0, values: new Uint8Array(8) })
  const frame = writer.finish()
  const slab = new SlabAllocator(frame.length * (RUN_MAX_FRAMES + 1)).withRoom(frame.length)
  const sender = { failed() {} } as never
  const add = (number: number): boolean => {
    const at = number * frame.length
    slab.bytes.set(frame, at)
    return queue.addPlain(sender, number, slab, at, frame.length)
  }
  for (let i = 0; i < RUN_MAX_FRAMES; i++) t.equal(add(i), i === 0)
  t.ok(add(RUN_MAX_FRAMES), 'one more begins another run')
  t.same([queue.count, queue.bytes], [RUN_MAX_FRAMES + 1, (RUN_MAX_FRAMES + 1) * frame.length])
  queue.refuseAll(() => new Error('over'))
  t.same([queue.bytes, queue.count], [0, 0])
})

t.test('options: threads and the size of a segment', async (t) => {
  await open(t, { threads: THREADS_MAX })
  await t.rejects(Bus.open({ threads: THREADS_MAX + 1 }), { code: 'INVALID_REQUEST' })
  const dataDir = folder(t)
  await open(t, { dataDir, segmentBytes: SEGMENT_BYTES_LEAST })
  await t.rejects(Bus.open({ dataDir: folder(t), segmentBytes: SEGMENT_BYTES_LEAST - 1 }), {
    code: 'INVALID_REQUEST',
  })
})

t.test('a function counts with its text and what it costs beside it', async (t) => {
  const bus = await open(t)
  const used = (): number => new Map(bus.limits.uses()).get('maxPageBytes') ?? 0
  await bus.defineFunction('f', { params: ['abc'], expr: 'abc + 1' })
  t.equal(used(), FUNCTION_OWN_BYTES + 'abc'.length + 'abc + 1'.length)
  await bus.deleteFunction('f')
  t.equal(used(), 0)
})

t.test('the memory of all pages', async (t) => {
  const bus = await open(t, { limits: { maxPageBytes: 64 * 2 ** 30 } })
  // Zeros take no memory.
  const size = 2 ** 30
  const pages = MEMORY_QUOTA_DEFAULT_BYTES / size
  for (let i = 0; i < pages; i++) await bus.create(`p${i}`, { dtype: 'u8', shape: [size] })
  await t.rejects(bus.create('more', { dtype: 'u8', shape: [1] }), { code: 'OUT_OF_MEMORY' })
  await bus.delete('p0')
  await bus.create('more', { dtype: 'u8', shape: [1] })
})

t.test('an answer about the past: rows and bytes', async (t) => {
  const bus = await open(t, { dataDir: folder(t), fsync: 'off' })
  await bus.create('a', { dtype: 'u32', shape: [1] })
  for (let i = 0; i < HISTORY_LIMIT_MAX; i++) await bus.patch('a', { values: [i] })
  t.equal((await bus.epochs()).epochs.length, HISTORY_LIMIT_DEFAULT)
  t.match(await bus.epochs({ limit: HISTORY_LIMIT_MAX }), {
    epochs: { length: HISTORY_LIMIT_MAX },
    next: HISTORY_LIMIT_MAX + 1,
  })
  await t.rejects(bus.epochs({ limit: HISTORY_LIMIT_MAX + 1 }), { code: 'INVALID_REQUEST' })
  const size = PAST_ANSWER_BYTES / 4
  await bus.create('b', { dtype: 'u8', shape: [size] })
  const { epoch } = bus
  for (let i = 1; i <= 8; i++) await bus.patch('b', { values: new Uint8Array(size).fill(i) })
  const wide = await bus.pastChanges({ after: epoch, to: bus.epoch, pages: ['b'], values: true })
  t.ok(wide.epochs.length <= 4 && wide.epochs.length > 0, `${wide.epochs.length} epochs of a quarter`)
})

t.test('a list of epochs ends after so many bytes of frames', async (t) => {
  const bus = await open(t, { dataDir: folder(t), fsync: 'off' })
  const size = HISTORY_ANSWER_BYTES / 8
  await bus.create('a', { dtype: 'u8', shape: [size] })
  const { epoch } = bus
  for (let i = 1; i <= 12; i++) await bus.patch('a', { values: new Uint8Array(size).fill(i) })
  const { epochs, next } = await bus.epochs({ from: epoch + 1 })
  t.equal(epochs.length, 8, 'seven fit, and the eighth passes the limit with its frame')
  t.equal(next, epoch + 9)
  t.match(await bus.epochs({ from: epoch + 9 }), { epochs: { length: 4 }, next: null })
})
