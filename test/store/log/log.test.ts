/**
 * The log through the public methods of the store: round trips, rotation, reading back, reopening. And by
 * itself: what inspecting it finds, what opening it changes, and reading its segments back.
 */
import t from 'tap'
import { crc32c } from '../../../src/ffi/library.js'
import { LOG_READ_BYTES } from '../../../src/limits.js'
import {
  inspectingLog,
  inspectLog,
  type LogFindings,
  openLog,
  readForward,
  recordsAfter,
  type SegmentEntry,
  segmentOf,
  spansOf,
} from '../../../src/store/log/log.js'
import { encodeSegmentHeader, recordBytes, type SegmentHeader } from '../../../src/store/log/record.js'
import { segmentName } from '../../../src/store/log/segment-file.js'
import type { SegmentWriterOptions } from '../../../src/store/log/segment-writer.js'
import { SimDisk } from '../../support/simdisk.js'
import {
  appendAll,
  epochsIn,
  epochsTo,
  openStore,
  plain,
  scratch,
  recordOf as storeRecordOf,
} from '../helpers.js'
import { fileOf, LOG, NEXT, recordOf, SIZE, START, started } from './writer.js'

t.test('records are read as written, by iteration, by range and after reopening', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await appendAll(store, 1, 600)
  t.ok(store.stats().segments > 1, 'the log rotated')
  const check = async (s: typeof store): Promise<void> => {
    const records = [...s.records(0)].map(plain)
    t.same(
      records,
      epochsTo(600).map((epoch) => plain(storeRecordOf(epoch))),
    )
    for await (const record of s.range(300, 320)) t.same(plain(record), plain(storeRecordOf(record.epoch)))
    t.same(plain(await s.read(600)), plain(storeRecordOf(600)))
    t.same(plain(await s.read(1)), plain(storeRecordOf(1)))
    await t.rejects(s.read(601), { code: 'EPOCH_NOT_FOUND' })
  }
  await check(store)
  await store.close()
  const again = await openStore(dir)
  t.match(again.recovery, { newestEpoch: 600, tornBytes: 0, row: /^[AB]$/ })
  t.equal(again.busId, store.busId)
  await check(again)
  await appendAll(again, 601, 640)
  t.same(epochsIn(again, 590), epochsTo(640, 591))
  await again.close()
})

// ---- by itself -----------------------------------------------------------------------------------

const folderOf = (disk: SimDisk) => ({ disk, logDir: LOG, crc32c })
const inspected = (disk: SimDisk): LogFindings => inspectLog(folderOf(disk), () => {})
const nothing = { newestEpoch: 0, tornBytes: 0, unsureFrom: 0 }

/** A log of records of these lengths, in segments of 64 KiB, as a clean close leaves it. */
async function logOf(...lengths: number[]): Promise<{ disk: SimDisk; segments: SegmentEntry[] }> {
  const { writer, disk } = await started()
  for (const [i, length] of lengths.entries()) {
    await writer.append(recordOf(i + 1, length))
    if (length % 10 === 3) writer.appendVoid(i + 1, 5)
  }
  await writer.close()
  const { segments } = inspected(disk)
  // Those that are not the last still have the size of their file, which ends with their records.
  return { disk, segments }
}

const headerOf = (changes: Partial<SegmentHeader> = {}): Uint8Array =>
  encodeSegmentHeader(
    {
      ...{ busId: 'ab'.repeat(16), firstEpoch: 1, headerSeed: 1, recordSeed: 2, createdMs: 3, version: 2 },
      ...changes,
    },
    crc32c,
  )

t.test('no log, an empty folder, other files: nothing is found, and nothing is wrong', async (t) => {
  const disk = new SimDisk()
  const none = { segments: [], busId: undefined, ...nothing, damage: undefined }
  t.strictSame(inspected(disk), none)
  disk.makeDir(LOG)
  t.strictSame(inspected(disk), none)
  for (const name of ['next.tmp', '1.seg', `${segmentName(1)}.bak`]) disk.put(`${LOG}/${name}`, headerOf())
  t.strictSame(inspected(disk), none)
  t.equal(disk.openCount, 0)
})

