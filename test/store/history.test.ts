/** Reading a folder beside its writer: records from any epoch, where a read begins, and what is missing. */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import { crc32c } from '../../src/ffi/library.js'
import { LOG_READ_BYTES, SEGMENT_HEADER_BYTES } from '../../src/limits.js'
import { HistoryReader } from '../../src/store/history.js'
import { recordBytes } from '../../src/store/log/record.js'
import { segmentName } from '../../src/store/log/segment-file.js'
import { realDisk } from '../../src/store/os/disk.js'
import { SimDisk } from '../support/simdisk.js'
import { appendAll, epochsTo, openStore, plain, recordOf, scratch } from './helpers.js'

const DIR = '/sim'
const fileOf = (first: number): string => `${DIR}/log/${segmentName(first)}`

/** A log of 30 epochs of 500 bytes: six in a segment. */
async function logged(): Promise<SimDisk> {
  const disk = new SimDisk()
  const store = await openStore(DIR, { disk, segmentBytes: 8192 })
  await appendAll(store, 1, 30, 500)
  await store.close()
  return disk
}
const SIZE = recordBytes(500, 3)
const FIRSTS = [1, 7, 13, 19, 25]

const readerOf = (disk: SimDisk): HistoryReader => new HistoryReader({ dir: DIR, crc32c, disk })
const read = (reader: HistoryReader, from: number, to: number): number[] =>
  [...reader.records(from, to)].map(({ epoch }) => epoch)

/** Notes where the files are read. */
function noted(disk: SimDisk): [at: number, length: number][] {
  const reads: [number, number][] = []
  const { readSync } = disk
  disk.readSync = (fd, into, length, at) => {
    if (at !== 0) reads.push([at, into.length])
    return readSync.call(disk, fd, into, length, at)
  }
  return reads
}

t.test('records from any epoch to any other, each once, as written', async (t) => {
  const disk = await logged()
  t.same(
    disk.files.filter((file) => file.endsWith('.seg')),
    FIRSTS.map(fileOf),
  )
  const reader = readerOf(disk)
  t.equal(reader.firstEpoch, 1)
  for (const from of [1, 2, 6, 7, 8, 24, 30])
    for (const to of [1, 6, 7, 13, 29, 30])
      t.same(read(reader, from, to), epochsTo(to, from), `${from} to ${to}`)
  const [sixth, seventh] = [...reader.records(6, 7)].map(plain)
  t.same(seventh, plain(recordOf(7, 500)))
  t.ok(sixth !== undefined)
  t.equal(disk.openCount, 0)
})

t.test('a read that is given up closes its file', async (t) => {
  const disk = await logged()
  for (const record of readerOf(disk).records(1, 30)) {
    t.equal(record.epoch, 1)
    break
  }
  t.equal(disk.openCount, 0)
})

t.test('a read goes on where the last one ended; few records are read by a small window', async (t) => {
  const disk = await logged()
  const reader = readerOf(disk)
  const reads = noted(disk)
  const START = SEGMENT_HEADER_BYTES
  t.same(read(reader, 2, 3), [2, 3])
  t.equal(reads[0]?.[0], START, 'there is no index: from the start of the segment')
  reads.length = 0
  t.same(read(reader, 4, 5), [4, 5])
  t.equal(reads[0]?.[0], START + 3 * SIZE)
  reads.length = 0
  t.same(read(reader, 4, 4), [4])
  t.equal(reads[0]?.[0], START, 'not where it ended')
  reads.length = 0
  t.same(read(reader, 5, 5), [5])
  t.equal(reads[0]?.[0], START + 4 * SIZE)
  reads.length = 0
  t.same(read(reader, 7, 7), [7])
  t.equal(reads[0]?.[0], START, 'in another segment')
  const windowOf = async (from: number, to: number): Promise<number> => {
    const long = new SimDisk()
    const store = await openStore(DIR, { disk: long, segmentBytes: 2 ** 21, fsync: 'off' })
    await appendAll(store, 1, 3, 200_000)
    await appendAll(store, 4, 20, 500)
    await store.close()
    const windows = noted(long)
    read(readerOf(long), from, to)
    return windows[0]?.[1] as number
  }
  t.equal(await windowOf(1, 8), 16 * 1024)
  const whole = await windowOf(1, 9)
  t.ok(whole > 600_000 && whole <= LOG_READ_BYTES)
})

t.test('an index says where to begin; a wrong one does no harm', async (t) => {
  const dir = scratch()
  const store = await openStore(dir, { segmentBytes: 2 ** 21, fsync: 'off' })
  await appendAll(store, 1, 12, 100_000)
  await store.close()
  const disk = realDisk()
  const reads: number[] = []
  const noting = {
    ...disk,
    readSync: (fd: number, into: Uint8Array, length: number, at: number) => {
      if (at !== 0) reads.push(at)
      return disk.readSync(fd, into, length, at)
    },
  }
  const bytes = recordBytes(100_000, 3)
  const reader = new HistoryReader({ dir, crc32c, disk: noting })
  // A block is complete with its third record.
  for (const [epoch, begin] of [
    [8, 6],
    [7, 6],
    [6, 3],
    [12, 9],
  ] as const) {
    reads.length = 0
    t.same([...reader.records(epoch, epoch)].map(plain), [plain(recordOf(epoch, 100_000))])
    t.equal(reads[0], SEGMENT_HEADER_BYTES + begin * bytes, `epoch ${epoch}`)
  }
  t.same(reader.catalogProblems(), [])
  reader.close()
  fs.rmSync(path.join(dir, 'catalog.db'))
  const without = new HistoryReader({ dir, crc32c, disk: noting, isOffline: true })
  reads.length = 0
  t.same(
    [...without.records(8, 9)].map(({ epoch }) => epoch),
    [8, 9],
  )
  t.equal(reads[0], SEGMENT_HEADER_BYTES)
  without.close()
})

