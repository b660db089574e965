/**
 * Encodes the binary messages of subprotocol mmsb.v1.bin: see "WebSocket, binary" in
 * docs/internals/FORMAT.md.
 *
 * Invariant: counted from the start of a message, every field wider than a byte lies at a multiple of its
 * size, and values lie at a multiple of 8.
 */
import { type MmsbError, problemOf } from '../../errors.js'
import type { Sliced } from '../../slices.js'
import { changeBytes, type EventChange, encodeChange, encodeChangeHead } from '../../state/event-file.js'
import type {
  ChangeMessage,
  DataMessage,
  PagePart,
  SnapshotMessage,
  SnapshotPage,
  StreamMessage,
} from '../../stream/messages.js'
import { align8 } from '../../wire/align.js'
import type { DataMode } from '../../wire/messages.js'
import {
  ACK_BYTES,
  ACK_CODE,
  BODY_HEAD_BYTES,
  DATA_MODES,
  HISTORY_BYTES,
  MESSAGE_CODES,
  MESSAGE_HEAD_BYTES,
  PROBLEM_HEAD_BYTES,
  REFUSAL_CODE,
  VERSION_BYTES,
} from '../../wire/messages.js'

const REFUSAL_HEAD_BYTES = MESSAGE_HEAD_BYTES + PROBLEM_HEAD_BYTES
const NO_BYTES = Buffer.alloc(0)
const NO_RANGES = new Uint32Array(0)
const NO_VALUES = new Uint8Array(0)

/** Frames with consecutive sequence numbers. */
export interface FrameRange {
  readonly first: number
  count: number
}

/**
 * Acknowledges frames committed in `epoch`, with one entry for each run of sequence numbers. `ranges` must
 * not overlap.
 */
export function ackMessage(ranges: readonly FrameRange[], epoch: number): Buffer {
  const runs: FrameRange[] = []
  for (const { first, count } of [...ranges].sort((a, b) => a.first - b.first)) {
    const last = runs.at(-1)
    if (last !== undefined && last.first + last.count === first) last.count += count
    else runs.push({ first, count })
  }
  const out = Buffer.alloc(runs.length * ACK_BYTES)
  let at = 0
  for (const { first, count } of runs) {
    out.writeUInt16LE(ACK_CODE, at)
    out.writeUInt32LE(ACK_BYTES, at + 4)
    writeU64(out, first, at + 8)
    writeU64(out, epoch, at + 16)
    writeU64(out, count, at + 24)
    at += ACK_BYTES
  }
  return out
}

/** Refuses the frame with this sequence number. */
export function refusalMessage(sequence: number, error: MmsbError): Buffer {
  const json = problemJson(error)
  const out = Buffer.alloc(REFUSAL_HEAD_BYTES + align8(json.length))
  out.writeUInt16LE(REFUSAL_CODE, 0)
  out.writeUInt32LE(out.length, 4)
  writeU64(out, sequence, 8)
  out.writeUInt16LE(error.status, 16)
  out.writeUInt32LE(json.length, 20)
  json.copy(out, REFUSAL_HEAD_BYTES)
  return out
}

/** The first part of a message to subscription `id`, before a body of `bodyBytes` bytes. */
export function messageHead(id: string, message: StreamMessage, bodyBytes: number): Buffer {
  const idBytes = Buffer.byteLength(id)
  const out = Buffer.alloc(MESSAGE_HEAD_BYTES + align8(idBytes))
  out.writeUInt16LE(MESSAGE_CODES[message.type], 0)
  out.writeUInt16LE(idBytes, 2)
  out.writeUInt32LE(out.length + bodyBytes, 4)
  writeU64(out, epochOf(message), 8)
  out.write(id, MESSAGE_HEAD_BYTES)
  return out
}

/** The rest of a message, which is the same for every subscription. */
export function messageBody(message: StreamMessage): Buffer {
  switch (message.type) {
    case 'change':
      return changeBody(message)
    case 'snapshot':
      return snapshotBody(message)
    case 'subscribed':
      return historyBytes(message.history)
    case 'error':
      return errorBody(message.error)
    default:
      return NO_BYTES
  }
}

/** The same for a message with large or many values, which are not copied: pieces, made in slices. */
export function* bodyPieces(message: DataMessage): Sliced<readonly Buffer[]> {
  const head = Buffer.alloc(BODY_HEAD_BYTES)
  const pieces: Buffer[] = [head]
  let small: Entry[] = []
  let smallBytes = 0
  const flush = (): void => {
    pieces.push(entriesOf(small, smallBytes))
    small = []
    smallBytes = 0
  }
  const entries = message.type === 'change' ? changeEntries(message) : pageEntries(message)
  for (const entry of entries) {
    const { values } = entry.change
    const isLarge = values.byteLength > UNCOPIED_MIN_BYTES
    small.push(isLarge ? { ...entry, isWithoutValues: true } : entry)
    smallBytes += entry.bytes - (isLarge ? align8(values.byteLength) : 0)
    if (!isLarge && smallBytes < SMALL_ENTRIES_BYTES) continue
    flush()
    if (isLarge) {
      pieces.push(Buffer.from(values.buffer, values.byteOffset, values.byteLength))
      pieces.push(Buffer.alloc(align8(values.byteLength) - values.byteLength))
    }
    yield
  }
  flush()
  if (message.type === 'change') writeBodyHead(head, message.first, message.parts.length, message.mode)
  else {
    writeBodyHead(head, 0, message.pages.length, 'values')
    pieces.push(historyBytes(message.history))
  }
  return pieces.filter(({ length }) => length > 0)
}

