/**
 * Snapshots for subscriptions, gathered in slices while commits go on.
 *
 * Method: pages are gathered a slice at a time, each slice between two epochs. What an epoch changes
 * meanwhile is gathered again. When nothing is left, all values are of the newest epoch: the snapshot is
 * made, and its subscriptions begin before the next epoch. One snapshot is gathered at a time, so that many
 * take no more memory than one; subscriptions with the same view share it.
 *
 * Invariant: a snapshot is of one whole epoch. Most are small, and are made at once.
 */
import type { PageShape } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import {
  STREAM_GATHER_NAME_BYTES,
  STREAM_GATHER_PAGE_BYTES,
  STREAM_GATHER_SLICE_BYTES,
  STREAM_SNAPSHOT_MAX_BYTES,
} from '../limits.js'
import { DTYPE_INFO, type TypedArray } from '../wire/dtype.js'
import type { StreamClock } from './clock.js'
import { type ChangeMessage, SnapshotMessage, type SnapshotPage } from './messages.js'
import type { TurnBudget } from './turn-budget.js'
import type { StreamBus } from './types.js'
import type { SharedView, Subscriber, View } from './views/shared-view.js'
import { rangesOf, type Window } from './views/viewport.js'

export interface SnapshotsHub {
  readonly bus: StreamBus
  readonly clock: StreamClock
  readonly gathering: TurnBudget
  /** The page as it is, or undefined. */
  peek(name: string): PageShape | undefined
  enter(view: View, subscriber: Subscriber): SharedView
  leave(view: SharedView, subscriber: Subscriber): void
  /** The view has made a snapshot. */
  keepSnapshot(view: SharedView): void
}

/** Waits for a snapshot of its view. */
export interface SnapshotTaker {
  /** The view holds a snapshot of the newest epoch. Called between epochs. */
  ready(): void
  fail(error: unknown): void
}

/** After gathering this many times the whole, the rest is gathered in one go. */
const GATHERED_MAX = 3

/** The snapshots of all views of a hub. */
export class Snapshots {
  readonly #hub: SnapshotsHub
  /** In the order in which they were asked for; the first is being gathered. */
  readonly #queue: Gathering[] = []

  constructor(hub: SnapshotsHub) {
    this.#hub = hub
  }

