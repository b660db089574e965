/** What-if: the values pages would have if some deltas were committed now. Nothing is committed. */
import { MmsbError } from '../../errors.js'
import type { Plan } from '../../graph/graph.js'
import { READ_SLICE_BYTES } from '../../limits.js'
import type { Sliced } from '../../slices.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { pendingOfTransaction } from '../commands/transactions.js'
import type { EngineState } from '../pages/engine-state.js'
import type { PageRecord } from '../pages/registry.js'
import type { PageData, WhatIfInput, WhatIfResult } from '../types.js'

/** More pages than this are read in slices. */
const READ_PAGES_AT_ONCE_MAX = 256
/** To read a small page takes as long as to copy so many bytes. */
const BYTES_OF_A_PAGE = READ_SLICE_BYTES / READ_PAGES_AT_ONCE_MAX

/**
 * The plan and pages of a what-if, compiled against the current state. Throws what the transaction would
 * throw.
 */
export function prepareWhatIf(
  { registry, graph }: EngineState,
  input: WhatIfInput,
): {
  plan: Plan
  frames: Uint8Array
  pages: readonly PageRecord[]
  roots: readonly PageRecord[]
  isLarge: boolean
} {
  if (input.read.length === 0) throw new MmsbError('INVALID_REQUEST', 'read: name at least one page.')
  const pending = pendingOfTransaction(registry, { ops: input.ops })
  const pages = [...new Set(input.read)].map((name) => registry.require(name))
  const dirty = [...pending.writes].sort((a, b) => a - b)
  const roots = dirty.flatMap((id) => registry.byId(id) ?? [])
  const bytes = pages.reduce((sum, page) => sum + page.bytes, 0)
  const isLarge = pages.length > READ_PAGES_AT_ONCE_MAX || bytes > READ_SLICE_BYTES
  return { plan: graph.plan(dirty), frames: pending.frame, pages, roots, isLarge }
}

/** Reads pages during the dry run, in slices. `epoch` is the one that the commit would have. */
export function* readingDuringDryRun(
  { context }: EngineState,
  pages: readonly PageRecord[],
  changed: ReadonlySet<number>,
  epoch: number,
): Sliced<WhatIfResult> {
  const entries: [string, PageData][] = []
  let left = READ_SLICE_BYTES
  for (const { id, name, dtype, shape, elements, version: old } of pages) {
    const { sizeBytes, view } = DTYPE_INFO[dtype]
    const values = view(new ArrayBuffer(elements * sizeBytes), 0, elements)
    const step = READ_SLICE_BYTES / sizeBytes
    for (let at = 0; at < elements; at += step) {
      const piece = values.subarray(at, at + step)
      context.readPage(id, at * sizeBytes, piece)
      left -= piece.byteLength + BYTES_OF_A_PAGE
      if (left > 0) continue
      left = READ_SLICE_BYTES
      yield
    }
    entries.push([name, { name, dtype, shape, version: changed.has(id) ? epoch : old, epoch, values }])
  }
  return { epoch, pages: Object.fromEntries(entries) }
}