/** Values of more bytes are written as they are. */
const UNCOPIED_MIN_BYTES = 16 * 1024
const SMALL_ENTRIES_BYTES = 256 * 1024

/** A change of a message, or a page of a snapshot with its version. */
interface Entry {
  readonly change: EventChange
  readonly bytes: number
  readonly version?: number
  readonly isWithoutValues?: boolean
}

function* changeEntries({ parts, mode }: ChangeMessage): Generator<Entry> {
  for (const part of parts) {
    const change = changeOf(part, mode)
    yield { change, bytes: changeBytes(change) }
  }
}

function* pageEntries({ pages }: SnapshotMessage): Generator<Entry> {
  for (const page of pages) {
    const change = wholePage(page)
    yield { change, version: page.version, bytes: VERSION_BYTES + changeBytes(change) }
  }
}

function entriesOf(entries: readonly Entry[], bytes: number): Buffer {
  const out = Buffer.alloc(bytes)
  let at = 0
  for (const { change, version, bytes, isWithoutValues } of entries) {
    const start = version === undefined ? at : at + VERSION_BYTES
    if (version !== undefined) writeU64(out, version, at)
    const size = bytes - (start - at)
    if (isWithoutValues === true) at = encodeChangeHead(out, start, change, size)
    else {
      encodeChange(out, start, change, size)
      at += bytes
    }
  }
  return out
}

function epochOf(message: StreamMessage): number {
  if (message.type === 'error') return 0
  if (message.type === 'compacted') return message.minEpoch
  return message.type === 'overflow' ? message.resumeFrom : message.epoch
}

function changeBody({ first, parts, mode }: ChangeMessage): Buffer {
  const changes = parts.map((part) => changeOf(part, mode))
  const sizes = changes.map(changeBytes)
  const out = Buffer.alloc(sizes.reduce((sum, size) => sum + size, BODY_HEAD_BYTES))
  writeBodyHead(out, first, changes.length, mode)
  let at = BODY_HEAD_BYTES
  for (const [i, change] of changes.entries()) {
    encodeChange(out, at, change, sizes[i]!)
    at += sizes[i]!
  }
  return out
}

function writeBodyHead(out: Buffer, first: number, entries: number, mode: DataMode): void {
  writeU64(out, first, 0)
  out.writeUInt32LE(entries, 8)
  out.writeUInt32LE(DATA_MODES.indexOf(mode), 12)
}

function changeOf(part: PagePart, mode: DataMode): EventChange {
  const { page, kind, dtype, shape, ranges } = part.change
  return {
    page,
    kind,
    dtype,
    shape,
    ranges: mode === 'none' ? NO_RANGES : ranges,
    values: mode === 'values' ? part.values() : NO_VALUES,
  }
}

/** Bus id and generation. Older clients skip them: they come after everything else. */
const historyBytes = (history: string): Buffer => Buffer.from(history.replace('.', ''), 'hex')

function snapshotBody({ pages, history }: SnapshotMessage): Buffer {
  const changes = pages.map(wholePage)
  const sizes = changes.map(changeBytes)
  const out = Buffer.alloc(
    sizes.reduce((sum, size) => sum + VERSION_BYTES + size, BODY_HEAD_BYTES + HISTORY_BYTES),
  )
  writeBodyHead(out, 0, pages.length, 'values')
  let at = BODY_HEAD_BYTES
  for (const [i, change] of changes.entries()) {
    writeU64(out, pages[i]!.version, at)
    encodeChange(out, at + VERSION_BYTES, change, sizes[i]!)
    at += VERSION_BYTES + sizes[i]!
  }
  historyBytes(history).copy(out, at)
  return out
}

const wholePage = ({ name, kind, dtype, shape, values }: SnapshotPage): EventChange => ({
  page: name,
  kind,
  dtype,
  shape,
  ranges: Uint32Array.of(0, values.length),
  values,
})

function errorBody(error: MmsbError): Buffer {
  const json = problemJson(error)
  const out = Buffer.alloc(PROBLEM_HEAD_BYTES + align8(json.length))
  out.writeUInt16LE(error.status, 0)
  out.writeUInt32LE(json.length, 4)
  json.copy(out, PROBLEM_HEAD_BYTES)
  return out
}

function problemJson(error: MmsbError): Buffer {
  const { code, detail, hint } = problemOf(error)
  return Buffer.from(JSON.stringify({ code, detail, hint, ...error.extra }))
}

/** Without BigInt: all numbers here are below 2^53. */
function writeU64(out: Buffer, value: number, at: number): void {
  out.writeUInt32LE(value % 2 ** 32, at)
  out.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4)
}
