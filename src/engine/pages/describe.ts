/**
 * Descriptions of pages, the graph and statistics, as of the published epoch.
 *
 * Invariant: an epoch in flight does not show. Its batch has changed the graph already, and says how.
 */
import type { ExecuteResult, MemoryStats } from '../../ffi/context.js'
import type { Graph } from '../../graph/graph.js'
import { inputOfPast } from '../../kernels/expression/names.js'
import type { StageTimings } from '../stage-timings.js'
import type { BusStats, ExecutionLog, GraphEdge, GraphNode, PageInfo } from '../types.js'
import type { PageRecord, Registry } from './registry.js'

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

/** What an epoch in flight has changed before it is published. */
export interface Staged {
  readonly deleted: readonly PageRecord[]
  /** Edges and depth of the graph before; undefined if they are the same. */
  readonly graphBefore: { readonly edges: number; readonly depth: number } | undefined
  /** Bytes of the pages and pasts that it created. */
  readonly createdBytes: number
}

export interface PageInfoDeps {
  readonly registry: Registry
  readonly graph: Graph
  readonly staged: Staged | undefined
  readonly version: number
  readonly location: PageInfo['location']
  readonly digest: string
}

export function pageInfo(
  page: PageRecord,
  { registry, graph, staged, version, location, digest }: PageInfoDeps,
): PageInfo {
  const inputs = new Set(
    (page.derived?.inputs ?? []).map(({ id, prev }) => registry.byId(prev ?? id)?.name ?? `#${prev ?? id}`),
  )
  const readers = new Set(graph.readersOf(page.id))
  for (const { id, derived } of staged?.deleted ?? []) {
    if (derived?.inputs.some((input) => (input.prev ?? input.id) === page.id)) readers.add(id)
  }
  const dependents = [...readers].flatMap((id) => registry.byId(id)?.name ?? []).sort()
  return {
    name: page.name,
    id: page.id,
    kind: page.kind,
    dtype: page.dtype,
    shape: page.shape,
    bytes: page.bytes,
    location,
    version,
    createdEpoch: page.createdEpoch,
    ...(page.derived === undefined ? {} : { derive: page.derived.derive, opVersion: page.derived.opVersion }),
    inputs: [...inputs],
    dependents,
    digest,
  }
}

/**
 * Nodes by level, then name; edges by target, then role: of `pages` and between them, which are in the order
 * of their names.
 * What it reads of a page never changes, so the lists may be read while epochs are published.
 */
export function graphView(pages: readonly PageRecord[]): {
  nodes: Iterable<GraphNode>
  edges: Iterable<GraphEdge>
} {
  return {
    nodes: { [Symbol.iterator]: () => nodesOf(pages) },
    edges: { [Symbol.iterator]: () => edgesOf(pages) },
  }
}

/** By level; pages of one level stay in their order. */
function byLevel(pages: readonly PageRecord[]): PageRecord[][] {
  const levels: PageRecord[][] = []
  for (const page of pages) {
    const level = levels[page.level]
    if (level === undefined) levels[page.level] = [page]
    else level.push(page)
  }
  return levels
}

function* nodesOf(pages: readonly PageRecord[]): Generator<GraphNode> {
  for (const level of byLevel(pages)) {
    for (const page of level ?? []) {
      const node = { name: page.name, kind: page.kind, level: page.level }
      yield page.derived === undefined ? node : { ...node, op: page.derived.derive.op }
    }
  }
}

function* edgesOf(pages: readonly PageRecord[]): Generator<GraphEdge> {
  const names = new Map(pages.map((page) => [page.id, page.name]))
  for (const level of byLevel(pages)) {
    for (const page of level ?? []) {
      for (const { role, id, prev } of page.derived?.inputs ?? []) {
        const from = names.get(prev ?? id)
        if (from === undefined) continue
        const edge = { from, to: page.name }
        yield prev === undefined
          ? { ...edge, input: role }
          : { ...edge, input: inputOfPast(role) ?? role, prev: true }
      }
    }
  }
}

/** The execution log of an epoch, with pages by name. */
export function executionLogOf(
  epoch: number,
  registry: Registry,
  result: ExecuteResult | undefined,
): ExecutionLog {
  const pageOfStep = new Map([...registry.all()].map((page) => [page.step, page.name]))
  // Steps that keep pasts belong to no page.
  const steps = (result?.steps() ?? []).flatMap(({ step, ...entry }) => {
    const page = pageOfStep.get(step)
    return page === undefined ? [] : [{ page, ...entry }]
  })
  return { epoch, steps }
}

export interface StatsView {
  readonly registry: Registry
  readonly graph: Graph
  readonly staged: Staged | undefined
  readonly memory: MemoryStats
  readonly deltas: { readonly dense: number; readonly sparse: number; readonly masked: number }
  readonly timings: ReturnType<StageTimings['summary']>
  readonly queue: { readonly transactions: number; readonly bytes: number }
  readonly epoch: number
  readonly log: BusStats['log']
  readonly locationOf: (page: PageRecord) => PageInfo['location']
}

export function statsOf(view: StatsView): BusStats {
  const pages = {
    count: view.registry.size,
    source: 0,
    derived: 0,
    bytes: view.memory.pageBytes - (view.staged?.createdBytes ?? 0),
    byLocation: { cpu: { count: 0, bytes: 0 }, gpu: { count: 0, bytes: 0 }, unified: { count: 0, bytes: 0 } },
    quotaBytes: view.memory.quotaBytes,
    poolBytes: view.memory.poolBytes,
  }
  for (const page of view.registry.all()) {
    pages[page.kind]++
    const place = pages.byLocation[view.locationOf(page)]
    place.count++
    place.bytes += page.bytes
  }
  return {
    epoch: view.epoch,
    pages,
    deltas: { ...view.deltas },
    graph: { nodes: view.registry.size, ...graphSize(view) },
    timings: view.timings,
    queue: view.queue,
    log: view.log,
  }
}

const graphSize = ({ graph, staged }: StatsView): { edges: number; depth: number } =>
  staged?.graphBefore ?? { edges: graph.edgeCount, depth: graph.depth() }
