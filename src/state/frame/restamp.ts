/** A frame with another key and source; everything else stays as it is. */
import { align8 } from '../../wire/align.js'
import { FRAME_HEADER_BYTES, FRAME_PRECONDITION_BYTES } from '../../wire/frame.js'
import { firstCommandAt, HEADER_INTENT, HEADER_LENGTH, HEADER_PRECONDITIONS, HEADER_TEXTS } from './layout.js'

const UTF8 = new TextEncoder()

/** The frame, which has been decoded once and so is well-formed, as a new one. */
export function restamp(
  frame: Uint8Array,
  { key, source }: { readonly key: string | undefined; readonly source: string },
): Uint8Array {
  const old = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  const preconditions = old.getUint32(HEADER_PRECONDITIONS * 4, true) * FRAME_PRECONDITION_BYTES
  const textsAt = FRAME_HEADER_BYTES + preconditions
  const commandsAt = firstCommandAt(old, 0)
  const intentAt = commandsAt - align8(old.getUint32(HEADER_INTENT * 4, true))
  const keyBytes = UTF8.encode(key ?? '')
  const sourceBytes = UTF8.encode(source)
  const newIntentAt = textsAt + align8(keyBytes.length) + align8(sourceBytes.length)
  const bytes = new Uint8Array(newIntentAt + frame.length - intentAt)
  bytes.set(frame.subarray(0, textsAt))
  bytes.set(keyBytes, textsAt)
  bytes.set(sourceBytes, textsAt + align8(keyBytes.length))
  bytes.set(frame.subarray(intentAt), newIntentAt)
  const view = new DataView(bytes.buffer)
  view.setUint32(HEADER_LENGTH * 4, bytes.length, true)
  view.setUint32(HEADER_TEXTS * 4, keyBytes.length | (sourceBytes.length << 16), true)
  return bytes
}
