/**
 * The estimates of pages that came from a checkpoint or the log, whose definitions carry none.
 *
 * Invariant: afterwards each derived page has the estimate that its definition would have if it were new.
 */
import { costPerElementOf, decodeDefinition } from '../../kernels/op-catalogue.js'
import { atOnce, type Sliced } from '../../slices.js'
import type { EngineState } from './engine-state.js'
import type { DerivedRecord, PageRecord } from './registry.js'

/** Pages between two places where the work may be interrupted. */
const PAGES_PER_CHECK = 64

/** What a logged definition says, with the estimate of a page with so many elements. */
export function priced(
  derived: DerivedRecord,
  elements: number,
  pageOf: (id: number) => PageRecord | undefined,
): DerivedRecord {
  const inputs = derived.inputs.flatMap(({ id, prev }) => pageOf(prev ?? id) ?? [])
  const costNs = elements * costPerElementOf(decodeDefinition(derived.definition), inputs)
  return { ...derived, costNs }
}

/** Estimates every derived page of the state, in slices. */
export function* pricingPages({ registry, graph }: Pick<EngineState, 'registry' | 'graph'>): Sliced<void> {
  let count = 0
  for (const page of registry.all()) {
    if (page.derived === undefined) continue
    page.derived = priced(page.derived, page.elements, (id) => registry.byId(id))
    graph.setCost(page.id, page.derived.costNs)
    if (++count % PAGES_PER_CHECK === 0) yield
  }
}

/** The same in one go. */
export function pricePages(state: Pick<EngineState, 'registry' | 'graph'>): void {
  atOnce(pricingPages(state))
}