t.test('inspecting reads every header, and the records of the last segment', async (t) => {
  const { disk } = await logOf(30_000, 25_000, 30_000, 103, 20)
  const seen: [number, number, number, number][] = []
  const log = inspectLog(folderOf(disk), ({ firstEpoch }, { record, offset, byteLength }) =>
    seen.push([firstEpoch, record.epoch, offset, byteLength]),
  )
  const third = recordBytes(30_000, 2)
  const fourth = recordBytes(103, 2) + 64
  t.same(seen, [
    [3, 3, START, third],
    [3, 4, START + third, fourth],
    [3, 5, START + third + fourth, recordBytes(20, 2)],
  ])
  const end = START + third + fourth + recordBytes(20, 2)
  t.match(log, { busId: 'ab'.repeat(16), newestEpoch: 5, tornBytes: 0, unsureFrom: end, damage: undefined })
  t.same(
    log.segments.map(({ header, file }) => [header.firstEpoch, file]),
    [
      [1, fileOf(1)],
      [3, fileOf(3)],
    ],
  )
  t.same(
    log.segments.map((entry) => entry.end),
    [disk.bytesOf(fileOf(1)).length, end],
  )
  t.equal(disk.openCount, 0)
  const infinite = Number.POSITIVE_INFINITY
  const spans = [
    [1, 2],
    [3, infinite],
  ].map(([firstEpoch, lastEpoch], i) => ({
    ...{ firstEpoch, lastEpoch, bytes: log.segments[i]?.end, createdMs: 77 },
  }))
  t.strictSame(spansOf(log.segments), spans)
  t.same(spansOf([]), [])
})

t.test('a header that is not sound, of another bus, or of another epoch is damage', async (t) => {
  const cases: [Uint8Array, RegExp][] = [
    [headerOf({ firstEpoch: 2, busId: 'cd'.repeat(16) }), /^segment 0+2\.seg belongs to another bus$/],
    [headerOf({ firstEpoch: 3 }), /^segment 0+2\.seg: its header says it begins with epoch 3$/],
    [headerOf({ firstEpoch: 2 }).subarray(0, 100), /^segment 0+2\.seg: the file is shorter than/],
  ]
  for (const [bytes, damage] of cases) {
    const disk = new SimDisk()
    disk.put(fileOf(1), headerOf())
    disk.put(fileOf(2), bytes)
    const log = inspected(disk)
    t.match(log, { ...nothing, damage, busId: 'ab'.repeat(16) })
    t.equal(log.segments.length, 1, 'those before it')
    t.equal(disk.openCount, 0)
  }
})

