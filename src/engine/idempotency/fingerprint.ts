/**
 * What an idempotency key stands for: a hash of what a frame does.
 *
 * It covers the frame's commands, source and intent: one write has one fingerprint, whether it came as
 * JSON, as bytes, in a frame, or from the log. It does not cover the key; nor the preconditions, which only
 * decide whether the write happens; nor the ids of pages that the frame creates, which the bus assigns anew
 * to each frame.
 */
import { createHash } from 'node:crypto'
import {
  COMMAND_LENGTH,
  COMMAND_PAGE,
  COMMAND_TYPE,
  HEADER_COMMANDS,
  HEADER_INTENT,
  HEADER_PRECONDITIONS,
  HEADER_TEXTS,
} from '../../state/frame/layout.js'
import { align8 } from '../../wire/align.js'
import {
  COMMAND_CREATE_PAGE,
  FRAME_HEADER_BYTES,
  FRAME_PRECONDITION_BYTES,
  PAGE_ID_UNASSIGNED,
} from '../../wire/frame.js'

/** 128 bits are enough: keys are compared with one earlier frame, not with all. */
const LENGTH = 22
const WORD_BYTES = 4
const UNASSIGNED = new Uint8Array(Uint32Array.of(PAGE_ID_UNASSIGNED).buffer)

/** The fingerprint of a sound frame. */
export function fingerprintOf(frame: Uint8Array): string {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  const word = (at: number, index: number): number => view.getUint32(at + index * WORD_BYTES, true)
  const texts = word(0, HEADER_TEXTS)
  const [keyLength, sourceLength, intentLength] = [texts & 0xffff, texts >>> 16, word(0, HEADER_INTENT)]
  const preconditions = word(0, HEADER_PRECONDITIONS) * FRAME_PRECONDITION_BYTES
  const start = FRAME_HEADER_BYTES + preconditions + align8(keyLength)
  const hash = createHash('sha256').update(`${sourceLength} ${intentLength} `)
  let from = start
  let at = start + align8(sourceLength) + align8(intentLength)
  for (let left = word(0, HEADER_COMMANDS); left > 0; left--) {
    if (word(at, COMMAND_TYPE) === COMMAND_CREATE_PAGE) {
      const id = at + COMMAND_PAGE * WORD_BYTES
      hash.update(frame.subarray(from, id)).update(UNASSIGNED)
      from = id + WORD_BYTES
    }
    at += word(at, COMMAND_LENGTH)
  }
  return hash.update(frame.subarray(from, at)).digest('base64url').slice(0, LENGTH)
}
