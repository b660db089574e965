/**
 * One segment, laid out byte by byte: which records are read, where they end and why, and whether what lies
 * behind is a torn write or proves damage.
 */
import t, { type Test } from 'tap'
import { crc32c as native } from '../../../src/ffi/library.js'
import { LOG_READ_BYTES, SEGMENT_HEADER_BYTES } from '../../../src/limits.js'
import {
  encodeRecordHeader,
  encodeSeal,
  encodeSegmentHeader,
  encodeVoid,
  recordBytes,
  type SegmentHeader,
  viewOf,
} from '../../../src/store/log/record.js'
import { isZero, readSegmentHeader, SegmentScanner } from '../../../src/store/log/segment-reader.js'
import type { Crc32c } from '../../../src/store/types.js'
import { SimDisk } from '../../support/simdisk.js'

const FILE = '/sim/one.seg'
const START = SEGMENT_HEADER_BYTES
const SEGMENT: SegmentHeader = {
  ...{ version: 2, busId: 'ab'.repeat(16), firstEpoch: 5, headerSeed: 11, recordSeed: 22, createdMs: 1 },
}

// ---- laying a segment out ------------------------------------------------------------------------

const ALL_SYNCED = { eachSynced: true, unsynced: 0 }
const unsynced = (count: number) => ({ eachSynced: false, unsynced: count })

/** A record with this many bytes of frames and two page ids. None of the bytes behind its header is zero. */
function record(epoch: number, mark = ALL_SYNCED, length = 24): Uint8Array {
  const bytes = new Uint8Array(recordBytes(length, 2))
  const frames = new Uint8Array(length).fill(0xee)
  const touchedPages = Uint32Array.of(0x7777_7777, 0x7777_7777)
  bytes.set(frames, 64)
  bytes.fill(0x77, bytes.length - 8)
  const digestBefore = new Uint8Array(16).fill(9)
  const whole = { epoch, timestampMs: epoch * 10, digestBefore, frameCount: 1, frames, touchedPages }
  encodeRecordHeader(bytes, viewOf(bytes), whole, [bytes.subarray(64)], SEGMENT, mark, native)
  return bytes
}
const RECORD = recordBytes(24, 2)
const voided = (epoch: number, mark = ALL_SYNCED): Uint8Array => encodeVoid(epoch, 1, SEGMENT, mark, native)
const seal = (epoch: number): Uint8Array => encodeSeal(epoch, 1, SEGMENT, native)
const zeros = (length: number): Uint8Array => new Uint8Array(length)
const bytesOf = (length: number): Uint8Array => new Uint8Array(length).fill(0xa5)

/** The bytes with one byte changed; counted from the end if it is negative. */
function broken(bytes: Uint8Array, at = 70): Uint8Array {
  const other = bytes.slice()
  const index = at < 0 ? bytes.length + at : at
  other[index] = (other[index] as number) ^ 0x10
  return other
}
/** A header that is as sound as it was, and a body that is not. */
const bodyBroken = (bytes: Uint8Array): Uint8Array => broken(bytes, 70)
const headerBroken = (bytes: Uint8Array): Uint8Array => broken(bytes, 20)

const fileOf = (...parts: Uint8Array[]): Uint8Array =>
  Uint8Array.from(Buffer.concat([encodeSegmentHeader(SEGMENT, native), ...parts]))

// ---- scanning it ---------------------------------------------------------------------------------

/** The checksum without the check of many records at once. */
const single: Crc32c = (bytes, seed) => native(bytes, seed)

interface From {
  readonly windowBytes?: number
  readonly crc?: Crc32c
  readonly offset?: number
  readonly epoch?: number
  readonly unseen?: Uint8Array
}

class Reads extends SimDisk {
  count = 0
  mostBytes = 0
  override readSync(fd: number, into: Uint8Array, length: number, position: number): number {
    this.count++
    this.mostBytes = Math.max(this.mostBytes, into.length)
    return super.readSync(fd, into, length, position)
  }
}

/** Bytes that lie in the file behind the part that a scan may see. */
const UNSEEN = Uint8Array.from(Buffer.concat([record(7), record(9), seal(10), bytesOf(100)]))

function scannerOf(bytes: Uint8Array, from: From = {}): { scanner: SegmentScanner; disk: Reads } {
  const disk = new Reads()
  disk.put(FILE, Uint8Array.from(Buffer.concat([bytes, from.unseen ?? zeros(0)])))
  const fd = disk.open(FILE, {})
  const { crc = native, offset, epoch, windowBytes } = from
  return {
    disk,
    scanner: new SegmentScanner(disk, fd, bytes.length, SEGMENT, crc, offset, epoch, windowBytes),
  }
}