t.test('a segment that the index does not know yet is read from its start', async (t) => {
  const dir = scratch()
  const store = await openStore(dir, { segmentBytes: 2 ** 20, fsync: 'off' })
  await appendAll(store, 1, 25, 100_000)
  await store.close()
  const names = fs.readdirSync(path.join(dir, 'log')).sort()
  t.ok(names.length >= 3)
  const last = Number.parseInt(names.at(-1)!, 10)
  const db = new Database(path.join(dir, 'catalog.db'))
  t.ok(db.prepare('DELETE FROM block WHERE last_epoch >= ?').run(last - 2).changes > 0)
  db.close()
  const reader = new HistoryReader({ dir, crc32c, isOffline: true })
  t.same(read(reader, last + 1, last + 1), [last + 1])
  t.same(read(reader, last - 1, 25), epochsTo(25, last - 1))
  reader.close()
})

t.test('epochs that are not in the log any more, and a log that is not there', async (t) => {
  const disk = await logged()
  const reader = readerOf(disk)
  disk.remove(fileOf(1))
  t.equal(reader.firstEpoch, 7, 'the files are listed again')
  const gone = {
    code: 'EPOCH_COMPACTED',
    message: 'Epoch 6 is no longer in the log.',
    extra: { minEpoch: 7 },
  }
  t.throws(() => read(reader, 6, 8), gone)
  t.same(read(reader, 7, 8), [7, 8])
  for (const first of FIRSTS.slice(1)) disk.remove(fileOf(first))
  t.equal(reader.firstEpoch, undefined)
  t.throws(() => read(reader, 7, 8), { code: 'BUS_FAILED', message: `the log in ${DIR} has no segments` })
  const empty = new HistoryReader({ dir: scratch(), crc32c, isOffline: true })
  t.equal(empty.firstEpoch, undefined)
  t.same(empty.checkpointEpochs(), [])
  t.match(empty.openCheckpoint(4), /missing/)
  t.equal(empty.checkpointPages(4), undefined)
  empty.close()
})

t.test(
  'a segment that goes while it is looked for: the oldest has been removed, any other is missing',
  async (t) => {
    for (const [first, expected] of [
      [1, { code: 'EPOCH_COMPACTED', message: 'Epoch 3 is no longer in the log.' }],
      [7, { code: 'BUS_FAILED', message: /the log segment .*0+7\.seg is missing/ }],
    ] as const) {
      const disk = await logged()
      const { open } = disk
      disk.open = (file, flags) => {
        if (file === fileOf(first)) disk.remove(file)
        return open.call(disk, file, flags)
      }
      t.throws(() => read(readerOf(disk), first + 2, 30), expected)
      t.equal(disk.openCount, 0)
    }
    const disk = await logged()
    disk.fault = (call) => {
      if (call === 'open') throw Object.assign(new Error('EMFILE'), { code: 'EMFILE' })
    }
    t.throws(() => read(readerOf(disk), 1, 2), { code: 'EMFILE' })
  },
)

t.test('damage is named, with its place and epoch', async (t) => {
  const disk = await logged()
  const whole = Uint8Array.from(disk.bytesOf(fileOf(7)))
  const bad = whole.slice()
  const at = SEGMENT_HEADER_BYTES + 2 * SIZE
  bad[at + 80] = (bad[at + 80] as number) ^ 1
  disk.put(fileOf(7), bad)
  const seen: number[] = []
  const reading = (from: number, to: number) => (): void => {
    for (const { epoch } of readerOf(disk).records(from, to)) seen.push(epoch)
  }
  const message = `the log is damaged: segment ${segmentName(7)}, offset ${at}: the record of epoch 9 is not sound (its checksum is wrong)`
  t.throws(reading(5, 30), { code: 'INTERNAL', message, extra: { epoch: 9 } })
  t.same(seen, [5, 6, 7, 8])
  reading(7, 8)()
  disk.put(fileOf(7), whole.subarray(0, 100))
  t.throws(reading(7, 8), { code: 'INTERNAL', message: /segment 0+7\.seg: the file is shorter/ })
  disk.put(fileOf(7), disk.bytesOf(fileOf(13)))
  t.throws(reading(7, 8), { code: 'INTERNAL', message: /segment 0+7\.seg begins with epoch 13/ })
  disk.put(fileOf(7), whole.slice(0, at))
  t.throws(reading(7, 9), { code: 'INTERNAL', message: /epoch 9 is not sound \(there is no record\)/ })
  t.equal(disk.openCount, 0)
})

t.test('another folder in the place of the one that was opened is refused', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await appendAll(store, 1, 2)
  await store.close()
  const { dev, ino } = fs.statSync(dir, { bigint: true })
  const reader = new HistoryReader({ dir, crc32c, identity: { dev, ino } })
  t.same(read(reader, 1, 2), [1, 2])
  t.same(reader.checkpointEpochs(), [])
  fs.renameSync(dir, `${dir}.away`)
  const lost = { code: 'BUS_FAILED', message: /was removed or renamed/ }
  const calls = [
    () => reader.firstEpoch,
    () => reader.checkpointEpochs(),
    () => reader.openCheckpoint(1),
    () => reader.checkpointPages(1),
    () => read(reader, 1, 2),
  ]
  for (const call of calls) t.throws(call, lost)
  fs.mkdirSync(dir)
  for (const call of calls)
    t.throws(call, { code: 'BUS_FAILED', message: /another folder was put in the place/ })
  fs.rmSync(`${dir}.away`, { recursive: true })
  reader.close()
})
