/**
 * Questions about the past, answered from a timeline: pages at an epoch, what an epoch did, which epochs changed what,
 * what differs between two epochs.
 *
 * Invariants: answers own their bytes and can be sent to another thread; one answer looks at a bounded number of epochs and
 * says where to go on. Names are those of the epoch in question, so pages deleted since are named too.
 */
import { MmsbError } from '../../errors.js'
import { HISTORY_ANSWER_BYTES, HISTORY_SCAN_EPOCHS } from '../../limits.js'
import { decodeDeltaForJson } from '../../state/delta.js'
import type { Command, Frame } from '../../state/frame/frame.js'
import { decodeFrame, splitFrames } from '../../state/frame/reader.js'
import { normalizeRanges } from '../../state/ranges.js'
import { fillToJson } from '../../state/value.js'
import { DTYPE_INFO, type TypedArray } from '../../wire/dtype.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DEFINE_FUNCTION,
  COMMAND_DELETE_PAGE,
  COMMAND_DELTA,
  COMMAND_REDEFINE_PAGE,
} from '../../wire/frame.js'
import { decodeFunction } from '../commands/functions.js'
import { recordOfLoggedCreate } from '../commands/transactions.js'
import { hex } from '../pages/describe.js'
import type { PageRecord } from '../pages/registry.js'
import type { DiffResult, EpochInfo, EpochList, EpochOp, PageData, PageHistory, PageShape } from '../types.js'
import type { ReplayedEpoch } from './rebuild.js'
import type { Timeline } from './timeline.js'

export interface PastRead {
  readonly name: string
  readonly offset?: number
  readonly count?: number
}

/** Pages as of an epoch. Throws PAGE_NOT_FOUND, RANGE_NOT_SATISFIABLE. */
export function readPast(timeline: Timeline, epoch: number, reads: readonly PastRead[]): PageData[] {
  timeline.seek(epoch)
  return reads.map((read) => {
    const page = pageAt(timeline, epoch, read.name)
    const { offset = 0, count = page.elements - offset } = read
    const isWhole = Number.isSafeInteger(offset) && Number.isSafeInteger(count)
    if (!isWhole || offset < 0 || count < 0 || offset + count > page.elements) {
      throw new MmsbError(
        'RANGE_NOT_SATISFIABLE',
        `Elements ${offset} to ${offset + count} are not all in page "${page.name}", which has ${page.elements}.`,
      )
    }
    const { name, dtype, shape, version } = page
    return { name, dtype, shape, version, epoch, values: valuesOf(timeline, page, offset, count) }
  })
}

/** What a page is at an epoch, without its values. Throws PAGE_NOT_FOUND. */
export function peekPast(timeline: Timeline, epoch: number, name: string): PageShape {
  timeline.seek(epoch)
  const { id, kind, dtype, shape, elements, bytes, version } = pageAt(timeline, epoch, name)
  return { id, name, kind, dtype, shape, elements, bytes, version }
}

function pageAt(timeline: Timeline, epoch: number, name: string): PageRecord {
  const page = timeline.registry.byName(name)
  if (page !== undefined) return page
  throw new MmsbError('PAGE_NOT_FOUND', `There was no page "${name}" at epoch ${epoch}.`)
}

function valuesOf(timeline: Timeline, page: PageRecord, offset: number, count: number): TypedArray {
  const { sizeBytes, view } = DTYPE_INFO[page.dtype]
  const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
  if (count > 0) timeline.context.readPage(page.id, offset * sizeBytes, values)
  return values
}

// ---- epochs -----------------------------------------------------------------------------------------------------------

/** What one epoch did. */
export function epochPast(timeline: Timeline, epoch: number): EpochInfo {
  timeline.seek(epoch - 1)
  let info: Omit<EpochInfo, 'digest'> | undefined
  timeline.seek(epoch, (replayed) => {
    info = describeEpoch(new EpochView(timeline, replayed))
  })
  if (info === undefined) throw new MmsbError('INTERNAL', `Epoch ${epoch} was not replayed.`)
  return { ...info, digest: hex(timeline.digest) }
}

export interface EpochQuery {
  readonly from: number
  readonly to: number
  readonly limit: number
  /** Only epochs in which this page changed, was created or was deleted. */
  readonly page?: string
  /** Only epochs with a transaction of this source. */
  readonly source?: string
}

/** The epochs of a range that match, ascending. */
export function epochsPast(timeline: Timeline, query: EpochQuery): EpochList {
  const epochs: EpochInfo[] = []
  const next = scan(timeline, query, epochs, (view) => {
    if (query.page !== undefined && !view.changedNames().includes(query.page)) return undefined
    if (query.source !== undefined && !view.frames().some(({ source }) => source === query.source))
      return undefined
    return describeEpoch(view)
  })
  return { epochs, next }
}

