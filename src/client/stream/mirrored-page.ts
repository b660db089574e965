/** Pages held here, and how changes and snapshots go into them. */

import type { Dtype, TypedArray } from '../../wire/dtype.js'
import { elementsOf, emptyArray } from '../codec/values.js'
import { protocolError } from '../errors.js'
import type { ChangedPage } from '../types.js'

/** A page of a mirror. */
export interface MirroredPage<T extends TypedArray = TypedArray> {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Live: changes by itself. Do not write to it. */
  readonly values: T
}

/** Makes the pages those of a snapshot; the arrays of pages that stay alike stay the same objects. */
export function applySnapshot(pages: Map<string, MirroredPage>, changes: readonly ChangedPage[]): void {
  const names = new Set(changes.map(({ page }) => page))
  for (const name of pages.keys()) if (!names.has(name)) pages.delete(name)
  for (const change of changes) applyChange(pages, { ...change, kind: 'created' })
}

/** @throws MmsbError PROTOCOL */
export function applyChange(pages: Map<string, MirroredPage>, change: ChangedPage): void {
  const { page: name, kind, dtype, shape, ranges, values } = change
  if (kind === 'deleted') {
    pages.delete(name)
    return
  }
  let page = pages.get(name)
  if (kind === 'created' && (page === undefined || !isAlike(page, change))) {
    page = { name, dtype, shape, values: emptyArray(dtype, elementsOf(shape)) }
    pages.set(name, page)
  }
  if (page === undefined || values === undefined)
    throw protocolError(`a change of page "${name}", which is not there`)
  let from = 0
  for (const [offset, count] of ranges) {
    setPart(page.values, values, from, count, offset)
    from += count
  }
}

const isAlike = (page: MirroredPage, { dtype, shape }: ChangedPage): boolean =>
  page.dtype === dtype && page.shape.join() === shape.join()

function setPart(target: TypedArray, values: TypedArray, from: number, count: number, offset: number): void {
  // One of ten array types, the same on both sides; `set` of their union cannot be called.
  const part = values.subarray(from, from + count)
  ;(target as { set(part: TypedArray, offset: number): void }).set(part, offset)
}
