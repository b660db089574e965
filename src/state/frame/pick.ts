/**
 * Takes the deltas of some pages out of frames of our own log, for a state that holds only these pages.
 *
 * Invariants: the deltas keep their order and their bytes. Nothing is read outside the bytes given; frames
 * that do not end where they should are INVALID_REQUEST.
 */
import { COMMAND_DELTA, FRAME_HEADER_BYTES } from '../../wire/frame.js'
import { malformed } from './errors.js'
import {
  COMMAND_HEADER_BYTES,
  COMMAND_LENGTH,
  COMMAND_PAGE,
  firstCommandAt,
  HEADER_COMMANDS,
  HEADER_LENGTH,
  HEADER_VERSION,
} from './layout.js'

/** One frame with the deltas to the pages that `wants` names; empty when there is none. */
export function pickDeltas(frames: Uint8Array, wants: (pageId: number) => boolean): Uint8Array {
  const view = new DataView(frames.buffer, frames.byteOffset, frames.byteLength)
  const word = (at: number, index: number): number => view.getUint32(at + index * 4, true)
  const picked = new Uint8Array(FRAME_HEADER_BYTES + frames.byteLength)
  let to = FRAME_HEADER_BYTES
  let count = 0
  for (let at = 0; at < frames.length; ) {
    if (frames.length - at < FRAME_HEADER_BYTES) throw malformed(`the one at byte ${at} is too short`)
    const end = at + word(at, HEADER_LENGTH)
    let command = firstCommandAt(view, at)
    for (let left = word(at, HEADER_COMMANDS); left > 0; left--) {
      if (command + COMMAND_HEADER_BYTES + 4 > frames.length)
        throw malformed(`the one at byte ${at} is too short`)
      const next = command + word(command, COMMAND_LENGTH)
      if (next > end || next <= command) throw malformed(`the one at byte ${at} does not end where it should`)
      if (view.getUint16(command, true) === COMMAND_DELTA && wants(word(command, COMMAND_PAGE))) {
        picked.set(frames.subarray(command, next), to)
        to += next - command
        count++
      }
      command = next
    }
    if (command !== end) throw malformed(`the one at byte ${at} does not end where it should`)
    at = end
  }
  if (count === 0) return picked.subarray(0, 0)
  const header = new DataView(picked.buffer)
  header.setUint32(0, word(0, 0), true)
  header.setUint32(HEADER_LENGTH * 4, to, true)
  header.setUint32(HEADER_VERSION * 4, word(0, HEADER_VERSION), true)
  header.setUint32(HEADER_COMMANDS * 4, count, true)
  return picked.subarray(0, to)
}
