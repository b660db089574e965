/** What-if: the values pages would have if some deltas were committed now. Nothing is committed. */
import { MmsbError } from '../../errors.js'
import type { Plan } from '../../graph/graph.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { pendingOfTransaction } from '../commands/transactions.js'
import type { EngineState } from '../pages/engine-state.js'
import type { PageRecord } from '../pages/registry.js'
import type { PageData, WhatIfInput, WhatIfResult } from '../types.js'

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
} {
  if (input.read.length === 0) throw new MmsbError('INVALID_REQUEST', 'read: name at least one page.')
  const pending = pendingOfTransaction(registry, { ops: input.ops })
  const pages = [...new Set(input.read)].map((name) => registry.require(name))
  const dirty = [...pending.writes].sort((a, b) => a - b)
  const roots = dirty.flatMap((id) => registry.byId(id) ?? [])
  return { plan: graph.plan(dirty), frames: pending.frame, pages, roots }
}

/** Reads pages during the dry run. `epoch` is the one that the commit would have. */
export function readDuringDryRun(
  { context }: EngineState,
  pages: readonly PageRecord[],
  changed: ReadonlySet<number>,
  epoch: number,
): WhatIfResult {
  const entries = pages.map((page): [string, PageData] => {
    const { name, dtype, shape, elements } = page
    const { sizeBytes, view } = DTYPE_INFO[dtype]
    const values = view(new ArrayBuffer(elements * sizeBytes), 0, elements)
    if (elements > 0) context.readPage(page.id, 0, values)
    const version = changed.has(page.id) ? epoch : page.version
    return [name, { name, dtype, shape, version, epoch, values }]
  })
  return { epoch, pages: Object.fromEntries(entries) }
}