t.test('torn bytes are counted; damage says what a cut would lose', async (t) => {
  const { disk } = await logOf(100, 100, 100)
  const whole = Uint8Array.from(disk.bytesOf(fileOf(1)))
  const end = START + 3 * SIZE
  const torn = whole.slice(0, end - 7)
  disk.put(fileOf(1), torn)
  t.match(inspected(disk), {
    newestEpoch: 2,
    tornBytes: SIZE - 7,
    unsureFrom: START + SIZE,
    damage: undefined,
  })
  const cases: [number, string][] = [
    [
      START + 2 * SIZE + 80,
      'the record of epoch 3 is damaged (the log was closed cleanly after it); cutting the log there would lose epoch 3 and any after it',
    ],
    [
      START + 80,
      'the record of epoch 1 is damaged (the log was closed cleanly after it); cutting the log there would lose epochs 1 to 3',
    ],
  ]
  for (const [at, text] of cases) {
    const bad = whole.slice()
    bad[at] = (bad[at] as number) ^ 1
    disk.put(fileOf(1), bad)
    const { damage, newestEpoch, tornBytes } = inspected(disk)
    const offset = at - 80
    t.equal(
      damage,
      `segment ${segmentName(1)}, offset ${offset}: ${text} where no checkpoint has them; \`mmsb log check\` says what --fix would do`,
    )
    t.same([newestEpoch, tornBytes], [(offset - START) / SIZE, 0])
  }
  const missing = whole.slice()
  missing.fill(0, START + 2 * SIZE, end)
  disk.put(fileOf(1), missing)
  t.match(inspected(disk).damage, /the record of epoch 3 is missing \(/)
})

t.test(
  'a long inspection may be interrupted, after some small records and after each large one',
  async (t) => {
    const { writer, disk } = await started({ segmentBytes: 8 * LOG_READ_BYTES, fsync: 'off' })
    for (let epoch = 1; epoch <= 130; epoch++) await writer.append(recordOf(epoch))
    const pausesOf = (): number => {
      let pauses = 0
      const work = inspectingLog(folderOf(disk), () => {})
      for (let step = work.next(); step.done !== true; step = work.next()) pauses++
      return pauses
    }
    t.equal(pausesOf(), 2)
    const exact = LOG_READ_BYTES - recordBytes(0, 2)
    await writer.append(recordOf(131, exact))
    t.equal(pausesOf(), 2)
    await writer.append(recordOf(132, exact + 1))
    t.equal(pausesOf(), 3)
    await writer.close()
  },
)

// ---- opening -------------------------------------------------------------------------------------

function optionsOf(disk: SimDisk): SegmentWriterOptions {
  return {
    ...{ disk, logDir: LOG, crc32c, fsync: 'off', segmentBytes: 8192, busId: 'ab'.repeat(16) },
    ...{ clock: () => 1, random: (length) => new Uint8Array(length), setTimer: () => () => {} },
    ...{
      onAppended: () => {},
      onVoided: () => {},
      onRotated: () => {},
      onFailed: () => {},
      lost: () => undefined,
    },
  }
}

t.test(
  'a new log begins with an empty segment that is durable before the writer is handed out',
  async (t) => {
    const disk = new SimDisk()
    disk.put(NEXT, Uint8Array.of(1))
    const segments: SegmentEntry[] = []
    const writer = await openLog(optionsOf(disk), inspected(disk), segments)
    t.notOk(disk.exists(NEXT))
    t.match(segments, [{ file: fileOf(1), end: START, header: { firstEpoch: 1, version: 2 } }])
    t.same([writer.end, writer.newestEpoch, writer.durableEpoch], [START, 0, 0])
    t.match(inspected(disk.crash('drop')), { newestEpoch: 0, damage: undefined, segments: [{ end: START }] })
    await writer.close()
  },
)

t.test('a new log that cannot be begun closes its file', async (t) => {
  for (const fault of ['write', 'sync', 'syncDir'] as const) {
    const disk = new SimDisk()
    disk.makeDir(LOG)
    let syncs = 0
    disk.fault = (call) => {
      // The first sync is that of the room.
      if (call === fault && (call !== 'sync' || ++syncs === 2)) throw new Error('EIO')
    }
    const opened = openLog(optionsOf(disk), inspected(disk), [])
    await t.rejects(opened, { code: 'BUS_FAILED', message: 'the log cannot be begun: EIO' }, fault)
    t.equal(disk.openCount, 0)
  }
})

t.test(
  'an existing log goes on behind its records; torn bytes are cut, doubtful ones written again',
  async (t) => {
    const { disk, segments } = await logOf(100, 100)
    disk.put(NEXT, Uint8Array.of(1))
    const whole = Uint8Array.from(disk.bytesOf(fileOf(1)))
    const end = START + 2 * SIZE
    const torn = new Uint8Array(end + 50).fill(7)
    torn.set(whole.subarray(0, end))
    disk.put(fileOf(1), torn)
    const writes: string[] = []
    const { writeSync } = disk
    disk.writeSync = (fd, parts, at) => {
      writes.push(`${at} ${parts.map((part) => part.length).join()}`)
      writeSync.call(disk, fd, parts, at)
    }
    const log = inspected(disk)
    const writer = await openLog(optionsOf(disk), log, segments)
    t.same(writes.splice(0), [`${START + SIZE} ${SIZE}`], 'the last one, from where a sync is in doubt')
    t.notOk(disk.exists(NEXT))
    t.same([writer.end, writer.newestEpoch, writer.durableEpoch], [end, 2, 2])
    const bytes = disk.bytesOf(fileOf(1))
    t.equal(bytes.length, 8192, 'room is reserved again')
    t.ok(
      bytes.subarray(end).every((byte) => byte === 0),
      'and clear',
    )
    await writer.append(recordOf(3))
    await writer.close()
    t.match(inspected(disk), { newestEpoch: 3, damage: undefined })
  },
)

t.test('a log on a full disk opens, and takes no record until there is room', async (t) => {
  const { disk, segments } = await logOf(100)
  disk.roomBytes = 0
  const writer = await openLog(optionsOf(disk), inspected(disk), segments)
  t.equal(disk.bytesOf(fileOf(1)).length, START + SIZE)
  await t.rejects(writer.append(recordOf(2)), { code: 'LOG_FULL' })
  disk.roomBytes = 1e6
  await writer.append(recordOf(2))
  t.equal(writer.newestEpoch, 2)
  await writer.close()
  const other = await logOf(100)
  other.disk.fault = (call) => {
    if (call === 'allocate') throw new Error('EIO')
  }
  const opened = openLog(optionsOf(other.disk), inspected(other.disk), other.segments)
  await t.rejects(opened, { code: 'BUS_FAILED', message: /cannot be written: EIO/ })
  t.equal(other.disk.openCount, 0)
})

t.test('a segment that is larger than new ones are keeps its size', async (t) => {
  const { disk, segments } = await logOf(5000)
  const writer = await openLog({ ...optionsOf(disk), fsync: 'always' }, inspected(disk), segments)
  t.equal(disk.bytesOf(fileOf(1)).length, START + recordBytes(5000, 2))
  await writer.append(recordOf(2))
  t.ok(disk.exists(fileOf(2)))
  await writer.close()
})

// ---- reading back --------------------------------------------------------------------------------

t.test('the segment of an epoch', async (t) => {
  const entries = [1, 4, 9, 10].map((firstEpoch) => ({ header: { firstEpoch } })) as SegmentEntry[]
  const expected = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3]
  t.same(
    expected.map((_, epoch) => segmentOf(entries, epoch)),
    expected,
  )
  t.equal(segmentOf(entries.slice(0, 1), 5), 0)
})

