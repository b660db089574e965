/**
 * Records checked a window at a time and one by one are the same, whatever is wrong, and both scans end at
 * the same place.
 */
import t from 'tap'
import { crc32c as native } from '../../../src/ffi/library.js'
import { RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES } from '../../../src/limits.js'
import { decodeSegmentHeader } from '../../../src/store/log/record.js'
import { segmentName } from '../../../src/store/log/segment-file.js'
import { SegmentScanner } from '../../../src/store/log/segment-reader.js'
import type { Crc32c } from '../../../src/store/types.js'
import { SimDisk } from '../../support/simdisk.js'
import { appendAll, crc32c, openStore, plain } from '../helpers.js'

const DIR = '/sim'
const FILE = `${DIR}/log/${segmentName(1)}`
const RECORDS = 12

/** A segment of records of many sizes, with room behind them or sealed. */
async function segmentBytes(fsync: 'always' | 'off', isSealed: boolean): Promise<Uint8Array> {
  const disk = new SimDisk()
  const store = await openStore(DIR, { disk, fsync, segmentBytes: 8192 })
  await appendAll(store, 1, RECORDS)
  if (isSealed) await store.close()
  return Uint8Array.from(disk.bytesOf(FILE))
}

/** Everything that a scan reports. */
function scanned(bytes: Uint8Array, checksum: Crc32c, windowBytes: number): unknown {
  const disk = new SimDisk()
  disk.put(FILE, bytes)
  const header = decodeSegmentHeader(bytes, native)
  if (typeof header === 'string') throw new Error(header)
  const fd = disk.open(FILE, {})
  const from = [SEGMENT_HEADER_BYTES, header.firstEpoch] as const
  const scanner = new SegmentScanner(disk, fd, bytes.length, header, checksum, ...from, windowBytes)
  const records: unknown[] = []
  for (let found = scanner.next(); found !== undefined; found = scanner.next())
    records.push([found.offset, found.byteLength, plain(found.record)])
  const { offset, nextEpoch, unsureFrom, ended } = scanner
  return { records, offset, nextEpoch, unsureFrom, ended, verdict: scanner.judgeEnd() }
}

/** The native checksum, record by record. */
const single: Crc32c = (bytes, seed) => native(bytes, seed)

function same(bytes: Uint8Array, windowBytes: number): string | undefined {
  const [one, many] = [single, native].map((checksum) =>
    JSON.stringify(scanned(bytes, checksum, windowBytes)),
  )
  return one === many ? undefined : `${many}, not ${one}`
}

const WINDOWS = [150, 700, 1024 ** 2]

t.test('sound segments', async (t) => {
  for (const fsync of ['always', 'off'] as const) {
    for (const isSealed of [false, true]) {
      const bytes = await segmentBytes(fsync, isSealed)
      for (const window of WINDOWS) t.equal(same(bytes, window), undefined)
      t.match(scanned(bytes, native, 1024), { nextEpoch: RECORDS + 1, ended: isSealed ? 'seal' : 'empty' })
    }
  }
  t.equal(
    native.soundRecords(await segmentBytes('always', true), 1, 0),
    0,
    'a header of a segment is no record',
  )
})

t.test('cut at every byte, and every byte flipped', async (t) => {
  const bytes = await segmentBytes('always', true)
  t.ok(bytes.length > RECORDS * RECORD_HEADER_BYTES)
  for (let at = SEGMENT_HEADER_BYTES; at < bytes.length; at++) {
    const flipped = bytes.slice()
    flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8))
    for (const [what, broken] of [
      ['cut', bytes.slice(0, at)],
      ['flipped', flipped],
    ] as const) {
      const wrong = same(broken, WINDOWS[at % WINDOWS.length] as number)
      if (wrong !== undefined) t.fail(`${what} at ${at}: ${wrong}`)
    }
  }
})

t.test('false headers with a right checksum, and records in the wrong place', async (t) => {
  const bytes = await segmentBytes('always', false)
  const segment = decodeSegmentHeader(bytes, native)
  if (typeof segment === 'string') return t.fail(segment)
  const view = new DataView(bytes.buffer)
  const second = SEGMENT_HEADER_BYTES + view.getUint32(SEGMENT_HEADER_BYTES + 12, true)
  const length = view.getUint32(second + 12, true)
  for (let at = 0; at < RECORD_HEADER_BYTES; at++) {
    if (at >= 4 && at < 8) continue
    for (let bit = 0; bit < 8; bit++) {
      const lying = bytes.slice()
      lying[second + at] = (lying[second + at] ?? 0) ^ (1 << bit)
      const claimed = new DataView(lying.buffer).getUint32(second + 12, true)
      const end = Math.min(lying.length, second + Math.max(claimed, RECORD_HEADER_BYTES))
      const crc = crc32c(lying.subarray(second + 8, end), segment.recordSeed)
      new DataView(lying.buffer).setUint32(second + 4, crc, true)
      for (const window of WINDOWS) {
        const wrong = same(lying, window)
        if (wrong !== undefined) t.fail(`byte ${at}, bit ${bit}, window ${window}: ${wrong}`)
      }
    }
  }
  const doubled = bytes.slice()
  doubled.set(bytes.subarray(second, second + length), second + length)
  t.equal(same(doubled, 1024 ** 2), undefined)
  t.match(scanned(doubled, native, 1024 ** 2), { nextEpoch: 3, ended: 'epoch' })
})
