/**
 * Requests about the past, served from a timeline: pages as of an epoch, what an epoch did, and which epochs
 * changed a page.
 *
 * Invariants: answers own their bytes and can be sent to another thread. One answer searches a bounded number
 * of epochs and says where to continue. Pages have the names of the epoch in question, even if they were
 * deleted since.
 *
 * Null because public types promise it: `next` after the last part, and fields that a transaction lacks.
 */
import { MmsbError } from '../../errors.js'
import { HISTORY_ANSWER_BYTES, HISTORY_SCAN_EPOCHS } from '../../limits.js'
import { type DeltaJson, describeDelta } from '../../state/delta.js'
import type { Command, DeltaCommand, Frame } from '../../state/frame/frame.js'
import { decodeFrame, splitFrames } from '../../state/frame/reader.js'
import { BinaryList } from '../../state/json-parts.js'
import type { PatternSet } from '../../state/pattern.js'
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
import { hex } from '../pages/describe.js'
import { checkRange } from '../pages/page-reader.js'
import { recordOfLoggedCreate } from '../pages/page-records.js'
import type { PageRecord } from '../pages/registry.js'
import type { EpochInfo, EpochList, EpochOp, PageData, PageHistory, PageShape } from '../types.js'
import type { Timelines } from './cones/timelines.js'
import type { ReplayedEpoch } from './rebuild.js'
import type { Timeline } from './timeline.js'

export interface PastRead {
  readonly name: string
  readonly offset?: number
  readonly count?: number
}

/** The states of the thread, and the caller that a request came from. */
export interface Asker {
  readonly timelines: Timelines
  readonly caller: number
  /** The pages that the answer may show; undefined: all. */
  readonly visible?: PatternSet | undefined
}

/** Moves a state that holds the pages of these names to the epoch. */
function stateAt({ timelines, caller }: Asker, epoch: number, names: readonly string[]): Timeline {
  const timeline = timelines.get({ caller, wanted: { names }, from: epoch, to: epoch })
  timeline.seek(epoch)
  return timeline
}

/** Pages as of an epoch. Throws PAGE_NOT_FOUND, RANGE_NOT_SATISFIABLE. */
export function readPast(asker: Asker, epoch: number, reads: readonly PastRead[]): PageData[] {
  const names = reads.map(({ name }) => name)
  const timeline = stateAt(asker, epoch, names)
  return reads.map((read) => {
    const page = pageAt(timeline, epoch, read.name)
    const { offset = 0, count = page.elements - offset } = read
    checkRange(page, offset, count)
    const { name, dtype, shape, version } = page
    return { name, dtype, shape, version, epoch, values: valuesOf(timeline, page, offset, count) }
  })
}

