/**
 * The binary messages of subprotocol mmsb.v1.bin: see "WebSocket, binary" in docs/FORMAT.md.
 *
 * Invariant: nothing is read outside the message, whatever it holds.
 */
import { type MmsbError, problemOf } from '../errors.js'
import { FRAME_HEADER_BYTES, FRAME_MAGIC } from '../limits.js'

const ACK = 1
const ERROR = 2
const ACK_BYTES = 24
const ERROR_HEAD_BYTES = 24

/**
 * The frames of a message, one after another. The last item is null when the rest is no frame: nothing after that point can
 * be told apart.
 */
export function* framesOf(message: Buffer): Generator<Buffer | null> {
  let at = 0
  while (at < message.length) {
    const left = message.length - at
    const isHeader = left >= FRAME_HEADER_BYTES && message.readUInt32LE(at) === FRAME_MAGIC
    const bytes = isHeader ? message.readUInt32LE(at + 4) : 0
    if (bytes < FRAME_HEADER_BYTES || bytes > left || bytes % 8 !== 0) {
      yield null
      return
    }
    yield message.subarray(at, at + bytes)
    at += bytes
  }
}

/** The frame with this sequence number was committed in `epoch`. */
export function ackMessage(sequence: number, epoch: number): Buffer {
  const out = Buffer.alloc(ACK_BYTES)
  out.writeUInt16LE(ACK, 0)
  out.writeUInt32LE(ACK_BYTES, 4)
  out.writeBigUInt64LE(BigInt(sequence), 8)
  out.writeBigUInt64LE(BigInt(epoch), 16)
  return out
}

/** The frame with this sequence number was refused. */
export function errorMessage(sequence: number, error: MmsbError): Buffer {
  const { status, code, detail, hint } = problemOf(error)
  const json = Buffer.from(JSON.stringify({ code, detail, hint }))
  const out = Buffer.alloc(ERROR_HEAD_BYTES + Math.ceil(json.length / 8) * 8)
  out.writeUInt16LE(ERROR, 0)
  out.writeUInt32LE(out.length, 4)
  out.writeBigUInt64LE(BigInt(sequence), 8)
  out.writeUInt16LE(status, 16)
  out.writeUInt32LE(json.length, 20)
  json.copy(out, ERROR_HEAD_BYTES)
  return out
}