/** Visits epochs until enough are found; returns where to go on, or null at the end of the range. */
function scan<T>(
  timeline: Timeline,
  { from, to, limit }: Pick<EpochQuery, 'from' | 'to' | 'limit'>,
  found: (T & { digest: string })[],
  look: (view: EpochView) => T | undefined,
): number | null {
  const last = Math.min(to, from + HISTORY_SCAN_EPOCHS - 1)
  let bytes = 0
  if (from > to) return null
  timeline.seek(from - 1)
  for (let epoch = from; epoch <= last; ) {
    // Many at a time: each seek looks for its place in the log.
    const until = Math.min(last, epoch + SCAN_STRIDE - 1)
    let stop: number | undefined
    let waiting: T | undefined
    const take = (digest: Uint8Array): void => {
      if (waiting !== undefined) found.push({ ...waiting, digest: hex(digest) })
      waiting = undefined
    }
    timeline.seek(until, (replayed) => {
      if (stop !== undefined) return
      // The digest after an epoch is the one that the next record carries.
      take(replayed.record.digestBefore)
      if (found.length >= limit || bytes > HISTORY_ANSWER_BYTES) {
        stop = replayed.record.epoch
        return
      }
      waiting = look(new EpochView(timeline, replayed))
      if (waiting !== undefined) bytes += replayed.record.frames.byteLength
    })
    take(timeline.digest)
    if (stop !== undefined) return stop
    epoch = until + 1
    if (found.length >= limit || bytes > HISTORY_ANSWER_BYTES) return epoch <= to ? epoch : null
  }
  return last < to ? last + 1 : null
}

const SCAN_STRIDE = 256

/** One epoch on its way, looked at only as far as is asked. */
class EpochView {
  readonly #timeline: Timeline
  readonly replayed: ReplayedEpoch
  #frames: Frame[] | undefined
  readonly #fresh = new Map<number, PageRecord>()

  constructor(timeline: Timeline, replayed: ReplayedEpoch) {
    this.#timeline = timeline
    this.replayed = replayed
    for (const page of replayed.created) this.#fresh.set(page.id, page)
  }

  get timeline(): Timeline {
    return this.#timeline
  }

  frames(): Frame[] {
    this.#frames ??= splitFrames(this.replayed.record.frames).map((bytes) => decodeFrame(bytes))
    return this.#frames
  }

  page(id: number): PageRecord | undefined {
    return this.#fresh.get(id) ?? this.#timeline.registry.byId(id)
  }

  name(id: number): string {
    return this.page(id)?.name ?? `#${id}`
  }

  /** Pages whose bytes changed, and those created and deleted, sorted. */
  changedNames(): string[] {
    const names = new Set<string>()
    // Pasts change too, but are no pages.
    this.replayed.result.eachChangedId((id) => {
      const page = this.page(id)
      if (page !== undefined) names.add(page.name)
    })
    for (const { name } of this.replayed.created) names.add(name)
    for (const { name } of this.replayed.deleted) names.add(name)
    return [...names].sort()
  }
}

function describeEpoch(view: EpochView): Omit<EpochInfo, 'digest'> {
  const { record } = view.replayed
  return {
    epoch: record.epoch,
    timestamp: new Date(record.timestampMs).toISOString(),
    transactions: view.frames().map((frame) => ({
      source: frame.source ?? null,
      intent: frame.intent ?? null,
      ops: frame.commands.flatMap((command) => opOf(view, command) ?? []),
    })),
    changed: view.changedNames(),
  }
}

function opOf(view: EpochView, command: Command): EpochOp | undefined {
  switch (command.type) {
    case COMMAND_DELTA:
      return {
        ...decodeDeltaForJson(command, view.page(command.pageId)?.elements),
        page: view.name(command.pageId),
      }
    case COMMAND_CREATE_PAGE: {
      const { name, dtype, shape, location, kind } = command
      const base = { op: 'create', page: name, dtype, shape: [...shape], location } as const
      if (kind === 'source') return { ...base, fill: fillToJson(dtype, command.fill) }
      const derived = recordOfLoggedCreate(command, (id) => view.name(id)).derived
      return { ...base, ...(derived === undefined ? {} : { derive: derived.derive }) }
    }
    case COMMAND_DELETE_PAGE:
      return { op: 'delete', page: view.name(command.pageId) }
    case COMMAND_DEFINE_FUNCTION: {
      const { body } = decodeFunction(command.name, command.definition, 0)
      return body === undefined
        ? { op: 'undefine', function: command.name }
        : { op: 'define', function: command.name, ...body }
    }
    default:
      // The pages that a function's change redefines are in `changed` where their bytes are others.
      return undefined
  }
}

// ---- history of a page ------------------------------------------------------------------------------------------------

/** The versions of a page in a range of epochs, ascending. */
export function historyPast(
  timeline: Timeline,
  name: string,
  query: Pick<EpochQuery, 'from' | 'to' | 'limit'>,
): PageHistory {
  type Version = PageHistory['versions'][number]
  const found: (Version & { digest: string })[] = []
  const next = scan<Version>(timeline, query, found, (view) => {
    if (!view.changedNames().includes(name)) return undefined
    const { record } = view.replayed
    const origin = originOf(view, name)
    return {
      epoch: record.epoch,
      timestamp: new Date(record.timestampMs).toISOString(),
      source: origin?.source ?? null,
      intent: origin?.intent ?? null,
    }
  })
  const versions = found.map(({ digest: _, ...version }) => version)
  return { name, versions, next }
}

