/**
 * What-if: what pages would hold if these deltas were committed now. Nothing is committed.
 */
import { MmsbError } from '../../errors.js'
import type { NativeContext } from '../../ffi/context.js'
import type { Graph, Plan } from '../../graph/graph.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { pendingOfTransaction } from '../commands/transactions.js'
import type { PageRecord, Registry } from '../pages/registry.js'
import type { PageData, TransactionInput } from '../types.js'

/** Deltas to try, and the pages to read afterwards. */
export interface WhatIfInput {
  readonly ops: TransactionInput['ops']
  /** Names of the pages to read. */
  readonly read: readonly string[]
}

/** Pages as they would be: `epoch` and the versions of changed pages are those of the commit that does not happen. */
export interface WhatIfResult {
  readonly epoch: number
  readonly pages: Readonly<Record<string, PageData>>
}

interface Rooms {
  readonly registry: Registry
  readonly graph: Graph
  readonly context: NativeContext
}

/** What a what-if will execute and read, against the state as it is now. Throws what the transaction would throw. */
export function prepareWhatIf(
  { registry, graph }: Rooms,
  input: WhatIfInput,
): {
  plan: Plan
  frames: Uint8Array
  pages: readonly PageRecord[]
  roots: readonly PageRecord[]
} {
  if (input.read.length === 0) throw new MmsbError('INVALID_REQUEST', 'read: name at least one page.')
  const pending = pendingOfTransaction(registry, { ops: input.ops })
  const pages = input.read.map((name) => registry.require(name))
  const dirty = [...pending.writes].sort((a, b) => a - b)
  const roots = dirty.flatMap((id) => registry.byId(id) ?? [])
  return { plan: graph.plan(dirty), frames: pending.frame, pages, roots }
}

/** Reads pages while the trial stands. `epoch` is the one the commit would have. */
export function readOnTrial(
  { context }: Rooms,
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
