/** The pages of a mirror, and how changes and snapshots are applied to them. */

import type { Dtype, TypedArray } from '../../wire/dtype.js'
import { elementsOf, emptyArray } from '../codec/values.js'
import { protocolError } from '../errors.js'
import type { ChangedPage } from '../types.js'

/** A page of a mirror. */
export interface MirroredPage<T extends TypedArray = TypedArray> {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Live: changes as the server's page does. Do not write to it. */
  readonly values: T
}

/** Replaces the pages by those of a snapshot. Pages that keep dtype and shape keep their array object. */
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
    throw protocolError(`a change of page "${name}", which the mirror does not have`)
  let from = 0
  for (const [offset, count] of ranges) {
    setPart(page.values, values, from, count, offset)
    from += count
  }
}

const isAlike = (page: MirroredPage, { dtype, shape }: ChangedPage): boolean =>
  page.dtype === dtype && page.shape.join() === shape.join()

function setPart(target: TypedArray, values: TypedArray, from: number, count: number, offset: number): void {
  // Both arrays have the same type, but TypeScript cannot call `set` on the union of the ten.
  const part = values.subarray(from, from + count)
  ;(target as { set(part: TypedArray, offset: number): void }).set(part, offset)
}
