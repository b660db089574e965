/** A state that is rebuilt from the log, or from a checkpoint, is the one that was live, answers included. */
import t, { type Test } from 'tap'
import {
  checkDigest,
  emptyProgress,
  loadCheckpoint,
  loadingCheckpoint,
  type Progress,
  replayRecord,
  stagingRecord,
} from '../../../src/engine/history/rebuild.js'
import { IdempotencyKeys } from '../../../src/engine/idempotency/keys.js'
import { hex } from '../../../src/engine/pages/describe.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import type { CommitResult } from '../../../src/engine/types.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import type { CheckpointReader, LogRecord } from '../../../src/store/types.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { emptyState } from '../../lib/engine-state.js'
import { pastOf, tellStory } from '../../lib/past.js'

const answered: Record<string, CommitResult> = {}
let nextPageId = 0

const past = await pastOf(t, async (bus) => {
  await tellStory(bus)
  const write = (page: string) => ({ page, values: [bus.epoch % 100] })
  const keyed = async (key: string, ...pages: string[]): Promise<void> => {
    answered[key] = await bus.transact({ ops: pages.map(write), key })
  }
  await keyed('one', 'a') // 21
  await keyed('two', 'c', 'b') // 22
  const frame = new FrameWriter({ key: 'three' })
  const made = { name: 'made', dtype: 'u8', shape: [2], location: 'auto', kind: 'source', fill: 7n } as const
  frame.createPage({ ...made, id: PAGE_ID_UNASSIGNED, definition: new Uint8Array(0) })
  answered.three = await bus.submit(frame.finish()) // 23
  const { id } = bus.peek('c')
  const deletion = new FrameWriter({})
  deletion.deletePage(id)
  // 24: a page that is written and deleted.
  await Promise.all([keyed('four', 'c'), bus.submit(deletion.finish())])
  await bus.checkpoint()
  // 25: the past of a page has an id too.
  await bus.derive('before', { op: 'map', inputs: { x: { prev: 'made' } }, expr: 'x' })
  nextPageId = bus.peek('before').id + 2
})
const newest = past.epochs.length - 1

const records = (from: number, to = newest): LogRecord[] => [...past.reader.records(from, to)]

function isLive(t: Test, state: EngineState, progress: Progress, epoch: number): void {
  const { pages, digest, timestampMs } = past.epochs[epoch]!
  t.match(progress, { epoch, timestampMs })
  t.equal(hex(progress.digest), digest)
  t.equal(hex(state.context.stateDigest()), digest)
  t.same([...state.registry.names()], Object.keys(pages).sort())
  for (const [name, { id, version }] of Object.entries(pages))
    t.match(state.registry.byName(name), { id, version }, `${name} at ${epoch}`)
}

t.test('record by record', async (t) => {
  const state = emptyState(t)
  const answers = new IdempotencyKeys(new LimitGuard())
  const progress = emptyProgress(state, answers)
  t.match(progress, { epoch: 0, nextPageId: 1, timestampMs: 0, isPriced: false })
  for (const record of records(1)) {
    t.equal(replayRecord(state, record, progress), 'replayed')
    isLive(t, state, progress, record.epoch)
  }
  t.equal(progress.nextPageId, nextPageId)
  for (const [key, answer] of Object.entries(answered))
    t.strictSame(answers.firstUse(key)?.answer, answer, `the answer to ${key}`)
  t.strictSame(
    answers.entries().map(([key]) => key),
    ['one', 'two', 'three', 'four'],
  )
  t.equal(state.registry.functions.worldAge, 3)
  t.equal(state.registry.require('a').createdEpoch, 1)
})

t.test('from a checkpoint on', async (t) => {
  const [epoch] = past.reader.checkpointEpochs() as [number]
  t.equal(epoch, 24)
  const checkpoint = past.reader.openCheckpoint(epoch) as CheckpointReader & { close(): void }
  const state = emptyState(t)
  const answers = new IdempotencyKeys(new LimitGuard())
  const progress = loadCheckpoint(state, checkpoint, answers)
  isLive(t, state, progress, epoch)
  t.equal(state.registry.require('a').createdEpoch, 1)
  t.equal(state.registry.functions.worldAge, 3)
  t.strictSame(
    answers.entries().map(([key, answer]) => [key, answer]),
    Object.entries(answered),
  )
  for (const record of records(epoch + 1)) replayRecord(state, record, progress)
  isLive(t, state, progress, newest)
  t.equal(progress.nextPageId, nextPageId)
  const part = emptyState(t)
  const { a } = past.epochs[epoch]!.pages
  loadCheckpoint(part, checkpoint, undefined, new Set([a!.id]))
  t.same([...part.registry.names()], ['a'], 'of a cone, nothing else')
  const spoilt = {
    header: { ...checkpoint.header, digest: new Uint8Array(16) },
    pages: checkpoint.pages,
    loading: checkpoint.loading.bind(checkpoint),
    load: checkpoint.load.bind(checkpoint),
    close() {},
  }
  t.throws(() => loadCheckpoint(emptyState(t), spoilt, undefined), { code: 'INTERNAL' })
  checkpoint.close()
})