/** A page's description as of an epoch. Throws PAGE_NOT_FOUND. */
export function peekPast(asker: Asker, epoch: number, name: string): PageShape {
  const timeline = stateAt(asker, epoch, [name])
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

// ---- epochs -----------------------------------------------------------------------------------------------

/** The transactions of one epoch and the pages they changed; lists of deltas are BinaryLists. */
export function epochPast({ timelines, caller, visible }: Asker, epoch: number): ShownEpoch {
  const timeline = timelines.get({ caller, wanted: 'all', from: epoch - 1, to: epoch })
  timeline.seek(epoch - 1)
  let info: Omit<EpochInfo, 'digest'> | undefined
  timeline.seek(epoch, (replayed) => {
    info = describeEpoch(new EpochView(timeline, replayed, visible))
  })
  if (info === undefined) throw new MmsbError('INTERNAL', `Epoch ${epoch} was not replayed.`)
  return visible === undefined ? { ...info, digest: hex(timeline.digest) } : info
}

/** What may be shown of an epoch: without the digest of all pages, unless all may be shown. */
type ShownEpoch = Omit<EpochInfo, 'digest'> & { readonly digest?: string }
type ShownEpochs = Omit<EpochList, 'epochs'> & { readonly epochs: readonly ShownEpoch[] }

export interface EpochQuery {
  readonly from: number
  readonly to: number
  readonly limit: number
  /** Only epochs in which this page changed, was created or was deleted. */
  readonly page?: string
  /** Only epochs with a transaction of this source. */
  readonly source?: string
}

/** The epochs of a range that match, ascending; lists of deltas are BinaryLists. */
export function epochsPast({ timelines, caller, visible }: Asker, query: EpochQuery): ShownEpochs {
  const epochs: (EpochInfo & { digest: string })[] = []
  const timeline = timelines.get({ caller, wanted: 'all', from: query.from - 1, to: query.to })
  const next = scan(timeline, query, epochs, visible, (view) => {
    if (view.isHidden) return undefined
    if (query.page !== undefined && !view.changedNames().includes(query.page)) return undefined
    if (
      query.source !== undefined &&
      !view.frames().some((frame) => view.showsAll(frame) && frame.source === query.source)
    )
      return undefined
    return describeEpoch(view)
  })
  const shown = visible === undefined ? epochs : epochs.map(({ digest: _, ...info }) => info)
  return { epochs: shown, next: next ?? null }
}

/** Visits epochs until enough are found; returns where to continue, or undefined at the end of the range. */
function scan<T>(
  timeline: Timeline,
  { from, to, limit }: Pick<EpochQuery, 'from' | 'to' | 'limit'>,
  found: (T & { digest: string })[],
  visible: PatternSet | undefined,
  look: (view: EpochView) => T | undefined,
): number | undefined {
  const last = Math.min(to, from + HISTORY_SCAN_EPOCHS - 1)
  let bytes = 0
  if (from > to) return undefined
  timeline.seek(from - 1)
  for (let epoch = from; epoch <= last; ) {
    // Many epochs per seek, because each seek searches its place in the log.
    const until = Math.min(last, epoch + SCAN_STRIDE - 1)
    let stop: number | undefined
    let waiting: T | undefined
    const take = (digest: Uint8Array): void => {
      if (waiting !== undefined) found.push({ ...waiting, digest: hex(digest) })
      waiting = undefined
    }
    timeline.seek(until, (replayed) => {
      if (stop !== undefined) return
      // The next record carries the digest after this epoch.
      take(replayed.record.digestBefore)
      if (found.length >= limit || bytes > HISTORY_ANSWER_BYTES) {
        stop = replayed.record.epoch
        return
      }
      waiting = look(new EpochView(timeline, replayed, visible))
      if (waiting !== undefined) bytes += replayed.record.frames.byteLength
    })
    take(timeline.digest)
    if (stop !== undefined) return stop
    epoch = until + 1
    if (found.length >= limit || bytes > HISTORY_ANSWER_BYTES) return epoch <= to ? epoch : undefined
  }
  return last < to ? last + 1 : undefined
}

const SCAN_STRIDE = 256

/** One epoch of a replay, decoded only as far as needed. */
class EpochView {
  readonly #timeline: Timeline
  readonly replayed: ReplayedEpoch
  #frames: Frame[] | undefined
  readonly #created = new Map<number, PageRecord>()
  readonly #visible: PatternSet | undefined

  constructor(timeline: Timeline, replayed: ReplayedEpoch, visible: PatternSet | undefined) {
    this.#visible = visible
    this.#timeline = timeline
    this.replayed = replayed
    for (const page of replayed.created) this.#created.set(page.id, page)
  }

  get timeline(): Timeline {
    return this.#timeline
  }

  frames(): Frame[] {
    this.#frames ??= splitFrames(this.replayed.record.frames).map((bytes) => decodeFrame(bytes))
    return this.#frames
  }

  page(id: number): PageRecord | undefined {
    return this.#created.get(id) ?? this.#timeline.registry.byId(id)
  }

  name(id: number): string {
    return this.page(id)?.name ?? `#${id}`
  }

  /** Whether a page may be shown. */
  shows(name: string): boolean {
    return this.#visible === undefined || this.#visible.matches(name)
  }

  /**
   * Whether everything that a transaction does may be shown. Functions belong to no page, and a transaction
   * that does nothing names none that could be read.
   */
  showsAll({ commands }: Frame): boolean {
    if (this.#visible === undefined) return true
    return commands.length > 0 && commands.every((command) => this.#showsCommand(command))
  }

  /** Whether a command may be shown. */
  #showsCommand(command: Command): boolean {
    switch (command.type) {
      case COMMAND_CREATE_PAGE:
        return this.shows(command.name)
      case COMMAND_DELTA:
      case COMMAND_DELETE_PAGE:
      case COMMAND_REDEFINE_PAGE:
        return this.shows(this.name(command.pageId))
      default:
        return this.#visible === undefined
    }
  }

  /** The commands of a transaction that may be shown. */
  shownCommands(frame: Frame): readonly Command[] {
    if (this.#visible === undefined) return frame.commands
    return frame.commands.filter((command) => this.#showsCommand(command))
  }

  /** Whether nothing of the epoch may be shown. */
  get isHidden(): boolean {
    if (this.#visible === undefined || this.replayed.record.isVoid === true) return false
    return this.changedNames().length === 0 && this.frames().every((f) => this.shownCommands(f).length === 0)
  }

  /** Pages whose bytes changed, and those created and deleted, sorted; of those that may be shown. */
  changedNames(): string[] {
    const names = new Set<string>()
    // Pasts change too, but are not pages.
    this.replayed.result.eachChangedId((id) => {
      const page = this.page(id)
      if (page !== undefined) names.add(page.name)
    })
    for (const { name } of this.replayed.created) names.add(name)
    for (const { name } of this.replayed.deleted) names.add(name)
    return [...names].filter((name) => this.shows(name)).sort()
  }
}

function describeEpoch(view: EpochView): Omit<EpochInfo, 'digest'> {
  const { record } = view.replayed
  return {
    epoch: record.epoch,
    timestamp: new Date(record.timestampMs).toISOString(),
    ...(record.isVoid === true ? { void: true } : {}),
    transactions: view.frames().flatMap((frame) => transactionOf(view, frame) ?? []),
    changed: view.changedNames(),
  }
}

/**
 * What may be shown of a transaction. Its source and intent belong to all of it, so they are shown only with
 * all of it.
 */
function transactionOf(view: EpochView, frame: Frame): EpochInfo['transactions'][number] | undefined {
  const commands = view.shownCommands(frame)
  const isWhole = view.showsAll(frame)
  if (commands.length === 0 && !isWhole) return undefined
  return {
    source: (isWhole ? frame.source : undefined) ?? null,
    intent: (isWhole ? frame.intent : undefined) ?? null,
    ops: commands.flatMap((command) => opOf(view, command) ?? []),
  }
}

/** A delta whose lists are still binary (json-parts.ts), although the type says that they are JSON. */
function deltaOf(view: EpochView, command: DeltaCommand): DeltaJson {
  const described = describeDelta(
    command,
    view.page(command.pageId)?.elements,
    (dtype, values) => new BinaryList(dtype, values.slice()),
    (indices) => new BinaryList('u32', indices.slice()),
  )
  return described as unknown as DeltaJson
}

function opOf(view: EpochView, command: Command): EpochOp | undefined {
  switch (command.type) {
    case COMMAND_DELTA:
      return { ...deltaOf(view, command), page: view.name(command.pageId) }
    case COMMAND_CREATE_PAGE: {
      const { name, dtype, shape, location, kind } = command
      const base = { op: 'create', page: name, dtype, shape: [...shape], location } as const
      if (kind === 'source') return { ...base, fill: fillToJson(dtype, command.fill) }
      const derived = recordOfLoggedCreate(command, (id) => view.name(id)).derived
      const isShown = derived?.inputs.every(({ id, prev }) => view.shows(view.name(prev ?? id))) === true
      return { ...base, ...(isShown ? { derive: derived.derive } : {}) }
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
      // Pages redefined by the change of a function, or by a migration, are in `changed` if their
      // bytes differ.
      return undefined
  }
}

// ---- history of a page ------------------------------------------------------------------------------------

/** The versions of a page in a range of epochs, ascending. */
export function historyPast(
  { timelines, caller, visible }: Asker,
  name: string,
  query: Pick<EpochQuery, 'from' | 'to' | 'limit'>,
): PageHistory {
  const from = query.from - 1
  const to = Math.max(from, Math.min(query.to, from + HISTORY_SCAN_EPOCHS))
  const timeline = timelines.get({ caller, wanted: { names: [name] }, from, to })
  type Version = PageHistory['versions'][number]
  const found: (Version & { digest: string })[] = []
  const next = scan<Version>(timeline, query, found, visible, (view) => {
    if (!view.changedNames().includes(name)) return undefined
    const { record } = view.replayed
    const last = originOf(view, name)
    const origin = last !== undefined && view.showsAll(last) ? last : undefined
    return {
      epoch: record.epoch,
      timestamp: new Date(record.timestampMs).toISOString(),
      source: origin?.source ?? null,
      intent: origin?.intent ?? null,
    }
  })
  const versions = found.map(({ digest: _, ...version }) => version)
  return { name, versions, next: next ?? null }
}

/**
 * The last transaction of the epoch that created, deleted or wrote the page, or wrote a page that it derives
 * from.
 */
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
