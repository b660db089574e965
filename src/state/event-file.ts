/**
 * Files of change events ("Change events" in docs/internals/FORMAT.md): the events that a subscriber with
 * values would have received, epoch by epoch, so that a mirror can be fed without a server.
 *
 * Invariant: nothing is read outside the bytes given, whatever they hold; anything but an entry is
 * INVALID_REQUEST. Pure.
 */
import { crc32 } from 'node:zlib'
import { MmsbError } from '../errors.js'
import { align8 } from '../wire/align.js'
import { DTYPE_INFO, type Dtype, dtypeOfCode, type TypedArray } from '../wire/dtype.js'
import { CHANGE_HEAD_BYTES } from '../wire/messages.js'
import { CHANGE_KINDS, type ChangeKind } from '../wire/page.js'

export const EVENT_FILE_HEADER_BYTES = 32
const MAGIC = 0x5645_534d // "MSEV", little-endian
const VERSION = 2
/** Files of version 1 have no checksums. */
const PLAIN_VERSION = 1
const HEADER_SUM_AT = EVENT_FILE_HEADER_BYTES - 4
/** Behind the changes of an entry: its checksum and four zeros. */
const SUM_BYTES = 8
const EPOCH_HEADER_BYTES = 24

export interface EventChange {
  readonly page: string
  readonly kind: ChangeKind
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** offset, count, offset, count, ... */
  readonly ranges: Uint32Array
  /** The values of the ranges, one after another. */
  readonly values: TypedArray
}

export interface EpochEvent {
  readonly epoch: number
  readonly timestampMs: number
  readonly changes: readonly EventChange[]
}

export function encodeEventHeader(from: number, to: number): Uint8Array {
  const bytes = Buffer.alloc(EVENT_FILE_HEADER_BYTES)
  bytes.writeUInt32LE(MAGIC, 0)
  bytes.writeUInt16LE(VERSION, 4)
  bytes.writeBigUInt64LE(BigInt(from), 8)
  bytes.writeBigUInt64LE(BigInt(to), 16)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, HEADER_SUM_AT)), HEADER_SUM_AT)
  return bytes
}

const refuse = (why: string): MmsbError =>
  new MmsbError('INVALID_REQUEST', `not a file of change events: ${why}`)

/** The epochs that a file covers, and whether its entries have checksums. */
export interface EventFileHeader {
  readonly from: number
  readonly to: number
  readonly hasSums: boolean
}

/** Throws INVALID_REQUEST. */
export function decodeEventHeader(bytes: Uint8Array): EventFileHeader {
  const buffer = bufferOf(bytes)
  if (buffer.length < EVENT_FILE_HEADER_BYTES || buffer.readUInt32LE(0) !== MAGIC)
    throw refuse('it has no such header')
  const version = buffer.readUInt16LE(4)
  if (version !== VERSION && version !== PLAIN_VERSION) throw refuse(`version ${version} is not known`)
  const hasSums = version === VERSION
  const sum = crc32(buffer.subarray(0, HEADER_SUM_AT))
  if (hasSums && sum !== buffer.readUInt32LE(HEADER_SUM_AT))
    throw refuse('the checksum of its header is wrong')
  return { hasSums, from: Number(buffer.readBigUInt64LE(8)), to: Number(buffer.readBigUInt64LE(16)) }
}

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Bytes of a change as encodeChange writes it. */
export function changeBytes({ page, shape, ranges, values }: EventChange): number {
  return (
    CHANGE_HEAD_BYTES +
    align8(shape.length * 4) +
    align8(Buffer.byteLength(page)) +
    ranges.length * 4 +
    align8(values.byteLength)
  )
}

/** One epoch as an entry of the file. */
export function encodeEpochEvent(event: EpochEvent): Uint8Array {
  const sizes = event.changes.map(changeBytes)
  const total = sizes.reduce((sum, size) => sum + size, EPOCH_HEADER_BYTES + SUM_BYTES)
  const bytes = Buffer.alloc(total)
  bytes.writeUInt32LE(total, 0)
  bytes.writeUInt32LE(event.changes.length, 4)
  bytes.writeBigUInt64LE(BigInt(event.epoch), 8)
  bytes.writeBigUInt64LE(BigInt(event.timestampMs), 16)
  let at = EPOCH_HEADER_BYTES
  for (const [i, change] of event.changes.entries()) {
    encodeChange(bytes, at, change, sizes[i] as number)
    at += sizes[i] as number
  }
  bytes.writeUInt32LE(crc32(bytes.subarray(0, at)), at)
  return bytes
}

/** Writes a change of `size` bytes into zeroed bytes. */
export function encodeChange(bytes: Buffer, start: number, change: EventChange, size: number): void {
  const { values } = change
  const at = encodeChangeHead(bytes, start, change, size)
  bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at)
}

