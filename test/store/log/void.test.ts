/**
 * Void records: every reader finds them, whatever its windows and wherever it begins, and there is always
 * room for one; a torn one is cut, and then its epoch is not void.
 */
import t from 'tap'
import { crc32c as native } from '../../../src/ffi/library.js'
import { RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES } from '../../../src/limits.js'
import { decodeSegmentHeader } from '../../../src/store/log/record.js'
import { segmentName } from '../../../src/store/log/segment-file.js'
import { SegmentScanner } from '../../../src/store/log/segment-reader.js'
import type { Store } from '../../../src/store/store.js'
import type { Crc32c, LogRecord } from '../../../src/store/types.js'
import { SimDisk } from '../../support/simdisk.js'
import { openStore, recordOf } from '../helpers.js'

const DIR = '/sim'
const RECORDS = 40
const isVoid = (epoch: number): boolean => epoch % 3 === 0 || epoch === RECORDS

async function append(store: Store, from: number, to: number, length?: number): Promise<void> {
  for (let epoch = from; epoch <= to; epoch++) {
    const record = recordOf(epoch, length)
    await store.reserve(record.frames.length)
    await store.append(record)
    if (isVoid(epoch)) store.appendVoid(epoch, record.timestampMs)
  }
}

const shown = ({ epoch, isVoid, frames, frameCount, touchedPages }: LogRecord): unknown =>
  isVoid === true
    ? { epoch, isVoid, bytes: frames.length, frameCount, pages: touchedPages.length }
    : { epoch, frames: Buffer.from(frames).toString('hex') }

const expected = (from: number, to: number, length?: number): unknown[] => {
  const list: unknown[] = []
  for (let epoch = from; epoch <= to; epoch++) {
    list.push(
      isVoid(epoch)
        ? { epoch, isVoid: true, bytes: 0, frameCount: 0, pages: 0 }
        : { epoch, frames: Buffer.from(recordOf(epoch, length).frames).toString('hex') },
    )
  }
  return list
}

for (const fsync of ['always', 'interval', 'off'] as const) {
  t.test(`read back live and after a start, ${fsync}`, async (t) => {
    const disk = new SimDisk()
    const options = { disk, fsync, segmentBytes: 8192 }
    let store = await openStore(DIR, options)
    await append(store, 1, RECORDS, 400)
    for (let turn = 0; turn < 2; turn++) {
      t.same([...store.records(0)].map(shown), expected(1, RECORDS, 400))
      for (const from of [1, 2, 3, 4, 17, RECORDS]) {
        const found: unknown[] = []
        for await (const record of store.range(from, RECORDS)) found.push(shown(record))
        t.same(found, expected(from, RECORDS, 400), `from ${from}`)
      }
      t.ok(store.stats().segments > 2, 'they end segments too')
      await store.close()
      store = await openStore(DIR, options)
      t.equal(store.newestEpoch, RECORDS)
    }
    await append(store, RECORDS + 1, RECORDS + 3, 400)
    t.same([...store.records(RECORDS)].map(shown), expected(RECORDS + 1, RECORDS + 3, 400))
    await store.close()
  })
}

t.test('windows of any size, from any record or void record on', async (t) => {
  const disk = new SimDisk()
  const store = await openStore(DIR, { disk, fsync: 'always', segmentBytes: 65536 })
  await append(store, 1, RECORDS)
  const bytes = Uint8Array.from(disk.bytesOf(`${DIR}/log/${segmentName(1)}`))
  const header = decodeSegmentHeader(bytes, native)
  if (typeof header === 'string') throw new Error(header)
  const single: Crc32c = (part, seed) => native(part, seed)
  const scan = (checksum: Crc32c, window: number, offset: number, epoch: number) => {
    const fd = disk.open(`${DIR}/log/${segmentName(1)}`, {})
    const scanner = new SegmentScanner(disk, fd, bytes.length, header, checksum, offset, epoch, window)
    const found: { offset: number; byteLength: number; record: unknown }[] = []
    for (let next = scanner.next(); next !== undefined; next = scanner.next())
      found.push({ ...next, record: shown(next.record) })
    t.same(scanner.judgeEnd(), { tornBytes: 0 })
    return found
  }
  const all = scan(native, 2 ** 20, SEGMENT_HEADER_BYTES, 1)
  t.same(
    all.map(({ record }) => record),
    expected(1, RECORDS),
  )
  for (const checksum of [native, single]) {
    for (const window of [64, 150, 700]) t.same(scan(checksum, window, SEGMENT_HEADER_BYTES, 1), all)
    for (const [i, { offset, byteLength }] of all.entries()) {
      const end = offset + byteLength
      t.same(scan(checksum, 300, end, i + 2), all.slice(i + 1))
      if (isVoid(i + 1)) t.same(scan(checksum, 300, end - RECORD_HEADER_BYTES, i + 2), all.slice(i + 1))
    }
  }
  await store.close()
})

t.test('a torn void record is cut', async (t) => {
  for (const kept of [0, 1, 4, 8, 63, 64]) {
    const disk = new SimDisk()
    const file = `${DIR}/log/${segmentName(1)}`
    const store = await openStore(DIR, { disk, fsync: 'always', segmentBytes: 8192 })
    await append(store, 1, 3)
    const bytes = Uint8Array.from(disk.bytesOf(file))
    const end = bytes.findLastIndex((byte) => byte !== 0) + 1
    // Bit 31 of its last word is set.
    const start = end - RECORD_HEADER_BYTES
    const after = new SimDisk()
    bytes.fill(0, start + kept)
    after.put(file, bytes)
    const reopened = await openStore(DIR, { disk: after, fsync: 'always', segmentBytes: 8192 })
    t.equal(reopened.newestEpoch, 3)
    t.equal([...reopened.records(2)][0]?.isVoid, kept === 64, `${kept} bytes`)
    await append(reopened, 4, 6)
    t.same([...reopened.records(3)].map(shown), expected(4, 6))
    await reopened.close()
    await store.close()
  }
})
