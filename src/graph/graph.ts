/**
 * The dependency graph of pages and the plans derived from it.
 *
 * Theory: a derived page is a function of its inputs, and a page's inputs never change, so the graph only
 * grows and shrinks at its edges. The level of a source page is 0; that of a derived page is 1 + the highest
 * level of its inputs (the longest path from a source). Steps run in (level, id) order: every input is final
 * before it is read, and a page reached on two paths is computed once. A plan holds the cone of a set of
 * dirty pages (everything that derives from them) in that order; which of its steps really run is decided
 * during execution, by dirty ranges and cutoff.
 *
 * A page may also read the content that a page had one epoch earlier: its past, a hidden page of level 0
 * whose step runs before all others. No value of the current epoch flows through it, so it closes no cycle. A
 * past may change in any epoch, so every plan holds the steps of all pasts and of everything derived from
 * them; those with nothing to do cost almost nothing.
 *
 * Invariants: the inputs of a node exist and have lower levels; `dependents` is the inverse of `inputs`;
 * cached plans are dropped whenever the structure changes. Knows nothing of files, names or bytes.
 */

export interface GraphNodeRecord {
  readonly id: number
  readonly level: number
  /** The native step that computes the page; undefined for a source page. */
  readonly step: number | undefined
  readonly inputs: readonly number[]
  readonly dependents: Set<number>
  /** Estimated nanoseconds to compute the whole page. */
  readonly costNs: number
  /** Set for a past: the page whose past it is. */
  readonly pastOf?: number
}

export interface StepCost {
  readonly page: number
  readonly costNs: number
}

/** Estimated nanoseconds of some steps, and the costliest of them. */
export interface Cost {
  readonly costNs: number
  readonly costliest: StepCost
}

export interface Plan {
  /** Native steps in execution order. */
  readonly steps: Uint32Array
  /** Page ids computed by `steps`, in the same order. */
  readonly pages: Uint32Array
  /** Estimated nanoseconds to run every step completely. */
  readonly costNs: number
  /** The step of the highest estimate: nanoseconds, and its page; 0 and 0 without a step. */
  readonly costliest: StepCost
  /** Smoothed duration of the executions of this plan; 0 before the first. */
  observedNs: number
}

const PLAN_CACHE_MAX = 1024
const NO_STEP: StepCost = { page: 0, costNs: 0 }
/** Nothing to do. */
export const EMPTY_PLAN: Plan = {
  steps: new Uint32Array(0),
  pages: new Uint32Array(0),
  costNs: 0,
  costliest: NO_STEP,
  observedNs: 0,
}

export class Graph {
  readonly #nodes = new Map<number, GraphNodeRecord>()
  readonly #plans = new Map<string | number, Plan>()
  /** Ids of the pasts of a page. */
  readonly #pastsOf = new Map<number, Set<number>>()
  /** All pasts, ascending. */
  #pasts: number[] = []
  #edgeCount = 0
  #totalCostNs = 0
  /** Number of nodes on each level. */
  #levels: number[] = []

