/**
 * A small past of every kind of change, as it was live, and the folder it lies in: for tests of what reads
 * the past, on this thread.
 */
import type { Test } from 'tap'
import { Timelines } from '../../src/engine/history/cones/timelines.js'
import type { Asker } from '../../src/engine/history/replay-queries.js'
import type { BusOptions, CommitEvent } from '../../src/engine/types.js'
import { crc32c } from '../../src/ffi/library.js'
import { Bus } from '../../src/index.js'
import { HistoryReader } from '../../src/store/history.js'
import { DTYPE_INFO, type TypedArray } from '../../src/wire/dtype.js'
import { folder } from './folder.js'

export interface LivePage {
  readonly id: number
  readonly version: number
  readonly values: TypedArray
}

/** An epoch as it was when it was committed. */
export interface LiveEpoch {
  readonly digest: string
  readonly timestampMs: number
  /** What listeners got, with the values of the ranges; empty for epoch 0. */
  readonly changes: readonly (CommitEvent['changes'][number] & { readonly values: TypedArray })[]
  /** Every page, by name. */
  readonly pages: Readonly<Record<string, LivePage>>
}

export interface LivePast {
  readonly dir: string
  readonly reader: HistoryReader
  /** The index is the epoch, from 0 on. */
  readonly epochs: readonly LiveEpoch[]
}

/** What `work` commits, and a reader of its folder. The bus is closed again. */
export async function pastOf(
  t: Test,
  work: (bus: Bus) => Promise<void>,
  options: BusOptions = {},
): Promise<LivePast> {
  const dir = folder(t)
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1, fsync: 'off', ...options })
  const epochs: LiveEpoch[] = [{ digest: bus.status().digest, timestampMs: 0, changes: [], pages: {} }]
  bus.onCommit(({ epoch, timestampMs, changes }) => {
    const pages = bus.pageNames().map((name) => {
      const { id, version } = bus.peek(name)
      return [name, { id, version, values: bus.read(name) }] as const
    })
    epochs[epoch] = {
      digest: bus.status().digest,
      timestampMs,
      changes: changes.map((change) => {
        const { pageId, kind, ranges, dtype } = change
        const none = DTYPE_INFO[dtype].view(new ArrayBuffer(0), 0, 0)
        return { ...change, values: kind === 'deleted' ? none : bus.gather(pageId, ranges) }
      }),
      pages: Object.fromEntries(pages),
    }
  })
  await work(bus)
  await bus.close()
  const reader = new HistoryReader({ dir, crc32c, isOffline: true })
  t.teardown(() => reader.close())
  return { dir, reader, epochs }
}

/** A caller of the replay, with states of its own. */
export const asker = ({ reader }: LivePast): Asker => ({
  timelines: new Timelines({ reader, onPause: () => {} }),
  caller: 1,
})

/** A reader that writes down what is read through it, and what was since the last question. */
export function spied(reader: HistoryReader) {
  const reads: string[] = []
  const noted = <Args extends unknown[], T>(text: (...args: Args) => string, read: (...args: Args) => T) => {
    return (...args: Args): T => {
      reads.push(text(...args))
      return read(...args)
    }
  }
  const spy = {
    get firstEpoch() {
      return reader.firstEpoch
    },
    checkpointEpochs: () => reader.checkpointEpochs(),
    openCheckpoint: noted(checkpointText, (epoch) => reader.openCheckpoint(epoch)),
    checkpointPages: noted(checkpointText, (epoch) => reader.checkpointPages(epoch)),
    records: noted(
      (from: number, to: number) => `${from}..${to}`,
      (from, to) => reader.records(from, to),
    ),
  } as unknown as HistoryReader
  return { reader: spy, reads: () => reads.splice(0).join(' ') }
}

const checkpointText = (epoch: number): string => `checkpoint ${epoch}`

/** A story in which every kind of command and several kinds of pages appear. */
export async function tellStory(bus: Bus): Promise<void> {
  await bus.create('a', { dtype: 'i32', shape: [6], fill: 3 }) // 1
  await bus.derive('b', { op: 'map', inputs: { x: 'a' }, expr: 'x * 2' }) // 2
  // 3
  await bus.derive('step', { op: 'map', inputs: { now: 'a', old: { prev: 'a' } }, expr: 'now - old' })
  // 4
  await bus.transact({ ops: [{ page: 'a', offset: 1, values: [7, 8] }], source: 'ann', intent: { n: 1 } })
  await bus.create('none', { dtype: 'u8', shape: [0] }) // 5
  await bus.create('c', { dtype: 'f64', shape: [2, 2] }) // 6
  // 7: several transactions in one epoch.
  await Promise.all([
    bus.transact({ ops: [{ page: 'c', offset: 0, values: [0.5] }], source: 'bob' }),
    bus.transact({ ops: [{ page: 'a', indices: [0, 5], values: [1, 2] }], source: 'ann', intent: 'both' }),
    bus.transact({ ops: [{ page: 'c', offset: 3, values: [1.5] }], source: 'cid' }),
  ])
  await bus.transact({ ops: [{ page: 'a', offset: 0, values: [1] }], source: 'bob' }) // 8: the same bytes
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' }) // 9
  await bus.derive('d', { op: 'map', inputs: { x: 'c' }, expr: 'f(x)' }) // 10
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 2' }) // 11
  await bus.patch('c', { offset: 1, values: [9] }) // 12
  await bus.delete('b') // 13
  await bus.create('b', { dtype: 'u8', shape: [3], fill: 1 }) // 14: another page of the name
  await bus.patch('b', { offset: 1, values: [4], merge: 'add' }) // 15
  // 16: a page that is made and one that is deleted.
  await Promise.all([bus.delete('none'), bus.create('e', { dtype: 'bool', shape: [2], fill: true })])
  await bus.patch('a', { offset: 2, values: [100, 101, 102] }) // 17
  await bus.delete('d') // 18
  await bus.deleteFunction('f') // 19
  await bus.patch('a', { offset: 1, values: [7, 8] }, { source: 'ann' }) // 20
}