function scan(bytes: Uint8Array, isFollowed?: boolean, from?: From) {
  const { scanner } = scannerOf(bytes, from)
  const epochs: number[] = []
  for (let next = scanner.next(); next !== undefined; next = scanner.next())
    epochs.push(next.record.isVoid === true ? -next.record.epoch : next.record.epoch)
  const reason = scanner.ended
  const verdict = scanner.judgeEnd(isFollowed)
  const { offset, nextEpoch, unsureFrom, ended } = scanner
  return { epochs, reason, verdict, offset, nextEpoch, unsureFrom, ended }
}

const WAYS: readonly From[] = [
  { windowBytes: 64 },
  { windowBytes: 200 },
  { windowBytes: 64, crc: single },
  { windowBytes: 200, crc: single, unseen: UNSEEN },
  { crc: single },
  { unseen: UNSEEN },
]

/** The same by every window and both checksums. A damaged length is met as either kind of damage. */
function scanAll(t: Test, bytes: Uint8Array, isFollowed?: boolean) {
  const first = scan(bytes, isFollowed)
  const others = WAYS.map((way) => {
    const { reason, ended, ...other } = scan(bytes, isFollowed, way)
    const isAlike = first.reason === 'body' && reason === 'header'
    const reasons = {
      reason: isAlike ? 'body' : reason,
      ended: ended === 'header' && isAlike ? 'body' : ended,
    }
    return { ...other, ...reasons }
  })
  t.strictSame(others, Array(WAYS.length).fill(first), 'the same in every way')
  return first
}

const torn = (bytes: number) => ({ tornBytes: bytes })
const damage = (why: string, newestEpoch: number) => ({ damage: why, newestEpoch })
const TWO = [record(5), record(6)]
const AFTER_TWO = START + 2 * RECORD

t.test('regular ends: a seal, zeros, the end of the file', async (t) => {
  const sealed = { epochs: [5, 6], reason: 'seal', ended: 'seal', offset: AFTER_TWO, nextEpoch: 7 }
  const unsure = { unsureFrom: AFTER_TWO, verdict: torn(0) }
  t.match(scanAll(t, fileOf(...TWO, seal(7))), { ...sealed, ...unsure })
  t.match(scanAll(t, fileOf(...TWO, seal(7), zeros(9)), true), { ...sealed, ...unsure })
  for (const left of [0, 1, 63, 64, 65, 5000]) {
    for (const isFollowed of [false, true]) {
      const found = scanAll(t, fileOf(...TWO, zeros(left)), isFollowed)
      const ended = { reason: 'empty', ended: 'empty', unsureFrom: START + RECORD, verdict: torn(0) }
      t.match(found, { ...ended, epochs: [5, 6], offset: AFTER_TWO, nextEpoch: 7 }, `${left} zeros`)
    }
  }
  t.match(scanAll(t, fileOf()), {
    epochs: [],
    reason: 'empty',
    offset: START,
    nextEpoch: 5,
    unsureFrom: START,
  })
})

t.test('records are handed out with their places and contents', async (t) => {
  const { scanner } = scannerOf(fileOf(record(5), record(6, ALL_SYNCED, 4001), voided(6), record(7)))
  t.throws(() => scanner.judgeEnd(), /before the end/)
  const big = recordBytes(4001, 2)
  const places = [
    [START, RECORD],
    [START + RECORD, big + 64],
    [START + RECORD + big + 64, RECORD],
  ]
  for (const [i, [offset, byteLength]] of places.entries()) {
    const found = scanner.next()
    t.match(found, { offset, byteLength, record: { epoch: 5 + i, isVoid: i === 1 } })
    t.equal(found?.record.frames.length, i === 1 ? 0 : 24)
  }
  t.equal(scanner.next(), undefined)
  t.equal(scanner.next(), undefined, 'it stays at its end')
})

t.test('from which record on a sync is not known', async (t) => {
  const later = START + 3 * RECORD
  const parts = [record(5), record(6), record(7, unsynced(1)), record(8, unsynced(2))]
  t.equal(scan(fileOf(...parts)).unsureFrom, START + RECORD, 'the last one that knew all before it')
  t.equal(scan(fileOf(...parts.slice(0, 3), record(8))).unsureFrom, later)
  t.equal(scan(fileOf(record(5, unsynced(0)), record(6, unsynced(1)))).unsureFrom, START)
  t.equal(scan(fileOf(...parts, seal(9))).unsureFrom, START + 4 * RECORD)
})

