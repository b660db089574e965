/**
 * Reading pages as they are now: their elements and descriptions.
 *
 * Invariants: elements are of one whole epoch, because the caller settles or awaits the epoch in flight
 * first. Descriptions are those of the published epoch at any time, whatever is in flight. Values that are
 * handed out are copies. Changes nothing.
 */
import { MmsbError } from '../../errors.js'
import { READ_SLICE_BYTES } from '../../limits.js'
import type { Sliced } from '../../slices.js'
import type { PatternSet } from '../../state/pattern.js'
import { totalElements } from '../../state/ranges.js'
import { DTYPE_INFO, type TypedArray } from '../../wire/dtype.js'
import type { Location } from '../../wire/page.js'
import type { GraphEdge, GraphNode, PageData, PageInfo, ReadRange } from '../types.js'
import { graphView, hex, pageInfo, type Staged } from './describe.js'
import type { EngineState } from './engine-state.js'
import type { PageRecord } from './registry.js'
import { type CopyTarget, type SteadyCommits, steadyCopy } from './steady-copy.js'

/** Pages between two places where describing them may be interrupted. */
const PAGES_PER_CHECK = 128

export interface PageReaderDeps {
  readonly state: EngineState
  /** The published epoch, and what is in flight after it. */
  readonly committer: SteadyCommits & {
    readonly epoch: number
    readonly staged: Staged | undefined
    readonly isExecutionOpen: boolean
  }
  /** Whether pages may lie in device memory. */
  readonly hasDevice: () => boolean
}

export class PageReader {
  readonly #deps: PageReaderDeps

  constructor(deps: PageReaderDeps) {
    this.#deps = deps
  }

  /** Elements of a page, a copy. Throws PAGE_NOT_FOUND, RANGE_NOT_SATISFIABLE. */
  values(name: string, range: ReadRange): TypedArray {
    return this.#copy(this.#deps.state.registry.require(name), range)
  }

