/**
 * Installing pages: native memory, native steps and a place in the graph. Destroying them gives all of it
 * back.
 *
 * Invariants: installing is all or nothing. A page that reads the past of another one needs a hidden page
 * that keeps that past; it is made with the first reader and destroyed with the last. Steps are destroyed
 * before the pages they use. Knows nothing of epochs and transactions.
 */

import { beforeStep, type NativeContext, stepNumber } from '../../ffi/context.js'
import type { Graph } from '../../graph/graph.js'
import { OPS } from '../../kernels/op-catalogue.js'
import type { Op } from '../../kernels/ops/op.js'
import { atOnce, type Sliced } from '../../slices.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { LOCATIONS } from '../../wire/page.js'
import type { EngineState } from './engine-state.js'
import type { DerivedRecord, PageRecord } from './registry.js'

/**
 * Installs pages and registers them at once, without an epoch, in slices. They hold zeros, whatever they were
 * created with: a checkpoint has no chunks of zeros.
 */
export function* installingBlankPages(state: EngineState, pages: readonly PageRecord[]): Sliced<void> {
  const own = new Map(pages.map((page) => [page.id, { ...page, fill: 0n }]))
  yield* installing(state, [...own.values()], (id) => own.get(id) as PageRecord)
  for (const page of pages) {
    const { step, level } = own.get(page.id) as PageRecord
    state.registry.add(Object.assign(page, { step, level }))
  }
}

/** Installs pages and registers them at once, without an epoch. */
export function installPages(state: EngineState, pages: readonly PageRecord[]): void {
  const own = new Map(pages.map((page) => [page.id, page]))
  atOnce(installing(state, pages, (id) => own.get(id) ?? (state.registry.byId(id) as PageRecord)))
  for (const page of pages) state.registry.add(page)
}

/** The reverse. No other page may derive from these; each comes before the pages it derives from. */
export function uninstallPages(state: EngineState, pages: readonly PageRecord[]): void {
  for (const page of pages) {
    state.graph.remove(page.id)
    state.registry.remove(page)
  }
  destroy(state, pages, unreadPasts(state.graph, pages))
}

/** Pages between two places where installing may be interrupted. */
const PAGES_PER_CHECK = 256

/**
 * In slices: gives pages, each listed after those it derives from, native memory, steps and places in the
 * graph. Makes the pasts they read where these do not exist yet, and returns the ids of those it made.
 * All or nothing.
 */
export function* installing(
  state: EngineState,
  pages: readonly PageRecord[],
  pageOf: (id: number) => PageRecord,
): Sliced<number[]> {
  const { context, graph } = state
  const pasts = missingPasts(graph, pages)
  context.createPages([
    ...pages.map(nativeDescriptor),
    // Before a page exists its past is zeros, whatever the page is filled with.
    ...pasts.map(([id, prev]) => ({ ...nativeDescriptor(pageOf(prev)), id, fill: 0n })),
  ])
  const made: number[] = []
  const done: PageRecord[] = []
  try {
    for (const [id, prev] of pasts) {
      const step = context.createStep({ ...COPY_STEP, outPage: id, inputPages: [prev] })
      graph.addPast(id, prev, beforeStep(step))
      made.push(id)
    }
    for (const page of pages) {
      if (page.derived !== undefined) page.step = createStep(context, page.id, page.derived)
      done.push(page)
      addToGraph(graph, page)
      if (done.length % PAGES_PER_CHECK === 0) yield
    }
  } catch (error) {
    for (const page of done.toReversed()) if (graph.node(page.id) !== undefined) graph.remove(page.id)
    destroy(state, pages, made)
    context.destroyPages(Uint32Array.from(pasts.map(([id]) => id).filter((id) => !made.includes(id))))
    throw error
  }
  return made
}

/** Frees the native side of pages, which are out of the graph already, and removes pasts from everything. */
export function destroy(
  { context, graph }: EngineState,
  pages: readonly PageRecord[],
  pasts: readonly number[] = [],
): void {
  if (pages.length === 0) return
  for (const page of pages) {
    if (page.step !== undefined) context.destroyStep(page.step)
    page.step = undefined
  }
  for (const id of pasts) {
    context.destroyStep(stepNumber(graph.node(id)?.step as number))
    graph.remove(id)
  }
  context.destroyPages(Uint32Array.from([...pages.map((page) => page.id), ...pasts]))
}

/** The pasts that `pages` read, by id, with the page each belongs to. */
function pastsOf(pages: readonly PageRecord[]): Map<number, number> {
  const pasts = new Map<number, number>()
  for (const page of pages) {
    for (const { id, prev } of page.derived?.inputs ?? []) if (prev !== undefined) pasts.set(id, prev)
  }
  return pasts
}

/** The pasts that `pages` read and that do not exist yet: id, and the page that each belongs to. */
export const missingPasts = (graph: Graph, pages: readonly PageRecord[]): [number, number][] =>
  [...pastsOf(pages)].filter(([id]) => graph.node(id) === undefined)

/** Bytes of elements of these pages, and of the pasts that come into being with them. */
export function bytesToCreate(
  graph: Graph,
  pages: readonly PageRecord[],
  pageOf: (id: number) => PageRecord,
): number {
  let bytes = 0
  for (const page of pages) bytes += page.bytes
  for (const [, prev] of missingPasts(graph, pages)) bytes += pageOf(prev).bytes
  return bytes
}

/** Ids of the pasts that `pages` read and that no page in the graph reads any more. */
export function unreadPasts(graph: Graph, pages: readonly PageRecord[]): number[] {
  return [...pastsOf(pages).keys()].filter((id) => graph.node(id)?.dependents.size === 0)
}

export function createStep(context: NativeContext, outPage: number, derived: DerivedRecord): number {
  const { opCode, opVersion, inputs, params } = derived
  return context.createStep({
    opCode,
    opVersion,
    outPage,
    inputPages: inputs.map((input) => input.id),
    params,
  })
}

export function addToGraph(graph: Graph, page: PageRecord): void {
  if (page.derived === undefined) {
    graph.addSource(page.id)
    return
  }
  const inputs = page.derived.inputs.map((input) => input.id)
  page.level = graph.addDerived(page.id, inputs, page.step as number, page.derived.costNs)
}

const COPY = OPS.get('copy') as Op
const COPY_STEP = {
  opCode: COPY.code,
  opVersion: COPY.version,
  params: new Uint8Array(0),
  keepsPast: true,
}

function nativeDescriptor(page: PageRecord): Parameters<NativeContext['createPages']>[0][number] {
  return {
    id: page.id,
    dtypeCode: DTYPE_INFO[page.dtype].code,
    shape: page.shape,
    location: LOCATIONS.indexOf(page.location),
    fill: page.fill,
  }
}
