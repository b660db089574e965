/** The record that docs/internals/FORMAT.md prints under "Log" is the one that this code writes and reads. */
import fs from 'node:fs'
import t from 'tap'
import { RECORD_MAX_BYTES } from '../../../src/limits.js'
import {
  decodeRecordHeader,
  decodeSegmentHeader,
  encodeRecordHeader,
  encodeSeal,
  encodeSegmentHeader,
  peekRecordHeader,
  recordAt,
  recordBytes,
  recordSound,
  type SegmentHeader,
  viewOf,
} from '../../../src/store/log/record.js'
import { ROOT } from '../../lib/place.js'
import { crc32c, plain } from '../helpers.js'

const SEGMENT: SegmentHeader = {
  version: 2,
  busId: '00112233445566778899aabbccddeeff',
  firstEpoch: 2 ** 40 + 3,
  headerSeed: 0x1111_1111,
  recordSeed: 0x2222_2222,
  createdMs: 1_700_000_000_123,
}

const RECORD = {
  epoch: 7,
  timestampMs: 1_700_000_000_000,
  digestBefore: Uint8Array.from({ length: 16 }, (_, i) => i),
  frameCount: 1,
  frames: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
  touchedPages: Uint32Array.of(3),
}

function documented(): Uint8Array {
  const text = fs.readFileSync(`${ROOT}docs/internals/FORMAT.md`, 'utf8')
  const section = text.slice(text.indexOf('\n## Log\n'), text.indexOf('\n## Catalog\n'))
  const hex = /```hex\n([^`]+)```/.exec(section)?.[1] ?? ''
  return Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ''), 'hex'))
}

t.test('the documented record is decoded', async (t) => {
  const bytes = documented()
  const view = viewOf(bytes)
  const header = decodeRecordHeader(bytes, view, 0, SEGMENT, crc32c)
  t.match(header, { isSeal: false, byteLength: 80, epoch: 7, eachSynced: true, unsynced: 0 })
  if (header === undefined) return
  t.ok(recordSound(bytes, view, 0, header, SEGMENT, crc32c))
  t.same(plain(recordAt(bytes, viewOf(bytes), 0)), plain(RECORD))
})

t.test('a record is decoded wherever it lies in memory', async (t) => {
  const bytes = documented()
  for (const at of [0, 1, 2, 4, 7]) {
    const memory = new Uint8Array(bytes.length + at)
    memory.set(bytes, at)
    for (const [within, from] of [
      [memory.subarray(at), 0],
      [memory, at],
    ] as const) {
      const record = recordAt(within, viewOf(within), from)
      t.same(plain(record), plain(RECORD), `at byte ${at}`)
      t.equal(record.touchedPages.buffer === memory.buffer, at % 4 === 0, 'a view where that is possible')
    }
  }
})

t.test('the documented record is the one written', async (t) => {
  const bytes = new Uint8Array(recordBytes(8, 1))
  bytes.set(RECORD.frames, 64)
  bytes.set([3], 72)
  const mark = { eachSynced: true, unsynced: 0 }
  encodeRecordHeader(bytes, viewOf(bytes), RECORD, [bytes.subarray(64)], SEGMENT, mark, crc32c)
  t.same(bytes, documented())
})

t.test('a record of another segment has a wrong checksum', async (t) => {
  const bytes = documented()
  for (const seeds of [{ headerSeed: 1 }, { recordSeed: 1 }]) {
    const other = { ...SEGMENT, ...seeds }
    const header = decodeRecordHeader(bytes, viewOf(bytes), 0, other, crc32c)
    t.notOk(header !== undefined && recordSound(bytes, viewOf(bytes), 0, header, other, crc32c))
  }
})

t.test('a segment header is read as written; each field is in its place', async (t) => {
  const bytes = encodeSegmentHeader(SEGMENT, crc32c)
  t.same(decodeSegmentHeader(bytes, crc32c), SEGMENT)
  t.equal(bytes.length, 4096)
  t.equal(Buffer.from(bytes.subarray(0, 8)).toString(), 'MMSBLOG1')
  t.equal(Buffer.from(bytes.subarray(16, 32)).toString('hex'), SEGMENT.busId)
  t.equal(viewOf(bytes).getBigUint64(32, true), BigInt(SEGMENT.firstEpoch))
  t.type(decodeSegmentHeader(bytes.subarray(0, 4000), crc32c), 'string')
  const later = bytes.slice()
  viewOf(later).setUint32(8, 3, true)
  viewOf(later).setUint32(4092, crc32c(later.subarray(0, 4092)), true)
  t.match(decodeSegmentHeader(later, crc32c), /version 3 is not known/)
})

t.test('a header that tells of more bytes than a record has is no header', async (t) => {
  const peek = (framesLength: number) => {
    const bytes = documented()
    const view = viewOf(bytes)
    view.setUint32(12, recordBytes(framesLength, 0), true)
    view.setUint32(52, framesLength, true)
    view.setUint32(56, 0, true)
    return peekRecordHeader(bytes, view, 0)
  }
  const most = RECORD_MAX_BYTES - recordBytes(0, 0)
  t.equal(peek(most)?.byteLength, RECORD_MAX_BYTES)
  t.equal(peek(most + 8), undefined)
})

t.test('a seal is a record of 64 bytes and carries the next epoch', async (t) => {
  const bytes = encodeSeal(2 ** 33, 5, SEGMENT, crc32c)
  const header = decodeRecordHeader(bytes, viewOf(bytes), 0, SEGMENT, crc32c)
  t.match(header, { isSeal: true, byteLength: 64, epoch: 2 ** 33, timestampMs: 5, eachSynced: true })
  t.ok(header !== undefined && recordSound(bytes, viewOf(bytes), 0, header, SEGMENT, crc32c))
})
