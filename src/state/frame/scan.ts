/**
 * A glance at frames from our own log, for those who replay many of them: what kinds of commands they hold, without
 * decoding any. Knows the layout of frames (docs/internals/FORMAT.md) as far as lengths and types.
 *
 * Invariant: nothing is read outside the bytes given; frames that end in the wrong place are INVALID_REQUEST.
 */
import { MmsbError } from '../../errors.js'
import { FRAME_HEADER_BYTES } from '../../limits.js'
import { align8 } from '../bytes.js'
import { COMMAND_DELTA } from './reader.js'

export interface FrameGlance {
  /** No command is anything but a delta. */
  onlyDeltas: boolean
  /** Some frame has an idempotency key. */
  keyed: boolean
}

/** Looks at frames that follow each other. @throws MmsbError INVALID_REQUEST */
export function glanceAtFrames(bytes: Uint8Array): FrameGlance {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const glance = { onlyDeltas: true, keyed: false }
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.length - at >= FRAME_HEADER_BYTES ? view.getUint32(at + 4, true) : 0
    const end = at + length
    if (length < FRAME_HEADER_BYTES || end > bytes.length) throw misshapen(at)
    const commandCount = view.getUint32(at + 12, true)
    const keyLength = view.getUint16(at + 20, true)
    if (keyLength > 0) glance.keyed = true
    let command = at + FRAME_HEADER_BYTES + view.getUint32(at + 16, true) * 16
    command +=
      align8(keyLength) + align8(view.getUint16(at + 22, true)) + align8(view.getUint32(at + 24, true))
    for (let i = 0; i < commandCount; i++) {
      if (command + 8 > end) throw misshapen(at)
      if (view.getUint16(command, true) !== COMMAND_DELTA) glance.onlyDeltas = false
      const commandLength = view.getUint32(command + 4, true)
      if (commandLength < 8) throw misshapen(at)
      command += commandLength
    }
    if (command !== end) throw misshapen(at)
    at = end
  }
  return glance
}

const misshapen = (at: number): MmsbError =>
  new MmsbError('INVALID_REQUEST', `frame: the one at byte ${at} does not end where it should`)