t.test('void records: behind their record, and where a scan begins', async (t) => {
  const bytes = fileOf(record(5), voided(5), record(6), voided(6), record(7))
  t.match(scanAll(t, bytes), { epochs: [-5, -6, 7], reason: 'empty', offset: bytes.length })
  const behind = { offset: START + RECORD, epoch: 6 }
  t.match(scan(bytes, false, behind), { epochs: [-6, 7], nextEpoch: 8 })
  t.match(scan(bytes, false, { ...behind, crc: single }), { epochs: [-6, 7], nextEpoch: 8 })
  t.match(scan(bytes, false, { offset: START + RECORD + 64, epoch: 6 }), { epochs: [-6, 7] })
  t.match(scan(fileOf(record(5), voided(4))), { epochs: [5], reason: 'epoch' }, 'of another epoch')
  t.match(scan(fileOf(record(5), broken(voided(5), 24))), { epochs: [5], reason: 'body' })
})

t.test('why a scan ends', async (t) => {
  const cases: [string, Uint8Array[], string][] = [
    ['a header that is none', [headerBroken(record(7)), zeros(100)], 'body'],
    ['no magic', [broken(record(7), 0), zeros(100)], 'header'],
    ['a length that fits nothing', [broken(record(7), 12), zeros(100)], 'header'],
    ['less than a header', [record(7).subarray(0, 63)], 'header'],
    ['less than a header, at its end', [zeros(62), bytesOf(1)], 'header'],
    ['a sound header and less than a body', [record(7).subarray(0, RECORD - 1)], 'length'],
    ['a body that is not sound', [bodyBroken(record(7))], 'body'],
    ['another epoch', [record(8)], 'epoch'],
    ['an older one', [record(6)], 'epoch'],
    ['a seal of another epoch', [seal(8)], 'epoch'],
    ['a damaged seal', [broken(seal(7), 24)], 'body'],
  ]
  for (const [what, parts, reason] of cases) {
    const found = scanAll(t, fileOf(...TWO, ...parts))
    t.match(found, { epochs: [5, 6], reason, nextEpoch: 7, offset: AFTER_TWO }, what)
  }
})

t.test('a length beyond the window is trusted only under a right header', async (t) => {
  const big = record(7, ALL_SYNCED, 5000)
  const from = { crc: single, windowBytes: 300 }
  t.match(scan(fileOf(...TWO, big, record(8)), false, from), { epochs: [5, 6, 7, 8] })
  t.match(scan(fileOf(...TWO, headerBroken(big), record(8)), false, from), {
    epochs: [5, 6],
    reason: 'header',
  })
  t.match(scan(fileOf(...TWO, bodyBroken(big), record(8)), false, from), { epochs: [5, 6], reason: 'body' })
  const small = record(7, ALL_SYNCED, 80)
  t.equal(scan(fileOf(...TWO, small, record(8)), false, from).nextEpoch, 9)
  t.equal(scan(fileOf(...TWO, headerBroken(small), record(8)), false, from).reason, 'header')
  // Beyond the file too: the header decides what is said.
  const cut = fileOf(...TWO, big.subarray(0, 400))
  t.equal(scan(cut, false, from).reason, 'length')
  t.equal(scan(fileOf(...TWO, headerBroken(big).subarray(0, 400)), false, from).reason, 'header')
})

t.test('a torn write is cut', async (t) => {
  const last = record(7)
  const cases: [string, Uint8Array[], number][] = [
    ['the first half', [last.subarray(0, 49), zeros(200)], 49],
    ['all but its last byte', [last.subarray(0, RECORD - 1), zeros(200)], RECORD - 1],
    ['its end alone', [zeros(RECORD - 1), bytesOf(1), zeros(100)], RECORD],
    ['a body that did not arrive', [last.subarray(0, 64), zeros(100)], 64],
    ['bytes up to the end of the file', [bytesOf(333)], 333],
    ['a sound header, the end of the body missing', [bodyBroken(last), zeros(77)], RECORD],
  ]
  for (const [what, parts, length] of cases)
    t.strictSame(scanAll(t, fileOf(...TWO, ...parts)).verdict, torn(length), what)
})

t.test('a torn write in a segment that others follow is damage', async (t) => {
  const why = damage('a later segment was begun', 7)
  t.strictSame(scanAll(t, fileOf(...TWO, bytesOf(70)), true).verdict, why)
  t.strictSame(scanAll(t, fileOf(bytesOf(1)), true).verdict, damage('a later segment was begun', 5))
})

