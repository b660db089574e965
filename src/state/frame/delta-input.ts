/**
 * Checks the parts of a delta as callers give them: merge, indices, mask. FrameWriter uses it while it
 * encodes.
 */
import { MmsbError } from '../../errors.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import { MERGES, type Merge } from '../../wire/page.js'
import { showValue } from '../value.js'

export const invalid = (detail: string): MmsbError => new MmsbError('INVALID_DELTA', detail)
export const malformed = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', detail)

/** Refuses a typed array whose buffer was transferred away: it looks empty, and reading it would throw. */
export function refuseDetached(what: string, view: ArrayBufferView): void {
  if (view.byteLength > 0) return
  try {
    new Uint8Array(view.buffer)
  } catch {
    throw invalid(`${what} are in an ArrayBuffer that was detached`)
  }
}

/** The code of a merge, 0 (set) by default. */
export function mergeCode(merge: Merge | undefined, dtype: Dtype): number {
  if (merge === undefined) return 0
  const code = MERGES.indexOf(merge)
  if (code < 0) throw malformed(`merge must be one of ${MERGES.join(', ')}, not ${showValue(merge)}`)
  if (DTYPE_INFO[dtype].kind === 'float' && (merge === 'and' || merge === 'or' || merge === 'xor')) {
    throw invalid(`merge ${merge} is not defined for ${dtype}`)
  }
  return code
}

/** Writes the indices of a sparse delta, each checked against the page. */
export function writeIndices(
  indices: ArrayLike<number>,
  elements: number,
  words: Uint32Array,
  at: number,
): void {
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i]
    if (typeof index !== 'number' || !(index >= 0 && index < elements) || index >>> 0 !== index) {
      throw refusedIndex(index, i, elements)
    }
    words[at + i] = index
  }
}

function refusedIndex(index: unknown, i: number, elements: number): MmsbError {
  if (!Number.isInteger(index)) return malformed(`indices[${i}] must be an integer, not ${showValue(index)}`)
  const where = (index as number) < 0 ? 'before the start' : 'past the end'
  return invalid(`indices[${i}]: ${index} is ${where}: the page has ${elements} elements`)
}

/** The bitset of a mask over a whole page. */
export function maskBits(mask: string | Uint8Array, elements: number): Uint8Array {
  const bits = typeof mask === 'string' ? decodeBase64(mask) : mask
  if (!(bits instanceof Uint8Array)) throw malformed('mask must be base64 text or bytes')
  refuseDetached('the bytes of mask', bits)
  const length = Math.ceil(elements / 8)
  if (bits.length !== length) {
    throw invalid(`mask has ${bits.length} bytes; ${elements} elements need ${length}`)
  }
  const past = elements % 8
  if (past !== 0 && bits[length - 1]! >>> past !== 0) {
    throw invalid(`mask has bits set past the ${elements} elements of the page`)
  }
  return bits
}

function decodeBase64(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64')
  // Buffer.from skips characters it does not know, so only canonical base64 comes out as it went in.
  if (bytes.toString('base64') !== text) throw invalid('mask is not base64')
  return bytes
}
