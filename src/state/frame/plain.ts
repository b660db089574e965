/**
 * Plain frames: frames without key, source, intent and preconditions that hold dense deltas only, each of
 * which fits its page. Most frames of small writers are plain; one quick pass recognizes them.
 *
 * Invariants: decodeFrame and validateDelta accept every plain frame. About any other frame nothing is said,
 * neither that it is wrong nor why. Nothing is read outside the words given. The word positions are those of
 * layout.ts and delta.ts, written as numbers because this runs once per small frame.
 */

import { DTYPE_INFO } from '../../wire/dtype.js'
import {
  COMMAND_DELTA,
  DELTA_HEADER_BYTES,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC,
  FRAME_MAX_COMMANDS,
  FRAME_VERSION,
} from '../../wire/frame.js'
import { type DeltaTarget, isDenseLayout } from '../delta.js'

const HEADER_WORDS = FRAME_HEADER_BYTES / 4
const BOOL = DTYPE_INFO.bool.code

/** Memory that holds frames, each at a multiple of 8. */
export interface FrameMemory {
  readonly bytes: Uint8Array
  /** The same bytes. */
  readonly words: Uint32Array
}

/**
 * The length of the frame at `at` by its header; 0 when no frame begins there or its header does not fit
 * before `end`.
 */
export function frameLengthAt({ words }: FrameMemory, at: number, end: number): number {
  const word = at >>> 2
  if (end - at < FRAME_HEADER_BYTES || words[word] !== FRAME_MAGIC) return 0
  const length = words[word + 1]!
  return length < FRAME_HEADER_BYTES || length % 8 !== 0 ? 0 : length
}

/**
 * Whether the frame of `length` bytes at `at` is plain; all of it is in `memory`. `pageOf` finds the source
 * page of an id, if there is one that may be written.
 */
export function isPlainFrame(
  memory: FrameMemory,
  at: number,
  length: number,
  pageOf: (id: number) => DeltaTarget | undefined,
): boolean {
  const { bytes, words } = memory
  const word = at >>> 2
  const commandCount = words[word + 3]!
  const hasBareHeader =
    (words[word + 4]! | words[word + 5]! | words[word + 6]! | words[word + 7]!) === 0 &&
    words[word + 2] === FRAME_VERSION
  if (!hasBareHeader || commandCount === 0 || commandCount > FRAME_MAX_COMMANDS) return false
  const end = word + length / 4
  let command = word + HEADER_WORDS
  for (let i = 0; i < commandCount; i++) {
    if (end - command < DELTA_HEADER_BYTES / 4 || words[command] !== COMMAND_DELTA) return false
    const commandLength = words[command + 1]!
    if (commandLength % 8 !== 0 || commandLength > (end - command) * 4) return false
    if (!isDenseLayout(bytes, words, command << 2, commandLength)) return false
    const page = pageOf(words[command + 2]!)
    const dtypeCode = words[command + 3]! >>> 16
    if (page === undefined || dtypeCode === BOOL || dtypeCode !== DTYPE_INFO[page.dtype].code) return false
    if (words[command + 4]! + words[command + 5]! > page.elements) return false
    command += commandLength >>> 2
  }
  return command === end
}

/** Calls back with the page of each delta of a plain frame. */
export function eachPageOf({ words }: FrameMemory, at: number, visit: (pageId: number) => void): void {
  const word = at >>> 2
  let command = word + HEADER_WORDS
  for (let i = 0; i < words[word + 3]!; i++) {
    visit(words[command + 2]!)
    command += words[command + 1]! >>> 2
  }
}
