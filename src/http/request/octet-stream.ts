/**
 * Page elements as raw bytes: a request body as a typed array, and a typed array as an answer.
 *
 * Invariants: a body that is not a whole number of elements is INVALID_DELTA; the array is aligned, and
 * copied only if the buffer of the body is not.
 */
import { MmsbError } from '../../errors.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../../wire/dtype.js'

/** @throws MmsbError INVALID_DELTA */
export function typedArrayOf(dtype: Dtype, body: Uint8Array): TypedArray {
  const { sizeBytes, view } = DTYPE_INFO[dtype]
  if (body.byteLength % sizeBytes !== 0) {
    throw new MmsbError(
      'INVALID_DELTA',
      `the body has ${body.byteLength} bytes, not a multiple of ${sizeBytes}, the size of one ${dtype}`,
    )
  }
  const aligned = body.byteOffset % sizeBytes === 0 ? body : new Uint8Array(body)
  return view(aligned.buffer, aligned.byteOffset, body.byteLength / sizeBytes)
}

/** The bytes of a typed array, not a copy. */
export const bytesOf = (values: TypedArray): Buffer =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength)
