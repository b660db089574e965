/**
 * The estimates of pages that came from a checkpoint or the log, whose definitions carry none.
 *
 * Invariant: afterwards each derived page has the estimate that its definition would have if it were new.
 */
import { costPerElementOf, decodeDefinition } from '../../kernels/op-catalogue.js'
import type { EngineState } from './engine-state.js'

/** Estimates every derived page of the state. */
export function pricePages({ registry, graph }: Pick<EngineState, 'registry' | 'graph'>): void {
  for (const page of registry.all()) {
    const { derived } = page
    if (derived === undefined) continue
    const inputs = derived.inputs.flatMap(({ id, prev }) => registry.byId(prev ?? id) ?? [])
    const costNs = page.elements * costPerElementOf(decodeDefinition(derived.definition), inputs)
    page.derived = { ...derived, costNs }
    graph.setCost(page.id, costNs)
  }
}
