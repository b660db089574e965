/**
 * Scans frames of our own log for what a replay needs to know of them, the types of their commands and
 * whether they carry keys, without decoding any.
 *
 * Invariant: nothing is read outside the bytes given; frames that do not end where they should are
 * INVALID_REQUEST.
 */
import type { MmsbError } from '../../errors.js'
import { COMMAND_DELTA, FRAME_HEADER_BYTES } from '../../wire/frame.js'
import { malformed } from './errors.js'
import {
  COMMAND_HEADER_BYTES,
  COMMAND_LENGTH,
  firstCommandAt,
  HEADER_COMMANDS,
  HEADER_LENGTH,
  HEADER_TEXTS,
} from './layout.js'

export interface FrameScan {
  /** Every command is a delta. */
  onlyDeltas: boolean
  /** Some frame has an idempotency key. */
  keyed: boolean
}

/** Scans frames that follow each other. @throws MmsbError INVALID_REQUEST */
export function scanFrames(bytes: Uint8Array): FrameScan {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const scan = { onlyDeltas: true, keyed: false }
  for (let at = 0; at < bytes.length; ) {
    const isHeaderThere = bytes.length - at >= FRAME_HEADER_BYTES
    const length = isHeaderThere ? view.getUint32(at + HEADER_LENGTH * 4, true) : 0
    const end = at + length
    if (length < FRAME_HEADER_BYTES || end > bytes.length) throw misshapen(at)
    const commandCount = view.getUint32(at + HEADER_COMMANDS * 4, true)
    const keyLength = view.getUint16(at + HEADER_TEXTS * 4, true)
    if (keyLength > 0) scan.keyed = true
    let command = firstCommandAt(view, at)
    for (let i = 0; i < commandCount; i++) {
      if (command + COMMAND_HEADER_BYTES > end) throw misshapen(at)
      if (view.getUint16(command, true) !== COMMAND_DELTA) scan.onlyDeltas = false
      const commandLength = view.getUint32(command + COMMAND_LENGTH * 4, true)
      if (commandLength < COMMAND_HEADER_BYTES) throw misshapen(at)
      command += commandLength
    }
    if (command !== end) throw misshapen(at)
    at = end
  }
  return scan
}

const misshapen = (at: number): MmsbError => malformed(`the one at byte ${at} does not end where it should`)
