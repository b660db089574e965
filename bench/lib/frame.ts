/** Frames as in docs/internals/FORMAT.md, for the benchmarks' clients: dense deltas with the merge `set`. */

const HEADER_BYTES = 32
const COMMAND_BYTES = 32
const MAGIC = 0x3146_534d
const TYPE_DELTA = 4
const F32 = 9

export interface DenseDelta {
  readonly pageId: number
  readonly offset: number
  /** An even number of values, so that the payload needs no padding. */
  readonly values: Float32Array
}

/** One transaction of f32 deltas. */
export function encodeFrame(deltas: readonly DenseDelta[]): Uint8Array {
  const payloads = deltas.reduce((total, { values }) => total + values.byteLength, 0)
  const bytes = new Uint8Array(HEADER_BYTES + deltas.length * COMMAND_BYTES + payloads)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, MAGIC, true)
  view.setUint32(4, bytes.length, true)
  view.setUint16(8, 1, true)
  view.setUint32(12, deltas.length, true)
  let at = HEADER_BYTES
  for (const { pageId, offset, values } of deltas) {
    if (values.byteLength % 8 !== 0) throw new Error('an even number of values is needed')
    view.setUint16(at, TYPE_DELTA, true)
    view.setUint32(at + 4, COMMAND_BYTES + values.byteLength, true)
    view.setUint32(at + 8, pageId, true)
    view.setUint8(at + 14, F32)
    view.setUint32(at + 16, offset, true)
    view.setUint32(at + 20, values.length, true)
    view.setUint32(at + 24, values.length, true)
    view.setUint32(at + 28, values.byteLength, true)
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at + COMMAND_BYTES)
    at += COMMAND_BYTES + values.byteLength
  }
  return bytes
}