t.test('a log that contradicts itself is refused, and nothing is executed', async (t) => {
  const state = emptyState(t)
  const progress = emptyProgress(state)
  const [first, second, third] = records(1, 3)
  replayRecord(state, first!, progress)
  t.throws(() => replayRecord(state, third!, progress), { code: 'INTERNAL', message: /continues at epoch 3/ })
  t.throws(() => replayRecord(state, first!, progress), { code: 'INTERNAL' })
  const digestBefore = new Uint8Array(16)
  t.throws(() => replayRecord(state, { ...second!, digestBefore }, progress), { code: 'INTERNAL' })
  t.equal(progress.epoch, 1)
  replayRecord(state, second!, progress)
  isLive(t, state, progress, 2)
  t.throws(() => checkDigest(Uint8Array.of(1), Uint8Array.of(2), 'here'), { message: /here: .*01.*02/ })
  checkDigest(Uint8Array.of(1), Uint8Array.of(1), 'here')
})

t.test('of a cone: what does not touch it is not executed', async (t) => {
  const { c } = past.epochs[6]!.pages
  const state = emptyState(t)
  const progress = emptyProgress(state)
  const cone = new Set([c!.id])
  const seen: number[] = []
  const touched: number[] = []
  for (const record of records(1, 17)) {
    const watcher = { executed: () => seen.push(record.epoch) }
    if (replayRecord(state, record, progress, watcher, cone) === 'replayed') touched.push(record.epoch)
    t.equal(progress.epoch, record.epoch)
  }
  t.same(seen, touched, 'it is not told of either')
  for (const epoch of [6, 7, 12]) t.ok(touched.includes(epoch), `epoch ${epoch}`)
  for (const epoch of [4, 8, 15, 17]) t.notOk(touched.includes(epoch), `epoch ${epoch}`)
  t.same([...state.registry.names()], ['c'])
  t.equal(state.registry.require('c').version, 12)
  const out = new Float64Array(4)
  state.context.readPage(c!.id, 0, out)
  t.same(out, past.epochs[17]!.pages.c!.values)
})

t.test('pages that records define get estimates only where they are asked for', async (t) => {
  const costs = (isPriced: boolean): number => {
    const state = emptyState(t)
    const progress = emptyProgress(state)
    progress.isPriced = isPriced
    for (const record of records(1, 11)) replayRecord(state, record, progress)
    return state.registry.require('d').derived!.costNs
  }
  t.equal(costs(false), 4, 'one nanosecond for each element')
  t.not(costs(true), 4)
})

t.test('whoever watches sees versions before they move, and what was made and deleted', async (t) => {
  const state = emptyState(t)
  const progress = emptyProgress(state)
  const told: string[] = []
  for (const record of records(1, 16)) {
    replayRecord(state, record, progress, {
      changing: ({ name, version }) => told.push(`${name} was ${version}`),
      executed: ({ created, deleted, isOneWay }) => {
        const names = (pages: readonly { name: string }[]): string => pages.map(({ name }) => name).join()
        told.push(`${record.epoch}: +${names(created)} -${names(deleted)}${isOneWay ? ' for good' : ''}`)
      },
    })
  }
  t.same(told.slice(0, 7), [
    '1: +a -',
    '2: +b -',
    '3: +step - for good',
    '4: + -',
    'a was 1',
    'b was 2',
    'step was 3',
  ])
  t.ok(told.includes('11: + - for good'), 'a function')
  t.ok(told.includes('13: + -b'))
  t.equal(told.at(-1), '16: +e -none')
})

t.test('many pages are loaded in slices', async (t) => {
  const count = 300
  const many = await pastOf(t, async (bus) => {
    const definition = { dtype: 'u8', shape: [1] } as const
    await bus.createMany(Array.from({ length: count }, (_, i) => ({ name: `p${i}`, definition })))
    await bus.checkpoint()
  })
  const checkpoint = many.reader.openCheckpoint(1) as CheckpointReader
  const state = emptyState(t)
  let bytes = 0
  const loading = loadingCheckpoint(state, checkpoint, undefined, { onBytes: (more) => (bytes += more) })
  let pauses = 0
  while (loading.next().done !== true) pauses++
  // Reading definitions, making records, and installing pages: a few dozen at a time.
  t.ok(pauses >= (2 * count) / 64 && pauses < count / 4, `${pauses} pauses`)
  t.equal(state.registry.size, count)
  t.ok(bytes <= count)
  checkpoint.close()
})

t.test('records of many pages are staged in slices', async (t) => {
  const count = 300
  const many = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u8', shape: [1] })
    await bus.defineFunction('f', { params: ['x'], expr: 'x' })
    const definition = { derive: { op: 'map' as const, inputs: { x: 'x' }, expr: 'f(x)' } }
    await bus.createMany(Array.from({ length: count }, (_, i) => ({ name: `p${i}`, definition })))
    await bus.defineFunction('f', { params: ['x'], expr: 'x + x' })
  })
  const pausesOf = (isPriced: boolean): number[] => {
    const state = emptyState(t)
    const progress = { ...emptyProgress(state), isPriced }
    return Array.from(many.reader.records(1, 4), (record) => {
      const staging = stagingRecord(state, record, progress)
      for (let pauses = 0; ; pauses++) {
        const step = staging.next()
        if (step.done !== true) continue
        const { plan, frames, finish } = step.value
        finish(state.context.execute(plan.steps, frames))
        return pauses
      }
    })
  }
  const [priced, unpriced] = [pausesOf(true), pausesOf(false)]
  t.same(priced.slice(0, 2), unpriced.slice(0, 2))
  // Whatever a slice is for: some dozens to some hundreds of pages.
  for (const pauses of priced.slice(2)) t.ok(pauses >= count / 64 && pauses < count / 4, `${pauses} pauses`)
  for (const [i, pauses] of priced.slice(2).entries())
    t.equal(pauses - unpriced[i + 2]!, Math.floor(count / 64), 'estimates too')
})
