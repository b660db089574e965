/**
 * Refuses work that is estimated to take too long: a step, or all steps of a commit or what-if.
 *
 * Invariants: new work only. What the log holds was accepted once, and recovery, replay and verification run
 * it whatever it costs. While all steps of the graph together cost less than either limit, nothing is looked
 * up; that keeps the usual commit free of it. Knows nothing of queues and records.
 */
import type { MmsbError } from '../../errors.js'
import type { Cost, Graph, StepCost } from '../../graph/graph.js'
import type { LimitGuard } from '../../operator-limits.js'
import type { PageRecord } from './registry.js'

const NS = 1e6
/** Pages that one search for the costliest source may visit. */
const VISITS_MAX = 2_000_000

export class CostLimits {
  readonly stepNs: number
  readonly commitNs: number
  readonly #leastNs: number
  readonly #limits: LimitGuard
  readonly #nameOf: (pageId: number) => string

  /** `nameOf` gives the name of a page for the text of an error. */
  constructor(limits: LimitGuard, nameOf: (pageId: number) => string) {
    this.#limits = limits
    this.#nameOf = nameOf
    this.stepNs = limits.values.maxStepCostMs * NS
    this.commitNs = limits.values.maxCommitCostMs * NS
    this.#leastNs = Math.min(this.stepNs, this.commitNs)
  }

  /** Whether no commit can cost too much, even with `moreNs` of steps that are not in the graph yet. */
  allow(graph: Graph, moreNs = 0): boolean {
    return graph.totalCostNs + moreNs <= this.#leastNs
  }

  /**
   * The error for a step or a plan that costs too much; undefined when neither does. `created` has the pages
   * of the plan that have no name yet.
   */
  refusal({ costNs, costliest }: Cost, created: readonly PageRecord[] = []): MmsbError | undefined {
    return this.#stepRefusal(costliest, created) ?? this.#commitRefusal(costNs)
  }

  #stepRefusal({ page, costNs }: StepCost, created: readonly PageRecord[]): MmsbError | undefined {
    if (costNs <= this.stepNs) return undefined
    const name = created.find(({ id }) => id === page)?.name ?? this.#nameOf(page)
    const detail = `To compute page "${name}" is estimated to take ${msOf(costNs)} ms; a step may take`
    return this.#refusal('maxStepCostMs', detail, costNs)
  }

  #commitRefusal(costNs: number): MmsbError | undefined {
    if (costNs <= this.commitNs) return undefined
    const detail = `The steps of this commit are estimated to take ${msOf(costNs)} ms together; they may take`
    return this.#refusal('maxCommitCostMs', detail, costNs)
  }

  /**
   * The error when a later write of one source page would cost too much because of these pages, which are in
   * the graph; undefined when none would.
   */
  sourceRefusal(graph: Graph, pages: readonly number[]): MmsbError | undefined {
    if (graph.totalCostNs <= this.commitNs) return undefined
    const roots = graph.rootsOf(pages)
    // Together they cost no less than each.
    if (graph.costOf(roots).costNs <= this.commitNs) return undefined
    let visits = 0
    for (const root of roots) {
      const { costNs, pages: visited } = graph.coneCost(root)
      visits += visited
      if (costNs <= this.commitNs && visits <= VISITS_MAX) continue
      const what =
        costNs > this.commitNs
          ? `A write of page "${this.#nameOf(root)}" would be estimated to take ${msOf(costNs)} ms; it may take`
          : `These pages derive from ${roots.length} pages whose writes are too costly to estimate; one may take`
      return this.#refusal('maxCommitCostMs', what, costNs)
    }
    return undefined
  }

  #refusal(limit: 'maxStepCostMs' | 'maxCommitCostMs', detail: string, costNs: number): MmsbError {
    const limitMs = this.#limits.values[limit]
    return this.#limits.refusal(limit, `${detail} ${limitMs} ms.`, { estimateMs: msOf(costNs), limitMs })
  }
}

const msOf = (ns: number): number => Math.ceil(ns / NS)