const LENGTHS = [20_000, 103, 30_000, 40_000, 100, 13, 50_000, 100]
const placesOf = (entry: SegmentEntry, disk: SimDisk): [number, number][] => {
  const places: [number, number][] = []
  const last = inspectLog(folderOf(disk), () => {})
  t.ok(last.segments.length > 0)
  let offset = START
  for (let epoch = entry.header.firstEpoch; offset < entry.end - 64; epoch++) {
    const length = LENGTHS[epoch - 1] as number
    const byteLength = recordBytes(length, 2) + (length % 10 === 3 ? 64 : 0)
    places.push([offset, byteLength])
    offset += byteLength
  }
  return places
}

t.test('records from any epoch to any other, across segments', async (t) => {
  const { disk, segments } = await logOf(...LENGTHS)
  t.same(
    segments.map(({ header }) => header.firstEpoch),
    [1, 4, 7],
  )
  for (let from = 0; from <= 8; from++) {
    for (let newest = from; newest <= 8; newest++) {
      const records = [...recordsAfter(folderOf(disk), segments, from, newest)]
      t.same(
        records.map(({ epoch }) => epoch),
        epochsTo(newest, from + 1),
      )
    }
  }
  t.equal(disk.openCount, 0)
  const { open } = disk
  disk.open = (file, flags) => {
    t.not(file, fileOf(7), 'a segment of later epochs is not opened')
    return open.call(disk, file, flags)
  }
  t.equal([...recordsAfter(folderOf(disk), segments, 3, 6)].length, 3)
  disk.open = open
  const bad = Uint8Array.from(disk.bytesOf(fileOf(4)))
  bad[START + 100] = (bad[START + 100] as number) ^ 1
  disk.put(fileOf(4), bad)
  const read: number[] = []
  const reading = (): void => {
    for (const { epoch } of recordsAfter(folderOf(disk), segments, 0, 8)) read.push(epoch)
  }
  const message = new RegExp(
    `^the log is damaged: segment ${segmentName(4)}, offset ${START}: the record of epoch 4 is damaged ` +
      '\\(later records were written when it was durable\\); cutting the log there would lose epochs 4 to 8',
  )
  t.throws(reading, { code: 'BUS_FAILED', message })
  t.same(read, [1, 2, 3])
  for (const [newest, lost] of [
    [4, 'epoch 4 and any after it'],
    [5, 'epochs 4 to 5'],
  ] as const) {
    const until = () => [...recordsAfter(folderOf(disk), segments, 3, newest)]
    t.throws(until, { message: new RegExp(`would lose ${lost} where`) })
  }
  t.equal(disk.openCount, 0)
})