  /** Replaces everything in this graph with the content of `other`. */
  adopt(other: Graph): void {
    this.#nodes.clear()
    this.#plans.clear()
    this.#pastsOf.clear()
    for (const [id, node] of other.#nodes) this.#nodes.set(id, node)
    for (const [id, pasts] of other.#pastsOf) this.#pastsOf.set(id, pasts)
    this.#pasts = other.#pasts
    this.#edgeCount = other.#edgeCount
    this.#totalCostNs = other.#totalCostNs
    this.#levels = other.#levels
  }

  /** Estimated nanoseconds of all steps together: no plan costs more. */
  get totalCostNs(): number {
    return this.#totalCostNs
  }

  /** Number of pages, without pasts. */
  get nodeCount(): number {
    return this.#nodes.size - this.#pasts.length
  }

  get edgeCount(): number {
    return this.#edgeCount
  }

  node(id: number): GraphNodeRecord | undefined {
    return this.#nodes.get(id)
  }

  /** The longest path, in edges, over all nodes. */
  depth(): number {
    return Math.max(0, this.#levels.length - 1)
  }

  addSource(id: number): void {
    this.#insert({ id, level: 0, step: undefined, inputs: [], dependents: new Set(), costNs: 0 })
  }

  /**
   * Adds a derived page and returns its level. Its inputs must be nodes already, so it cannot close a cycle.
   */
  addDerived(id: number, inputs: readonly number[], step: number, costNs: number): number {
    let level = 0
    for (const input of inputs) level = Math.max(level, this.#require(input).level)
    this.#insert({ id, level: level + 1, step, inputs, dependents: new Set(), costNs })
    for (const input of new Set(inputs)) {
      this.#require(input).dependents.add(id)
      this.#edgeCount++
    }
    this.#plans.clear()
    return level + 1
  }

  /** Adds the past of a page, which need not be a node yet. `step` is marked to run before the deltas. */
  addPast(id: number, pageId: number, step: number): void {
    this.#insert({ id, level: 0, step, inputs: [], dependents: new Set(), costNs: 0, pastOf: pageId })
    const pasts = this.#pastsOf.get(pageId) ?? new Set()
    this.#pastsOf.set(pageId, pasts.add(id))
    this.#pasts = [...this.#pasts, id].sort((a, b) => a - b)
    this.#plans.clear()
  }

  /** Ids of all pasts, ascending. */
  get pasts(): readonly number[] {
    return this.#pasts
  }

  /** A past of the page, or undefined. */
  pastOf(pageId: number): number | undefined {
    const [id] = this.#pastsOf.get(pageId) ?? []
    return id
  }

  /** Ids of the pages that read the page or its past. */
  readersOf(id: number): number[] {
    const readers = new Set(this.#nodes.get(id)?.dependents)
    for (const past of this.#pastsOf.get(id) ?? []) {
      for (const reader of this.#require(past).dependents) readers.add(reader)
    }
    return [...readers]
  }

  /** Replaces the step of a page; its inputs stay. */
  setStep(id: number, step: number, costNs: number): void {
    const node = this.#require(id)
    this.#totalCostNs += costNs - node.costNs
    this.#nodes.set(id, { ...node, step, costNs })
    this.#plans.clear()
  }

  /** Replaces the estimate of a derived page. */
  setCost(id: number, costNs: number): void {
    this.setStep(id, this.#require(id).step as number, costNs)
  }

  /** Removes a page that no page derives from, or a past that no page reads. */
  remove(id: number): void {
    const node = this.#require(id)
    if (node.dependents.size > 0) throw new Error(`graph: page ${id} still has dependents`)
    for (const input of new Set(node.inputs)) {
      this.#require(input).dependents.delete(id)
      this.#edgeCount--
    }
    this.#nodes.delete(id)
    this.#totalCostNs = this.#nodes.size === 0 ? 0 : this.#totalCostNs - node.costNs
    this.#levels[node.level] = (this.#levels[node.level] ?? 0) - 1
    while (this.#levels.at(-1) === 0) this.#levels.pop()
    if (node.pastOf !== undefined) {
      this.#pasts = this.#pasts.filter((past) => past !== id)
      const pasts = this.#pastsOf.get(node.pastOf)
      pasts?.delete(id)
      if (pasts?.size === 0) this.#pastsOf.delete(node.pastOf)
    }
    this.#plans.clear()
  }

  /**
   * The page and all that depend on it or its past, directly or not; each comes before the pages it derives
   * from.
   */
  withDependents(id: number): number[] {
    const seen = new Set([id])
    for (const page of seen) for (const reader of this.readersOf(page)) seen.add(reader)
    const nodes = [...seen].map((page) => this.#require(page)).sort(byLevel)
    return nodes.map((node) => node.id).reverse()
  }

  /**
   * The path from page `from` to page `to` along derivations, both included, or undefined when there is none.
   */
  path(from: number, to: number): number[] | undefined {
    const cameFrom = new Map<number, number>([[from, from]])
    const queue = [from]
    for (let id = queue.shift(); id !== undefined && id !== to; id = queue.shift()) {
      for (const next of this.#nodes.get(id)?.dependents ?? []) {
        if (cameFrom.has(next)) continue
        cameFrom.set(next, id)
        queue.push(next)
      }
    }
    if (!cameFrom.has(to)) return undefined
    const path = [to]
    for (let id = to; id !== from; ) {
      id = cameFrom.get(id) as number
      path.unshift(id)
    }
    return path
  }

  /** The plan for a set of dirty pages (ascending, unique). */
  plan(dirty: readonly number[]): Plan {
    if (dirty.length === 0 && this.#pasts.length === 0) return EMPTY_PLAN
    const key = dirty.length === 1 ? (dirty[0] as number) : dirty.join(',')
    const cached = this.#plans.get(key)
    if (cached !== undefined) return cached
    const plan = this.#build(this.#pasts, this.#cone([...dirty, ...this.#pasts]))
    if (this.#plans.size >= PLAN_CACHE_MAX) this.#plans.clear()
    this.#plans.set(key, plan)
    return plan
  }

  /**
   * A plan that also computes the pages of `fresh` completely (marked by `markFull`). `unborn` are pages that
   * did not exist one epoch earlier; their past stays as it is. Not cached, because the structure has just
   * changed.
   */
  planWith(
    dirty: readonly number[],
    fresh: ReadonlySet<number>,
    markFull: (step: number) => number,
    unborn: ReadonlySet<number> = fresh,
  ): Plan {
    const pasts = this.#pasts.filter((past) => !unborn.has(this.#require(past).pastOf as number))
    const nodes = new Set(this.#cone([...dirty, ...pasts, ...fresh]))
    for (const id of fresh) {
      const node = this.#require(id)
      if (node.step !== undefined) nodes.add(node)
    }
    const plan = this.#build(pasts, [...nodes].sort(byLevel))
    for (const [i, id] of plan.pages.entries()) {
      if (fresh.has(id)) plan.steps[i] = markFull(plan.steps[i] as number)
    }
    return plan
  }

  /** Checks the invariants above, for tests. Throws on a violation. */
  invariant(): void {
    let edges = 0
    for (const node of this.#nodes.values()) {
      let level = 0
      for (const input of new Set(node.inputs)) {
        const source = this.#require(input)
        if (!source.dependents.has(node.id))
          throw new Error(`graph: ${input} does not know its dependent ${node.id}`)
        level = Math.max(level, source.level + 1)
        edges++
      }
      if (level !== node.level)
        throw new Error(`graph: page ${node.id} has level ${node.level}, not ${level}`)
      for (const dependent of node.dependents) {
        if (!this.#require(dependent).inputs.includes(node.id)) {
          throw new Error(`graph: ${dependent} does not name its input ${node.id}`)
        }
      }
    }
    if (edges !== this.#edgeCount) throw new Error(`graph: ${edges} edges counted, ${this.#edgeCount} kept`)
  }

  #cone(dirty: readonly number[]): GraphNodeRecord[] {
    const seen = new Set<GraphNodeRecord>()
    const queue: GraphNodeRecord[] = []
    for (const id of dirty) {
      const node = this.#nodes.get(id)
      if (node !== undefined) queue.push(node)
    }
    for (let at = 0; at < queue.length; at++) {
      for (const id of (queue[at] as GraphNodeRecord).dependents) {
        const node = this.#require(id)
        if (seen.has(node)) continue
        seen.add(node)
        queue.push(node)
      }
    }
    return [...seen].sort(byLevel)
  }

  /**
   * The estimate of a plan for dirty pages that also computes the pages of `fresh`, each with the estimate
   * given there.
   */
  costOf(dirty: readonly number[], fresh: ReadonlyMap<number, number> = NONE): Cost {
    const cost = new CostSum()
    for (const [id, costNs] of fresh) cost.add(id, costNs)
    for (const { id, costNs } of this.#cone([...dirty, ...fresh.keys(), ...this.#pasts])) {
      if (!fresh.has(id)) cost.add(id, costNs)
    }
    return cost
  }

  /** What a write of one page costs, and how many pages it reaches. */
  coneCost(id: number): { readonly costNs: number; readonly pages: number } {
    const cone = this.#cone([id, ...this.#pasts])
    return { costNs: cone.reduce((sum, node) => sum + node.costNs, 0), pages: cone.length }
  }

  /** The source pages and pasts that these pages derive from, themselves included. */
  rootsOf(ids: Iterable<number>): number[] {
    const seen = new Set(ids)
    const roots: number[] = []
    for (const id of seen) {
      const node = this.#nodes.get(id)
      if (node?.step === undefined || node.pastOf !== undefined) roots.push(id)
      else for (const input of node.inputs) seen.add(input)
    }
    return roots
  }

  #build(pasts: readonly number[], cone: readonly GraphNodeRecord[]): Plan {
    const nodes = [...pasts.map((past) => this.#require(past)), ...cone]
    const cost = new CostSum()
    const steps = new Uint32Array(nodes.length)
    const pages = new Uint32Array(nodes.length)
    for (const [i, node] of nodes.entries()) {
      steps[i] = node.step as number
      pages[i] = node.id
      cost.add(node.id, node.costNs)
    }
    return { steps, pages, costNs: cost.costNs, costliest: cost.costliest, observedNs: 0 }
  }

  #insert(node: GraphNodeRecord): void {
    if (this.#nodes.has(node.id)) throw new Error(`graph: page ${node.id} exists already`)
    this.#nodes.set(node.id, node)
    this.#totalCostNs += node.costNs
    // The levels below have nodes already, so the list has no gaps.
    this.#levels[node.level] = (this.#levels[node.level] ?? 0) + 1
  }

  #require(id: number): GraphNodeRecord {
    const node = this.#nodes.get(id)
    if (node === undefined) throw new Error(`graph: page ${id} does not exist`)
    return node
  }
}

const NONE: ReadonlyMap<number, number> = new Map()

class CostSum implements Cost {
  costNs = 0
  costliest = NO_STEP

  add(page: number, costNs: number): void {
    this.costNs += costNs
    if (costNs > this.costliest.costNs) this.costliest = { page, costNs }
  }
}

function byLevel(a: GraphNodeRecord, b: GraphNodeRecord): number {
  return a.level - b.level || a.id - b.id
}
