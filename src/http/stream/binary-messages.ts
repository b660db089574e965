/**
 * Encodes the binary messages of subprotocol mmsb.v1.bin: see "WebSocket, binary" in
 * docs/internals/FORMAT.md.
 *
 * Invariant: counted from the start of a message, every field wider than a byte lies at a multiple of its
 * size, and values lie at a multiple of 8.
 */
import { type MmsbError, problemOf } from '../../errors.js'
import { changeBytes, type EventChange, encodeChange } from '../../state/event-file.js'
import type {
  ChangeMessage,
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

function epochOf(message: StreamMessage): number {
  if (message.type === 'error') return 0
  if (message.type === 'compacted') return message.minEpoch
  return message.type === 'overflow' ? message.resumeFrom : message.epoch
}

function changeBody({ first, parts, mode }: ChangeMessage): Buffer {
  const changes = parts.map((part) => changeOf(part, mode))
  const sizes = changes.map(changeBytes)
  const out = Buffer.alloc(sizes.reduce((sum, size) => sum + size, BODY_HEAD_BYTES))
  writeU64(out, first, 0)
  out.writeUInt32LE(changes.length, 8)
  out.writeUInt32LE(DATA_MODES.indexOf(mode), 12)
  let at = BODY_HEAD_BYTES
  for (const [i, change] of changes.entries()) {
    encodeChange(out, at, change, sizes[i]!)
    at += sizes[i]!
  }
  return out
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
  out.writeUInt32LE(pages.length, 8)
  out.writeUInt32LE(DATA_MODES.indexOf('values'), 12)
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
