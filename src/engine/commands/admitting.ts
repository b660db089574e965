/** What a pending transaction asks for, where its sender is limited. */
import type { Graph } from '../../graph/graph.js'
import type { Admission, Work } from '../call-types.js'
import { talliedBytes } from '../pages/page-tallies.js'
import type { Registry } from '../pages/registry.js'
import type { CommitResult } from '../types.js'
import type { Pending } from './pending.js'

const NO_CREATES: Work['creates'] = []

/** What takes the transactions that are let in. */
interface Taker {
  commit(pending: Pending): Promise<CommitResult>
}

/** Commits a transaction if its sender may; everybody may without `admission`. Throws what that throws. */
export function commitAdmitted(
  taker: Taker,
  pending: Pending,
  admission: Admission | undefined,
  { registry, graph }: { readonly registry: Registry; readonly graph: Graph },
): Promise<CommitResult> {
  if (admission === undefined) return taker.commit(pending)
  const { creates } = pending
  const release = admission.admit({
    bytes: pending.frame.byteLength,
    creates: creates.length === 0 ? NO_CREATES : creates.map((page) => ({ bytes: talliedBytes(page) })),
    functions: functionsAfter(pending, registry),
    costNs: () => costOf(pending, graph),
  })
  if (release === undefined) return taker.commit(pending)
  try {
    return taker.commit(pending).finally(release)
  } catch (error) {
    release()
    throw error
  }
}

function functionsAfter({ change }: Pending, { functions }: Registry): number | undefined {
  const isNew = change?.body !== undefined && functions.get(change.name) === undefined
  return isNew ? functions.size + 1 : undefined
}

/** The estimate of all steps that a transaction makes necessary, as if each were computed completely. */
function costOf({ writes, creates, redefines = [] }: Pending, graph: Graph): number {
  const fresh = new Map<number, number>()
  for (const { id, derived } of creates) if (derived !== undefined) fresh.set(id, derived.costNs)
  for (const { id, derived } of redefines) fresh.set(id, derived.costNs)
  if (fresh.size > 0) return graph.costOf(writes, fresh).costNs
  // Plans are kept, and the epoch is likely to need this one.
  return graph.plan(writes.length < 2 ? writes : writes.toSorted((a, b) => a - b)).costNs
}