/** Writes all of a change but its values; returns where they belong. */
export function encodeChangeHead(bytes: Buffer, start: number, change: EventChange, size: number): number {
  const { page, kind, dtype, shape, ranges } = change
  bytes.writeUInt32LE(size, start)
  bytes.writeUInt8(CHANGE_KINDS.indexOf(kind), start + 4)
  bytes.writeUInt8(DTYPE_INFO[dtype].code, start + 5)
  bytes.writeUInt8(shape.length, start + 6)
  bytes.writeUInt16LE(Buffer.byteLength(page), start + 8)
  bytes.writeUInt32LE(ranges.length / 2, start + 12)
  let at = start + CHANGE_HEAD_BYTES
  for (const [axis, extent] of shape.entries()) bytes.writeUInt32LE(extent, at + axis * 4)
  at += align8(shape.length * 4)
  bytes.write(page, at, 'utf8')
  at += align8(Buffer.byteLength(page))
  bytes.set(new Uint8Array(ranges.buffer, ranges.byteOffset, ranges.byteLength), at)
  return at + ranges.byteLength
}

/** Size of the entry that begins with `head`, at least 8 bytes. Throws INVALID_REQUEST. */
export function epochEventBytes(head: Uint8Array): number {
  const length = head.length < 8 ? 0 : bufferOf(head).readUInt32LE(0)
  if (length < EPOCH_HEADER_BYTES || length % 8 !== 0) throw refuse(`an entry of ${length} bytes`)
  return length
}

/**
 * Decodes one whole entry; `hasSums` is of the file's header. The values are copies. Throws INVALID_REQUEST.
 */
export function decodeEpochEvent(entry: Uint8Array, hasSums: boolean): EpochEvent {
  const whole = bufferOf(entry)
  if (epochEventBytes(whole) !== whole.length) throw refuse('an entry is cut off')
  const bytes = hasSums ? checkedPart(whole) : whole
  const count = bytes.readUInt32LE(4)
  const changes: EventChange[] = []
  let at = EPOCH_HEADER_BYTES
  for (let i = 0; i < count; i++) {
    const size = bytes.length - at < CHANGE_HEAD_BYTES ? 0 : bytes.readUInt32LE(at)
    if (size < CHANGE_HEAD_BYTES || size % 8 !== 0 || size > bytes.length - at)
      throw refuse(`change ${i} is cut off`)
    changes.push(decodeChange(bytes.subarray(at, at + size), i))
    at += size
  }
  if (at !== bytes.length) throw refuse('bytes follow the changes of an entry')
  const { epoch, timestampMs } = {
    epoch: Number(bytes.readBigUInt64LE(8)),
    timestampMs: Number(bytes.readBigUInt64LE(16)),
  }
  return { epoch, timestampMs, changes }
}

/** The entry without its checksum, which must be right. */
function checkedPart(entry: Buffer): Buffer {
  const at = entry.length - SUM_BYTES
  const isRight = at >= EPOCH_HEADER_BYTES && crc32(entry.subarray(0, at)) === entry.readUInt32LE(at)
  if (!isRight || entry.readUInt32LE(at + 4) !== 0) throw refuse('the checksum of an entry is wrong')
  return entry.subarray(0, at)
}

function decodeChange(bytes: Buffer, index: number): EventChange {
  const kind = CHANGE_KINDS[bytes.readUInt8(4)]
  const dtype = dtypeOfCode(bytes.readUInt8(5))
  const rank = bytes.readUInt8(6)
  const nameLength = bytes.readUInt16LE(8)
  const rangeCount = bytes.readUInt32LE(12)
  const nameAt = CHANGE_HEAD_BYTES + align8(rank * 4)
  const rangesAt = nameAt + align8(nameLength)
  const valuesAt = rangesAt + rangeCount * 8
  if (kind === undefined || dtype === undefined || valuesAt > bytes.length)
    throw refuse(`change ${index} is not sound`)
  const shape = Array.from({ length: rank }, (_, axis) => bytes.readUInt32LE(CHANGE_HEAD_BYTES + axis * 4))
  const ranges = Uint32Array.from({ length: rangeCount * 2 }, (_, i) => bytes.readUInt32LE(rangesAt + i * 4))
  let elements = 0
  for (let i = 1; i < ranges.length; i += 2) elements += ranges[i] as number
  const { sizeBytes, view } = DTYPE_INFO[dtype]
  const valueBytes = elements * sizeBytes
  if (valuesAt + align8(valueBytes) !== bytes.length)
    throw refuse(`the values of change ${index} do not fit its ranges`)
  const values = view(Uint8Array.from(bytes.subarray(valuesAt, valuesAt + valueBytes)).buffer, 0, elements)
  const page = bytes.toString('utf8', nameAt, nameAt + nameLength)
  return { page, kind, dtype, shape, ranges, values }
}