t.test('another epoch in the place of the next one is damage', async (t) => {
  const why = damage('a record of another epoch is in its place', 7)
  for (const parts of [[record(8)], [record(8), zeros(9)], [seal(9)]])
    t.strictSame(scanAll(t, fileOf(...TWO, ...parts)).verdict, why)
})

t.test('bytes behind a seal are damage', async (t) => {
  const why = damage('bytes follow the seal of a clean close', 7)
  t.strictSame(scanAll(t, fileOf(...TWO, seal(7), bytesOf(1))).verdict, why)
  t.strictSame(scanAll(t, fileOf(...TWO, seal(7), zeros(500), bytesOf(1), zeros(2))).verdict, why)
  t.strictSame(scanAll(t, fileOf(...TWO, seal(7), bytesOf(1)), true).verdict, why)
})

t.test('what lies behind a record that is not sound may prove that it was durable', async (t) => {
  const closed = (newest: number) => damage('the log was closed cleanly after it', newest)
  const written = (epoch: number) =>
    damage(`the record of epoch ${epoch} was written when it was durable`, epoch)
  const bad = broken(record(7, unsynced(0)), 80)
  const cases: [string, Uint8Array[], object | undefined][] = [
    ['a later record that knew it to be durable', [record(8)], written(8)],
    ['the same, without `always`', [record(8, unsynced(0))], written(8)],
    ['one that did not', [record(8, unsynced(1))], undefined],
    ['one that knew of fewer', [record(9, unsynced(1))], written(9)],
    ['one that knew of as many', [record(9, unsynced(2))], undefined],
    ['the newest that knew counts', [record(8), record(9, unsynced(0))], written(9)],
    ['one that did not know does not count', [record(8), record(9, unsynced(2))], written(8)],
    ['one that knew behind one that did not', [record(8, unsynced(1)), record(9, unsynced(1))], written(9)],
    ['far behind', [zeros(1600), record(8), zeros(300)], written(8)],
    ['up to the last byte', [bytesOf(800), record(12)], written(12)],
    ['its void record', [voided(7, unsynced(0))], written(7)],
    ['a void record that did not know', [voided(7, unsynced(1))], undefined],
    ['the void record of a later one', [voided(8, unsynced(1))], written(8)],
    ['a seal', [seal(8)], closed(7)],
    ['a seal behind others', [record(8, unsynced(1)), seal(9)], closed(8)],
    ['a seal that is behind a record', [record(8, unsynced(0)), seal(9)], closed(8)],
    ['a header is enough', [record(8).subarray(0, 64)], written(8)],
    ['a body that is broken too', [bodyBroken(record(8))], written(8)],
    ['a header that is not sound', [headerBroken(record(8))], undefined],
    ['less than a header', [record(8).subarray(0, 63)], undefined],
    ['not where a record can be', [zeros(4), record(8), zeros(4)], undefined],
    ['an older record', [record(6)], undefined],
    ['the record itself again', [record(7)], undefined],
  ]
  for (const [what, parts, expected] of cases) {
    const found = scanAll(t, fileOf(...TWO, bad, ...parts))
    t.equal(found.reason, 'body', what)
    if (expected !== undefined) t.strictSame(found.verdict, expected, what)
    else t.ok('tornBytes' in found.verdict && found.verdict.tornBytes > RECORD, what)
  }
})

t.test('evidence is found wherever it lies, and not before the end', async (t) => {
  const bad = broken(record(7, unsynced(0)), 80)
  const why = damage('the record of epoch 8 was written when it was durable', 8)
  const from = AFTER_TWO + 8
  for (const step of [-136, -128, -72, -64, -56, -8, 0, 8, 64]) {
    const gap = from + LOG_READ_BYTES + step - (AFTER_TWO + RECORD)
    t.strictSame(scan(fileOf(...TWO, bad, zeros(gap), record(8))).verdict, why, `${step}`)
    const doubled = scan(fileOf(...TWO, bad, zeros(gap + LOG_READ_BYTES), record(8), zeros(2 ** 20))).verdict
    t.strictSame(doubled, why, `${step}, two pieces`)
  }
  // The second search reads less than the first: what the first one read is not met again.
  const again = fileOf(...TWO, bad, zeros(900_000), record(8), zeros(50_000), record(9, unsynced(0)))
  t.match(scan(again).verdict, { newestEpoch: 9 })
  // The record is followed within its own bytes: the search begins right behind its first ones.
  const inside = Uint8Array.from(Buffer.concat([bad.subarray(0, 8), record(8)]))
  t.strictSame(scan(fileOf(...TWO, inside)).verdict, why)
  t.strictSame(scan(fileOf(...TWO, inside.subarray(0, 72))).verdict, why, 'a header that ends the file')
})

