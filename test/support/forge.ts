/** Changes records of a log and makes their checksums right again, as damage never does. */
import fs from 'node:fs'
import { crc32c } from '../../src/ffi/library.js'
import { decodeSegmentHeader, peekRecordHeader, viewOf } from '../../src/store/log/record.js'

const HEADER_BYTES = 4096

/** Changes the record of an epoch; `change` gets its bytes and may change all but its length. */
export function forgeRecord(file: string, epoch: number, change: (record: Uint8Array) => void): void {
  const bytes = new Uint8Array(fs.readFileSync(file))
  forgeIn(bytes, epoch, change)
  fs.writeFileSync(file, bytes)
}

/** The same in the bytes of a segment. Returns whether the segment has the epoch. */
export function forgeIn(bytes: Uint8Array, epoch: number, change: (record: Uint8Array) => void): boolean {
  const segment = decodeSegmentHeader(bytes, crc32c)
  if (typeof segment === 'string') throw new Error(segment)
  const view = viewOf(bytes)
  for (let at = HEADER_BYTES; ; ) {
    const header = peekRecordHeader(bytes, view, at)
    if (header === undefined || header.isSeal) return false
    const record = bytes.subarray(at, at + header.byteLength)
    at += header.byteLength
    if (header.epoch !== epoch) continue
    change(record)
    const own = viewOf(record)
    own.setUint32(8, crc32c(record.subarray(12, 64), segment.headerSeed), true)
    own.setUint32(4, crc32c(record.subarray(8), segment.recordSeed), true)
    return true
  }
}