  /**
   * Hands a taker the snapshot of its view: at once where that is quick, else later. Call it between epochs.
   * Returns how to take the request back; undefined if the taker has been served.
   */
  take(view: View, taker: SnapshotTaker): (() => void) | undefined {
    const known = this.#queue.find((other) => other.isOf(view))
    if (known !== undefined) return known.add(taker)
    const gathering = new Gathering(this.#hub, view)
    const cancel = gathering.add(taker)
    // One that takes a slice at most need not wait behind large ones.
    if ((this.#queue.length === 0 || gathering.isSmall) && gathering.work()) return undefined
    this.#queue.push(gathering)
    if (this.#queue.length === 1) this.#goOn()
    return cancel
  }

  #goOn(): void {
    const { bus, clock } = this.#hub
    clock.soon(() => bus.between(() => this.#step()))
  }

  #step(): void {
    const { gathering: budget } = this.#hub
    if (!budget.isSpent && this.#queue[0]?.work() === true) this.#queue.shift()
    if (this.#queue.length > 0) this.#goOn()
  }
}

/** A page that is gathered part by part. */
interface Partial {
  readonly page: PageShape
  readonly window: Window | undefined
  readonly ranges: Uint32Array
  readonly values: TypedArray
  /** Elements that are there. */
  filled: number
}

class Gathering implements Subscriber {
  readonly #hub: SnapshotsHub
  readonly #view: View
  readonly #takers = new Set<SnapshotTaker>()
  #shared: SharedView | undefined
  /** Names that may match, and how many of them were looked at. */
  #names: readonly string[] = []
  #namesSeen = 0
  /** Names of pages to gather. A page that changes is named again. */
  readonly #missing = new Set<string>()
  #partial: Partial | undefined
  readonly #pages = new Map<string, SnapshotPage>()
  /** Pages that changed or were created meanwhile come last. */
  #isSorted = true
  #isSelected = false
  #wholePages = 0
  #wholeBytes = 0
  #gatheredBytes = 0
  #failure: unknown

  constructor(hub: SnapshotsHub, view: View) {
    this.#hub = hub
    this.#view = view
  }

  isOf({ patterns, viewports, mode }: View): boolean {
    const view = this.#view
    return view.mode === mode && view.patterns.key === patterns.key && view.viewports.key === viewports.key
  }

  /** Returns how to take the taker away again. */
  add(taker: SnapshotTaker): () => void {
    this.#takers.add(taker)
    return () => this.#takers.delete(taker)
  }

  /** Whether one slice is enough, as far as that is known without looking at many names. */
  get isSmall(): boolean {
    const { bus } = this.#hub
    const { patterns } = this.#view
    const names = patterns.names ?? bus.pageNames()
    if (names.length * STREAM_GATHER_PAGE_BYTES > STREAM_GATHER_SLICE_BYTES / 2) return false
    let bytes = 0
    for (const name of names) if (patterns.matches(name)) bytes += this.#hub.peek(name)?.bytes ?? 0
    return bytes <= STREAM_GATHER_SLICE_BYTES / 4
  }

  /** A slice of the work. Returns true when it is over, one way or another. */
  work(): boolean {
    if (this.#takers.size === 0) {
      this.#end()
      return true
    }
    try {
      if (this.#failure !== undefined) throw this.#failure
      this.#begin()
      const { bus } = this.#hub
      if (bus.failure !== null) throw new MmsbError('BUS_FAILED', `The bus has stopped: ${bus.failure}`)
      if (this.#shared?.snapshotOf(bus.epoch) === undefined) {
        if (!this.#gather()) return false
        this.#keep()
      }
    } catch (error) {
      for (const taker of this.#takers) taker.fail(error)
      this.#end()
      return true
    }
    for (const taker of this.#takers) {
      try {
        taker.ready()
      } catch (error) {
        taker.fail(error)
      }
    }
    this.#end()
    return true
  }

  #begin(): void {
    if (this.#shared !== undefined) return
    const { bus } = this.#hub
    this.#shared = this.#hub.enter(this.#view, this)
    this.#names = this.#view.patterns.names ?? bus.pageNames()
  }

  #end(): void {
    this.#takers.clear()
    if (this.#shared !== undefined) this.#hub.leave(this.#shared, this)
  }

  /** Returns true when it has the values of every page as of now. */
  #gather(): boolean {
    const { gathering: budget } = this.#hub
    const isTooLong = this.#isSelected && this.#gatheredBytes > GATHERED_MAX * this.#wholeBytes
    const allowance = isTooLong ? Number.POSITIVE_INFINITY : STREAM_GATHER_SLICE_BYTES
    let left = this.#select(allowance)
    if (this.#isSelected) left = this.#copy(left)
    if (allowance - left > 0) budget.spend(isTooLong ? STREAM_GATHER_SLICE_BYTES : allowance - left)
    return this.#isSelected && this.#partial === undefined && this.#missing.size === 0
  }

  /**
   * Finds the pages that match. Returns what is left of the slice. Once all are found, it checks their size
   * in every slice, because commits may create more. @throws MmsbError PAYLOAD_TOO_LARGE
   */
  #select(allowance: number): number {
    let left = allowance
    const { patterns } = this.#view
    while (this.#namesSeen < this.#names.length && left > 0) {
      const name = this.#names[this.#namesSeen++]!
      left -= STREAM_GATHER_NAME_BYTES
      if (!patterns.matches(name)) continue
      left -= STREAM_GATHER_PAGE_BYTES
      this.#miss(name, true)
    }
    if (this.#namesSeen < this.#names.length) return left
    this.#isSelected = true
    this.#refuseTooLarge()
    return left
  }

  #miss(name: string, isNew: boolean): void {
    this.#missing.add(name)
    const page = isNew ? this.#hub.peek(name) : undefined
    if (page === undefined) return
    this.#wholePages++
    this.#wholeBytes += bytesOf(page, this.#view.viewports.windowOf(name, page.shape))
  }

  #refuseTooLarge(): void {
    if (this.#wholeBytes <= STREAM_SNAPSHOT_MAX_BYTES) return
    throw new MmsbError(
      'PAYLOAD_TOO_LARGE',
      `a snapshot of ${this.#wholePages} pages has ${this.#wholeBytes} bytes, more than ${STREAM_SNAPSHOT_MAX_BYTES}; read them over HTTP`,
    )
  }

  /** Gathers values. Returns what is left of the slice. */
  #copy(allowance: number): number {
    let left = allowance
    while (left > 0) {
      const bytes = this.#partial === undefined ? this.#copyNext(left) : this.#copyPart(this.#partial, left)
      if (bytes === undefined) return left
      this.#gatheredBytes += bytes
      left -= bytes + STREAM_GATHER_PAGE_BYTES
    }
    return left
  }

  /** Begins with the next page. Returns how many bytes it copied; undefined if there is no more page. */
  #copyNext(allowance: number): number | undefined {
    const [name] = this.#missing
    if (name === undefined) return undefined
    this.#missing.delete(name)
    this.#pages.delete(name)
    const page = this.#hub.peek(name)
    if (page === undefined) return 0
    const window = this.#view.viewports.windowOf(name, page.shape)
    const ranges = window === undefined ? Uint32Array.of(0, page.elements) : rangesOf(window)
    if (bytesOf(page, window) <= allowance) {
      const values = this.#hub.bus.gather(page.id, ranges)
      this.#pages.set(name, snapshotPage(page, window, values))
      return values.byteLength
    }
    const { sizeBytes, view } = DTYPE_INFO[page.dtype]
    const count = window?.elements ?? page.elements
    const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
    this.#partial = { page, window, ranges, values, filled: 0 }
    return 0
  }

  /** Copies more of a page. Returns how many bytes. */
  #copyPart(partial: Partial, allowance: number): number {
    const { page, window, ranges, values, filled } = partial
    const most = Math.max(1, Math.floor(allowance / values.BYTES_PER_ELEMENT))
    const part = this.#hub.bus.gather(page.id, partOfRanges(ranges, filled, most))
    // The dtypes are the same.
    values.set(part as never, filled)
    partial.filled += part.length
    if (partial.filled === values.length) {
      this.#pages.set(page.name, snapshotPage(page, window, values))
      this.#partial = undefined
    }
    return part.byteLength
  }

  /** Makes the snapshot of the newest epoch. */
  #keep(): void {
    const { bus } = this.#hub
    const { viewports } = this.#view
    const pages = [...this.#pages.values()]
    if (!this.#isSorted) pages.sort((a, b) => (a.name < b.name ? -1 : 1))
    // A change outside a window raises the version, and is not offered.
    const fresh = pages.map((page) =>
      viewports.has(page.name)
        ? { ...page, version: this.#hub.peek(page.name)?.version ?? page.version }
        : page,
    )
    const shared = this.#shared!
    shared.keepSnapshot(new SnapshotMessage(bus.epoch, bus.historyId, fresh))
    this.#hub.keepSnapshot(shared)
  }

  // ---- what a subscriber of the view hears ---------------------------------------------------------------

  prepare(): void {}

  offer({ parts }: ChangeMessage): void {
    this.#isSorted = false
    for (const { change } of parts) {
      const { page, kind } = change
      if (this.#partial?.page.name === page) this.#partial = undefined
      this.#miss(page, kind === 'created')
    }
  }

  fail(error: unknown): void {
    this.#failure = error
  }
}

const bytesOf = (page: PageShape, window: Window | undefined): number =>
  window === undefined ? page.bytes : window.elements * DTYPE_INFO[page.dtype].sizeBytes

function snapshotPage(page: PageShape, window: Window | undefined, values: TypedArray): SnapshotPage {
  const { name, id, kind, dtype, version } = page
  return { name, id, kind, dtype, shape: window?.shape ?? page.shape, version, values }
}

/** Of the elements that ranges name, in their order, `count` from the `first` on, as ranges. */
function partOfRanges(ranges: Uint32Array, first: number, count: number): Uint32Array {
  const part: number[] = []
  let skip = first
  let left = count
  for (let i = 0; i < ranges.length && left > 0; i += 2) {
    const length = ranges[i + 1]!
    if (skip >= length) {
      skip -= length
      continue
    }
    const taken = Math.min(length - skip, left)
    part.push(ranges[i]! + skip, taken)
    left -= taken
    skip = 0
  }
  return Uint32Array.from(part)
}