t.test('a sound header of `always`, and more behind its record, is damage', async (t) => {
  const why = damage('a later write was begun, which happens only when it was durable', 7)
  const bad = bodyBroken(record(7))
  t.strictSame(scanAll(t, fileOf(...TWO, bad, bytesOf(1))).verdict, why)
  t.strictSame(scanAll(t, fileOf(...TWO, bad, zeros(999), bytesOf(1), zeros(9))).verdict, why)
  t.strictSame(scanAll(t, fileOf(...TWO, bad)).verdict, torn(RECORD), 'nothing behind it')
  const other = bodyBroken(record(7, unsynced(0)))
  t.strictSame(scanAll(t, fileOf(...TWO, other, bytesOf(1))).verdict, torn(RECORD + 1), 'not of `always`')
  const foreign = bodyBroken(record(9))
  t.strictSame(scanAll(t, fileOf(...TWO, foreign, bytesOf(1))).verdict, torn(RECORD + 1), 'another epoch')
  t.strictSame(scanAll(t, fileOf(...TWO, headerBroken(record(7)), bytesOf(1))).verdict, torn(RECORD + 1))
  const far = fileOf(...TWO, bad, zeros(3 * LOG_READ_BYTES), bytesOf(1), zeros(LOG_READ_BYTES))
  t.strictSame(scan(far).verdict, why)
})

t.test('a tail of any length is measured to its last byte that is not zero', async (t) => {
  for (const length of [LOG_READ_BYTES - 1, LOG_READ_BYTES, LOG_READ_BYTES + 1, 2 * LOG_READ_BYTES + 5]) {
    const tail = zeros(length)
    tail[length - 1] = 1
    t.strictSame(scan(fileOf(...TWO, tail)).verdict, torn(length))
    t.strictSame(scan(fileOf(...TWO, tail, zeros(LOG_READ_BYTES + 7))).verdict, torn(length))
  }
})

t.test('a long tail is read in pieces, each a few times at most', async (t) => {
  const tail = zeros(2 * LOG_READ_BYTES + 8000).fill(1, 4000)
  const { scanner, disk } = scannerOf(fileOf(...TWO, tail))
  while (scanner.next() !== undefined);
  t.strictSame(scanner.judgeEnd(), torn(tail.length))
  t.equal(disk.mostBytes, LOG_READ_BYTES)
  t.ok(disk.count <= 12, `${disk.count} reads`)
})

t.test('a lost void record: what follows shows that it was there, so its epoch is in doubt', async (t) => {
  const why = damage('a void record was written behind it', 6)
  const stepped = { epochs: [5, 6], verdict: why, ended: 'void', nextEpoch: 6, offset: START + RECORD }
  const lost = [zeros(64), bytesOf(64), broken(voided(6), 24), headerBroken(voided(6))]
  for (const hole of lost) {
    t.match(scanAll(t, fileOf(...TWO, hole, record(7))), stepped)
    t.match(scanAll(t, fileOf(...TWO, hole, seal(7))), stepped)
    t.match(scanAll(t, fileOf(...TWO, hole, bodyBroken(record(7)))), stepped, 'a sound header is enough')
    const end = { offset: AFTER_TWO, nextEpoch: 7 }
    t.match(scanAll(t, fileOf(...TWO, hole, record(8))), end, 'another epoch')
    t.match(scanAll(t, fileOf(...TWO, hole, voided(7))), end, 'a void record')
    t.match(scanAll(t, fileOf(...TWO, hole, headerBroken(record(7)))), end, 'no sound header')
    t.match(scanAll(t, fileOf(...TWO, hole, record(7).subarray(0, 63))), end, 'no whole header')
    t.match(scanAll(t, fileOf(...TWO, zeros(8), hole, record(7))), end, 'not right behind it')
  }
  t.strictSame(scanAll(t, fileOf(...TWO, bytesOf(64))).verdict, torn(64), 'nothing follows')
  const first = scanAll(t, fileOf(bytesOf(64), record(5)))
  t.match(first, { epochs: [], offset: START, nextEpoch: 5 }, 'there is no record before')
  const twice = scanAll(t, fileOf(...TWO, voided(6), bytesOf(64), record(7)))
  t.match(
    twice,
    { epochs: [5, -6], nextEpoch: 7, offset: AFTER_TWO + 64 },
    'the record before is void already',
  )
})