/** The last transaction of the epoch that reached the page: wrote it or something it derives from, made it or ended it. */
function originOf(view: EpochView, name: string): Frame | undefined {
  const frames = view.frames()
  if (frames.length === 1) return frames[0]
  const reaches = new Set<number>()
  const queue = [...view.replayed.created, ...view.replayed.deleted].filter((page) => page.name === name)
  const live = view.timeline.registry.byName(name)
  if (live !== undefined) queue.push(live)
  for (let page = queue.pop(); page !== undefined; page = queue.pop()) {
    if (reaches.has(page.id)) continue
    reaches.add(page.id)
    for (const { id, prev } of page.derived?.inputs ?? []) {
      const input = view.page(prev ?? id)
      if (input !== undefined) queue.push(input)
    }
  }
  return frames.findLast((frame) =>
    frame.commands.some((command) => {
      switch (command.type) {
        case COMMAND_CREATE_PAGE:
          return reaches.has(command.id)
        case COMMAND_DELTA:
        case COMMAND_DELETE_PAGE:
        case COMMAND_REDEFINE_PAGE:
          return reaches.has(command.pageId)
        default:
          return false
      }
    }),
  )
}

// ---- difference -------------------------------------------------------------------------------------------------------

interface Candidate {
  readonly page: PageRecord
  ranges: number[]
}

const CANDIDATE_RANGES_MAX = 8_192

/** The element ranges whose bytes differ between two epochs, by page. */
export function diffPast(
  timeline: Timeline,
  from: number,
  to: number,
  names: readonly string[] | undefined,
): DiffResult {
  const wanted = names === undefined ? undefined : new Set(names)
  timeline.seek(from)
  const before = new Map([...timeline.registry.all()].map((page) => [page.id, page]))
  const candidates = new Map<number, Candidate>()
  const note = (page: PageRecord | undefined, ranges: Uint32Array): void => {
    if (page === undefined || (wanted !== undefined && !wanted.has(page.name))) return
    let candidate = candidates.get(page.id)
    if (candidate === undefined) {
      candidate = { page, ranges: [] }
      candidates.set(page.id, candidate)
    }
    for (const bound of ranges) candidate.ranges.push(bound)
    if (candidate.ranges.length > CANDIDATE_RANGES_MAX) candidate.ranges = joined(candidate.ranges)
  }
  timeline.seek(to, ({ result }) => {
    result.eachChange((id, ranges) => note(before.get(id), ranges))
  })
  const after = new Map([...timeline.registry.all()].map((page) => [page.id, page]))
  const known = (name: string): boolean =>
    timeline.registry.byName(name) !== undefined || [...before.values()].some((page) => page.name === name)
  for (const name of names ?? []) {
    if (!known(name)) {
      throw new MmsbError(
        'PAGE_NOT_FOUND',
        `There was no page "${name}" at epoch ${from}, nor at epoch ${to}.`,
      )
    }
  }
  const pages = new Map<string, DiffResult['pages'][string]>()
  for (const page of before.values()) {
    if (!after.has(page.id) && (wanted?.has(page.name) ?? true))
      pages.set(page.name, { ranges: [], deleted: true })
  }
  for (const page of after.values()) {
    if (before.has(page.id) || !(wanted?.has(page.name) ?? true)) continue
    pages.set(page.name, { ranges: page.elements === 0 ? [] : [[0, page.elements]], created: true })
  }
  const kept = [...candidates.values()].filter(({ page }) => after.has(page.id))
  const news = kept.map(({ page, ranges }) => {
    const normal = normalizeRanges(Uint32Array.from(ranges))
    return { page, ranges: normal, values: gather(timeline, page, normal) }
  })
  if (news.length > 0) timeline.seek(from)
  for (const { page, ranges, values } of news) {
    const differing = differences(gather(timeline, page, ranges), values, ranges)
    if (differing.length > 0) pages.set(page.name, { ranges: differing })
  }
  const sorted = [...pages].sort(([a], [b]) => (a < b ? -1 : 1))
  return { from, to, pages: Object.fromEntries(sorted) }
}

/** Ranges in normal form; when they are still too many, the smallest gaps are closed: they are candidates only. */
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
  let count = 0
  for (let i = 1; i < ranges.length; i += 2) count += ranges[i] as number
  const out = new Uint8Array(count * DTYPE_INFO[page.dtype].sizeBytes)
  if (count > 0) timeline.context.gather(page.id, ranges, out)
  return out
}

/** The runs of elements that differ. `a` and `b` are the packed values of the ranges. */
function differences(a: Uint8Array, b: Uint8Array, ranges: Uint32Array): [number, number][] {
  let count = 0
  for (let i = 1; i < ranges.length; i += 2) count += ranges[i] as number
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
