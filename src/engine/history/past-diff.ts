/**
 * The difference between two epochs: which elements of which pages have other bytes.
 *
 * Pages that changed on the way from one epoch to the other are candidates; their values are read at both
 * ends and compared. Invariant: the answer names exactly the differing elements, although the candidates may
 * cover more.
 */
import { MmsbError } from '../../errors.js'
import { normalizeRanges, totalElements } from '../../state/ranges.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import type { PageRecord } from '../pages/registry.js'
import type { DiffResult } from '../types.js'
import type { Asker } from './replay-queries.js'
import type { Timeline } from './timeline.js'

interface Candidate {
  readonly page: PageRecord
  ranges: number[]
}

const CANDIDATE_RANGES_MAX = 8_192

type Pages = ReadonlyMap<number, PageRecord>

/**
 * The element ranges whose bytes differ between two epochs, by page. Throws PAGE_NOT_FOUND for a name that
 * neither has.
 */
export function diffPast(
  { timelines, caller, visible }: Asker,
  from: number,
  to: number,
  names: readonly string[] | undefined,
): DiffResult {
  const wanted = names === undefined ? undefined : new Set(names)
  const isWanted = (name: string): boolean =>
    (wanted?.has(name) ?? true) && (visible === undefined || visible.matches(name))
  const timeline = timelines.get({ caller, wanted: names === undefined ? 'all' : { names }, from, to })
  timeline.seek(from)
  const before = pagesOf(timeline)
  const candidates = new Map<number, Candidate>()
  timeline.seek(to, ({ result }) => {
    result.eachChange((id, ranges) => {
      const page = before.get(id)
      if (page !== undefined && isWanted(page.name)) addCandidate(candidates, page, ranges)
    })
  })
  const after = pagesOf(timeline)
  refuseUnknown(names ?? [], before, after, `at epoch ${from}, nor at epoch ${to}`)
  const pages = new Map<string, DiffResult['pages'][string]>()
  for (const { id, name } of before.values()) {
    if (!after.has(id) && isWanted(name)) pages.set(name, { ranges: [], deleted: true })
  }
  for (const { id, name, elements } of after.values()) {
    if (before.has(id) || !isWanted(name)) continue
    pages.set(name, { ranges: elements === 0 ? [] : [[0, elements]], created: true })
  }
  const kept = [...candidates.values()].filter(({ page }) => after.has(page.id))
  const later = kept.map(({ page, ranges }) => {
    const normal = normalizeRanges(Uint32Array.from(ranges))
    return { page, ranges: normal, values: gather(timeline, page, normal) }
  })
  if (later.length > 0) timeline.seek(from)
  for (const { page, ranges, values } of later) {
    const differing = differences(gather(timeline, page, ranges), values, ranges)
    if (differing.length > 0) pages.set(page.name, { ranges: differing })
  }
  const sorted = [...pages].sort(([a], [b]) => (a < b ? -1 : 1))
  return { from, to, pages: Object.fromEntries(sorted) }
}

function pagesOf(timeline: Timeline): Pages {
  return new Map([...timeline.registry.all()].map((page) => [page.id, page]))
}

function addCandidate(candidates: Map<number, Candidate>, page: PageRecord, ranges: Uint32Array): void {
  let candidate = candidates.get(page.id)
  if (candidate === undefined) {
    candidate = { page, ranges: [] }
    candidates.set(page.id, candidate)
  }
  for (const bound of ranges) candidate.ranges.push(bound)
  if (candidate.ranges.length > CANDIDATE_RANGES_MAX) candidate.ranges = joined(candidate.ranges)
}

function refuseUnknown(names: readonly string[], before: Pages, after: Pages, where: string): void {
  const known = new Set([...before.values(), ...after.values()].map((page) => page.name))
  for (const name of names) {
    if (!known.has(name)) throw new MmsbError('PAGE_NOT_FOUND', `There was no page "${name}" ${where}.`)
  }
}

/**
 * Ranges in normal form. When there are still too many, the smallest gaps are closed, since these are only
 * candidates.
 */
function joined(ranges: readonly number[]): number[] {
  let normal = normalizeRanges(Uint32Array.from(ranges))
  for (let gap = 2; normal.length > CANDIDATE_RANGES_MAX / 2; gap *= 2) {
    const widened = Uint32Array.from(normal)
    for (let i = 0; i + 2 < widened.length; i += 2) {
      const end = (widened[i] as number) + (widened[i + 1] as number)
      const next = widened[i + 2] as number
      if (next - end < gap) widened[i + 1] = next - (widened[i] as number)
    }
    normal = normalizeRanges(widened)
  }
  return Array.from(normal)
}

function gather(timeline: Timeline, page: PageRecord, ranges: Uint32Array): Uint8Array {
  const count = totalElements(ranges)
  const out = new Uint8Array(count * DTYPE_INFO[page.dtype].sizeBytes)
  timeline.context.gather(page.id, ranges, out)
  return out
}

/** The runs of elements that differ. `a` and `b` hold the packed values of the ranges. */
function differences(a: Uint8Array, b: Uint8Array, ranges: Uint32Array): [number, number][] {
  const count = totalElements(ranges)
  const size = count === 0 ? 1 : a.length / count
  const runs: [number, number][] = []
  let at = 0
  for (let i = 0; i < ranges.length; i += 2) {
    const offset = ranges[i] as number
    let start = -1
    for (let k = 0; k < (ranges[i + 1] as number); k++, at += size) {
      let differs = false
      for (let byte = 0; byte < size && !differs; byte++) differs = a[at + byte] !== b[at + byte]
      if (differs && start < 0) start = k
      if (!differs && start >= 0) {
        runs.push([offset + start, k - start])
        start = -1
      }
    }
    if (start >= 0) runs.push([offset + start, (ranges[i + 1] as number) - start])
  }
  return runs
}