t.test('a lost void record at the end of a segment that others follow', async (t) => {
  const why = damage('a void record was written behind it', 6)
  for (const length of [1, 63, 64]) {
    const found = scanAll(t, fileOf(...TWO, bytesOf(length), zeros(100)), true)
    t.match(found, { verdict: why, ended: 'void', nextEpoch: 6, offset: START + RECORD }, `${length}`)
  }
  const more = scanAll(t, fileOf(...TWO, bytesOf(65)), true)
  t.match(more, { verdict: damage('a later segment was begun', 7), ended: 'header', offset: AFTER_TWO })
  const none = scanAll(t, fileOf(...TWO, voided(6), bytesOf(64)), true)
  t.match(none, { verdict: damage('a later segment was begun', 7), offset: AFTER_TWO + 64 })
})

t.test('the record of an epoch is found, whatever is before it', async (t) => {
  const bytes = fileOf(
    ...[record(5), bytesOf(72), seal(9), voided(9), headerBroken(record(9)), record(8), zeros(16)],
    ...[record(9), record(9), zeros(3 * LOG_READ_BYTES), record(10)],
  )
  const ninth = START + RECORD + 72 + 64 + 64 + RECORD + RECORD + 16
  for (const [epoch, offset] of [
    [5, START],
    [8, ninth - 16 - RECORD],
    [9, ninth],
    [10, bytes.length - RECORD],
    [11, undefined],
    [6, undefined],
  ] as const) {
    const { scanner } = scannerOf(bytes)
    t.equal(scanner.find(epoch), offset, `epoch ${epoch}`)
    t.equal(scanner.next(), undefined, 'that is the end of the scan')
    t.equal(scanner.ended, 'header')
  }
  const { scanner } = scannerOf(fileOf(record(5), seal(6), zeros(8), record(7)))
  t.ok(scanner.next())
  t.equal(scanner.next(), undefined)
  t.equal(scanner.find(5), undefined, 'from where the scan stands')
  t.equal(scanner.find(7), START + RECORD + 72)
  t.equal(scanner.ended, 'seal')
})

t.test('a window is read once, and many records are checked at once', async (t) => {
  const records = Array.from({ length: 40 }, (_, i) => record(5 + i))
  let [sums, runs] = [0, 0]
  const counted: Crc32c = Object.assign(
    (part: Uint8Array, seed?: number) => {
      sums++
      return native(part, seed)
    },
    {
      soundRecords: (...args: Parameters<NonNullable<Crc32c['soundRecords']>>) => {
        runs++
        return native.soundRecords(...args)
      },
    },
  )
  const whole = scannerOf(fileOf(...records), { crc: counted })
  while (whole.scanner.next() !== undefined);
  t.equal(whole.disk.count, 2, 'the second time at its end')
  t.ok(runs <= 2 && sums <= 2, `${runs} runs, ${sums} checksums one by one`)
  const pieces = scannerOf(fileOf(...records), { crc: single, windowBytes: 4 * RECORD })
  while (pieces.scanner.next() !== undefined);
  t.ok(pieces.disk.count <= 15, `${pieces.disk.count} reads of pieces`)
})

t.test('a header that is read from a file', async (t) => {
  const disk = new SimDisk()
  const read = (bytes: Uint8Array) => {
    disk.put(FILE, bytes)
    return readSegmentHeader(disk, disk.open(FILE, {}), native)
  }
  const bytes = fileOf(record(5))
  t.strictSame(read(bytes), SEGMENT)
  t.strictSame(read(bytes.subarray(0, START)), SEGMENT)
  t.match(read(bytes.subarray(0, START - 1)), /shorter than a segment header/)
  t.match(read(broken(bytes, 0)), /does not begin like/)
})

t.test('whether bytes are all zero', async (t) => {
  for (const length of [0, 1, LOG_READ_BYTES, LOG_READ_BYTES + 1, 2 * LOG_READ_BYTES]) {
    t.equal(isZero(zeros(length)), true)
    for (const at of [0, LOG_READ_BYTES - 1, LOG_READ_BYTES, length - 1]) {
      if (at < 0 || at >= length) continue
      const bytes = zeros(length)
      bytes[at] = 1
      t.equal(isZero(bytes), false, `${at} of ${length}`)
    }
  }
})
