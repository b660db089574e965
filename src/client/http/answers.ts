/** The answers that carry elements: bytes with headers, and JSON values, as typed arrays. */
import { type Dtype, isDtype, type TypedArray } from '../../wire/dtype.js'
import { fromJson, sizeOf, viewOf } from '../codec/values.js'
import { protocolError } from '../errors.js'
import type { PageData, ReadAnswer } from '../types.js'

/** @throws MmsbError PROTOCOL */
export function pageDataOf<T extends TypedArray>(
  name: string,
  headers: Headers,
  bytes: ArrayBuffer,
): PageData<T> {
  const dtype = headers.get('mmsb-dtype')
  const version = /^"(?:[^".]*\.)?v(\d+)"$/.exec(headers.get('etag') ?? '')?.[1]
  if (!isDtype(dtype) || version === undefined) {
    throw protocolError(`the answer lacks dtype or version of page "${name}"`)
  }
  const shape = (headers.get('mmsb-shape') ?? '').split(',').filter(Boolean).map(Number)
  if (bytes.byteLength % sizeOf(dtype) !== 0) {
    throw protocolError(
      `${bytes.byteLength} bytes are not a whole number of elements of page "${name}" (${dtype})`,
    )
  }
  const values = viewOf(dtype, bytes, 0, bytes.byteLength / sizeOf(dtype)) as T
  return { name, dtype, shape, epoch: Number(headers.get('mmsb-epoch')), version: Number(version), values }
}

export interface JsonRead {
  readonly epoch: number
  readonly pages: Readonly<
    Record<
      string,
      {
        readonly dtype: Dtype
        readonly shape: readonly number[]
        readonly version: number
        readonly values: readonly unknown[]
      }
    >
  >
}

/** @throws MmsbError PROTOCOL */
export function readAnswerOf({ epoch, pages }: JsonRead): ReadAnswer {
  try {
    const entries = Object.entries(pages).map(([name, { dtype, shape, version, values }]) => [
      name,
      { name, dtype, shape, epoch, version, values: fromJson(dtype, values) },
    ])
    return { epoch, pages: Object.fromEntries(entries) }
  } catch {
    throw protocolError('the answer does not hold the values of the pages')
  }
}
