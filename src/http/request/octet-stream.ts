/**
 * Raw page bytes in a request body, as the typed array the codec takes.
 *
 * Invariant: a body that is not a whole number of elements is INVALID_DELTA; the array is aligned, and copied only where the
 * buffer it came in is not.
 */
import { MmsbError } from '../../errors.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../../wire/dtype.js'

/** @throws MmsbError INVALID_DELTA */
export function typedArrayOf(dtype: Dtype, body: Uint8Array): TypedArray {
  const { sizeBytes, view } = DTYPE_INFO[dtype]
  if (body.byteLength % sizeBytes !== 0) {
    throw new MmsbError(
      'INVALID_DELTA',
      `the body has ${body.byteLength} bytes, which is no multiple of the ${sizeBytes} of one ${dtype}`,
    )
  }
  const aligned = body.byteOffset % sizeBytes === 0 ? body : new Uint8Array(body)
  return view(aligned.buffer, aligned.byteOffset, body.byteLength / sizeBytes)
}

/** The bytes of a typed array, not copied. */
export const bytesOf = (values: TypedArray): Buffer =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength)