  /** Elements of a page with its description. Throws as `values` does. */
  data(name: string, range: ReadRange): PageData {
    const page = this.#deps.state.registry.require(name)
    const { dtype, shape, version } = page
    return { name, dtype, shape, version, epoch: this.#deps.committer.epoch, values: this.#copy(page, range) }
  }

  /**
   * Parts of several pages, all as of one epoch. Many bytes are copied a slice at a time while commits go on,
   * and are then of a later epoch. Call it between epochs. Throws PAGE_NOT_FOUND and RANGE_NOT_SATISFIABLE
   * before it reads anything.
   */
  async dataOfMany(
    reads: readonly (ReadRange & { readonly name: string })[],
    signal?: AbortSignal,
  ): Promise<{ epoch: number; pages: readonly PageData[] }> {
    const { state, committer } = this.#deps
    let bytes = 0
    const targets = reads.map(({ name, offset = 0, count: wanted }): CopyTarget => {
      const page = state.registry.require(name)
      const count = wanted ?? page.elements - offset
      checkRange(page, offset, count)
      bytes += count * DTYPE_INFO[page.dtype].sizeBytes
      return { page, offset, count }
    })
    const finish = (values: readonly TypedArray[]): { epoch: number; pages: readonly PageData[] } => {
      const { epoch } = committer
      const pages = targets.map(({ page: { name, dtype, shape, version } }, i) => {
        return { name, dtype, shape, version, epoch, values: values[i] as TypedArray }
      })
      return { epoch, pages }
    }
    if (bytes <= READ_SLICE_BYTES) return finish(targets.map(({ page, ...range }) => this.#copy(page, range)))
    return steadyCopy({ context: state.context, commits: committer, targets, signal }, finish)
  }

  #copy(page: PageRecord, { offset = 0, count = page.elements - offset }: ReadRange): TypedArray {
    checkRange(page, offset, count)
    const { sizeBytes, view } = DTYPE_INFO[page.dtype]
    const out = view(new ArrayBuffer(count * sizeBytes), 0, count)
    this.#deps.state.context.readPage(page.id, offset * sizeBytes, out)
    return out
  }

  /** Values of element ranges (offset, count, ...), packed. Throws PAGE_NOT_FOUND. */
  gather(pageId: number, ranges: Uint32Array): TypedArray {
    const page = this.#deps.state.registry.byId(pageId)
    if (page === undefined) throw new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${pageId}.`)
    const count = totalElements(ranges)
    const { sizeBytes, view } = DTYPE_INFO[page.dtype]
    const out = view(new ArrayBuffer(count * sizeBytes), 0, count)
    this.#deps.state.context.gather(pageId, ranges, out)
    return out
  }

  /** Pages sorted by name: those that start with `prefix`, after `cursor`, at most `limit`, all `visible`. */
  list(
    { prefix = '', limit = 100, cursor }: { prefix?: string; limit?: number; cursor?: string },
    visible?: PatternSet,
  ): { pages: PageInfo[]; next: string | undefined } {
    const { registry } = this.#deps.state
    const sorted = this.#visibleNames(visible)
    const first = cursor === undefined || cursor < prefix ? lowerBound(sorted, prefix) : after(sorted, cursor)
    const names = sorted.slice(first, first + limit)
    const end = names.findIndex((name) => !name.startsWith(prefix))
    if (end >= 0) names.length = end
    const following = sorted[first + names.length]
    const hasMore = names.length === limit && following?.startsWith(prefix) === true
    const next = hasMore ? names.at(-1) : undefined
    return { pages: names.map((name) => this.info(registry.require(name))), next }
  }

  info(page: PageRecord): PageInfo {
    return this.#infoOf(page, page.version, this.#digestOf(page), this.locationOf(page))
  }

  /**
   * Descriptions of pages in slices: versions and digests are those of the moment at which it begins, even of
   * pages that are deleted meanwhile.
   */
  *describing(pages: readonly PageRecord[]): Sliced<PageInfo[]> {
    const now = pages.map((page) => [page.version, this.#digestOf(page), this.locationOf(page)] as const)
    const infos: PageInfo[] = []
    for (const [i, page] of pages.entries()) {
      infos.push(this.#infoOf(page, ...(now[i] as (typeof now)[number])))
      if (i % PAGES_PER_CHECK === PAGES_PER_CHECK - 1) yield
    }
    return infos
  }

  #digestOf(page: PageRecord): Uint8Array {
    const { state, committer } = this.#deps
    return state.context.settledDigest(page.id, committer.isExecutionOpen)
  }

  #infoOf(
    page: PageRecord,
    version: number,
    digest: Uint8Array,
    location: Exclude<Location, 'auto'>,
  ): PageInfo {
    const { registry, graph } = this.#deps.state
    const { staged } = this.#deps.committer
    return pageInfo(page, { registry, graph, staged, version, location, digest: hex(digest) })
  }

  graph(visible?: PatternSet): { nodes: Iterable<GraphNode>; edges: Iterable<GraphEdge> } {
    const { registry } = this.#deps.state
    return graphView(this.#visibleNames(visible).map((name) => registry.require(name)))
  }

  /** Names of the pages that may be seen, sorted. */
  #visibleNames(visible: PatternSet | undefined): readonly string[] {
    const { registry } = this.#deps.state
    if (visible === undefined) return registry.names()
    if (visible.names !== undefined)
      return visible.names.filter((name) => registry.byName(name) !== undefined)
    return registry.names().filter((name) => visible.matches(name))
  }

  /** Where a page's bytes lie. */
  locationOf(page: PageRecord): Exclude<Location, 'auto'> {
    return this.#deps.hasDevice() ? this.#deps.state.context.pageLocation(page.id) : 'cpu'
  }
}

/** Where the first name is that does not come before `name`. */
function lowerBound(sorted: readonly string[], name: string): number {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] as string) < name) low = middle + 1
    else high = middle
  }
  return low
}

function after(sorted: readonly string[], name: string): number {
  const at = lowerBound(sorted, name)
  return sorted[at] === name ? at + 1 : at
}

/** Throws RANGE_NOT_SATISFIABLE unless all of these elements are in the page. */
export function checkRange(page: PageRecord, offset: number, count: number): void {
  const isWhole = Number.isSafeInteger(offset) && Number.isSafeInteger(count)
  if (!isWhole || offset < 0 || count < 0 || offset + count > page.elements) {
    throw new MmsbError(
      'RANGE_NOT_SATISFIABLE',
      `Elements ${offset} to ${offset + count} are not all in page "${page.name}", which has ${page.elements}.`,
    )
  }
}
