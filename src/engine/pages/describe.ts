/** Descriptions of pages, the graph and statistics: pure functions of the registry and the graph. */
import type { ExecuteResult, MemoryStats } from '../../ffi/context.js'
import type { Graph } from '../../graph/graph.js'
import { inputOfPast } from '../../kernels/expression/names.js'
import type { StageTimings } from '../stage-timings.js'
import type { BusStats, ExecutionLog, GraphEdge, GraphNode, PageInfo } from '../types.js'
import type { PageRecord, Registry } from './registry.js'

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}

export function pageInfo(
  page: PageRecord,
  registry: Registry,
  graph: Graph,
  location: PageInfo['location'],
  digest: string,
): PageInfo {
  const inputs = new Set(
    (page.derived?.inputs ?? []).map(({ id, prev }) => registry.byId(prev ?? id)?.name ?? `#${prev ?? id}`),
  )
  const dependents = graph
    .readersOf(page.id)
    .map((id) => registry.byId(id)?.name)
    .filter((name) => name !== undefined)
    .sort()
  return {
    name: page.name,
    id: page.id,
    kind: page.kind,
    dtype: page.dtype,
    shape: page.shape,
    bytes: page.bytes,
    location,
    version: page.version,
    createdEpoch: page.createdEpoch,
    ...(page.derived === undefined ? {} : { derive: page.derived.derive }),
    inputs: [...inputs],
    dependents,
    digest,
  }
}

/** Nodes by level, then name; edges by target, then role. */
export function graphView(registry: Registry, graph: Graph): { nodes: GraphNode[]; edges: GraphEdge[] } {
  const pages = [...registry.all()].sort(
    (a, b) => levelOf(graph, a) - levelOf(graph, b) || (a.name < b.name ? -1 : 1),
  )
  const nodes = pages.map((page): GraphNode => {
    const node = { name: page.name, kind: page.kind, level: levelOf(graph, page) }
    return page.derived === undefined ? node : { ...node, op: page.derived.derive.op }
  })
  const edges = pages.flatMap((page) =>
    (page.derived?.inputs ?? []).map(({ role, id, prev }): GraphEdge => {
      const edge = { from: registry.byId(prev ?? id)?.name ?? '', to: page.name }
      return prev === undefined
        ? { ...edge, input: role }
        : { ...edge, input: inputOfPast(role) ?? role, prev: true }
    }),
  )
  return { nodes, edges }
}

function levelOf(graph: Graph, page: PageRecord): number {
  return graph.node(page.id)?.level ?? 0
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
    bytes: view.memory.pageBytes,
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
    graph: { nodes: view.graph.nodeCount, edges: view.graph.edgeCount, depth: view.graph.depth() },
    timings: view.timings,
    queue: view.queue,
    log: view.log,
  }
}