t.test('forward from any record, to any other, with their places', async (t) => {
  const { disk, segments } = await logOf(...LENGTHS)
  for (const entry of segments.slice(0, 2)) {
    const first = entry.header.firstEpoch
    const places = placesOf(entry, disk)
    t.equal(places.length, 3)
    for (let from = 0; from < 3; from++) {
      for (let to = from; to < 3; to++) {
        const found: unknown[] = []
        const [start] = places[from] as [number, number]
        const forward = readForward(folderOf(disk), entry, start, first + from, first + to)
        for await (const { record, offset, byteLength } of forward)
          found.push([record.epoch, offset, byteLength, record.isVoid])
        const expected = places.slice(from, to + 1).map(([offset, byteLength], i) => {
          const epoch = first + from + i
          return [epoch, offset, byteLength, (LENGTHS[epoch - 1] as number) % 10 === 3]
        })
        t.same(found, expected)
      }
    }
  }
  const none = readForward(folderOf(disk), segments[0] as SegmentEntry, START, 1, 0)
  t.ok((await none.next()).done)
  t.equal(disk.openCount, 0)
})

t.test('a block may begin with the void record of the epoch before', async (t) => {
  const { disk, segments } = await logOf(103, 100)
  const found: number[] = []
  const start = START + recordBytes(103, 2)
  for await (const { record } of readForward(folderOf(disk), segments[0] as SegmentEntry, start, 2, 2))
    found.push(record.epoch)
  t.same(found, [2])
})

t.test('records larger than a window, and windows that end anywhere', async (t) => {
  const { writer, disk } = await started({ segmentBytes: 8 * LOG_READ_BYTES, fsync: 'off' })
  const most = LOG_READ_BYTES - 64 - recordBytes(0, 2)
  const lengths = [100, LOG_READ_BYTES + 1000, 100, most - SIZE, 100, 2 * LOG_READ_BYTES, most, 100]
  for (const [i, length] of lengths.entries()) {
    await writer.append(recordOf(i + 1, length))
    if (i % 3 === 0) writer.appendVoid(i + 1, 5)
  }
  const { segments } = inspected(disk)
  const [entry] = segments as [SegmentEntry]
  let most1 = 0
  const { read } = disk
  disk.read = (fd, into, length, at) => {
    most1 = Math.max(most1, at + length)
    return read.call(disk, fd, into, length, at)
  }
  const found: unknown[] = []
  const kept: (() => unknown)[] = []
  for await (const { record } of readForward(folderOf(disk), entry, START, 1, lengths.length)) {
    found.push([record.epoch, record.isVoid])
    kept.push(() => (record.isVoid === true ? record.frames.length : plain(record)))
  }
  t.same(
    found,
    lengths.map((_, i) => [i + 1, i % 3 === 0]),
  )
  t.ok(most1 <= entry.end, 'nothing behind the records is read')
  for (const [i, look] of kept.entries())
    if (i % 3 !== 0) t.same(look(), plain(recordOf(i + 1, lengths[i])), 'records own their bytes')
  await writer.close()
})

t.test('a record that is not sound ends a read, and is named', async (t) => {
  const { disk, segments } = await logOf(100, 100, 100)
  const [entry] = segments as [SegmentEntry]
  const whole = Uint8Array.from(disk.bytesOf(fileOf(1)))
  const second = START + SIZE
  const seal = whole.subarray(START + 3 * SIZE, START + 3 * SIZE + 64)
  const cases: [string, (bytes: Uint8Array) => void][] = [
    ['a body', (bytes) => bytes.fill(0, second + 80, second + 90)],
    ['a header', (bytes) => bytes.fill(0, second, second + 30)],
    ['another epoch', (bytes) => bytes.set(whole.subarray(second + SIZE, second + 2 * SIZE), second)],
    ['the same epoch again', (bytes) => bytes.set(whole.subarray(START, second), second)],
    ['a seal', (bytes) => bytes.set(seal, second)],
  ]
  for (const [what, damage] of cases) {
    const bytes = whole.slice()
    damage(bytes)
    disk.put(fileOf(1), bytes)
    const read: number[] = []
    const reading = async (): Promise<void> => {
      for await (const { record } of readForward(folderOf(disk), entry, START, 1, 3)) read.push(record.epoch)
    }
    const message = `the log is damaged: segment ${segmentName(1)}, offset ${second}: the record of epoch 2 is not sound`
    await t.rejects(reading(), { code: 'INTERNAL', message }, what)
    t.same(read, [1], what)
  }
  disk.put(fileOf(1), whole.slice(0, second + 30))
  const reading = async (): Promise<void> => {
    for await (const _ of readForward(folderOf(disk), entry, START, 1, 3));
  }
  await t.rejects(reading(), { code: 'INTERNAL' }, 'a file that is too short')
  t.equal(disk.openCount, 0)
})
