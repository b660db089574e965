/**
 * A view is what a subscription shows: pages, windows on them, and how much data. Subscriptions with the same
 * view share one SharedView, which makes each message and each snapshot once for all of them.
 */
import { MmsbError } from '../errors.js'
import { STREAM_SNAPSHOT_MAX_BYTES } from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import { DTYPE_INFO } from '../wire/dtype.js'
import type { DataMode } from '../wire/messages.js'
import { ChangeMessage, type PagePart, SnapshotMessage } from './messages.js'
import type { StreamBus } from './types.js'
import { cutPart, rangesOf, type Viewports } from './viewport.js'

export interface View {
  readonly patterns: PatternSet
  readonly viewports: Viewports
  readonly mode: DataMode
}

/** What a view does with its subscriptions. */
export interface Subscriber {
  /** The message will probably be offered soon: encodes it now. */
  prepare(message: ChangeMessage): void
  /** A change of the epoch that was just committed. */
  offer(message: ChangeMessage, nowMs: number): void
  /** Ends the subscription with an error. */
  fail(error: unknown): void
}

export class SharedView implements View {
  readonly key: string
  readonly patterns: PatternSet
  readonly viewports: Viewports
  readonly mode: DataMode
  readonly subscribers = new Set<Subscriber>()
  /** When the last subscriber left; undefined while there are subscribers. */
  idleSinceMs: number | undefined
  #snapshot: SnapshotMessage | undefined

  constructor(key: string, { patterns, viewports, mode }: View) {
    this.key = key
    this.patterns = patterns
    this.viewports = viewports
    this.mode = mode
  }

  /**
   * The message for an epoch that changed these matching pages; undefined if the viewports show none of it.
   * @throws MmsbError SHAPE_MISMATCH
   */
  messageOf(epoch: number, parts: readonly PagePart[]): ChangeMessage | undefined {
    const seen = parts.flatMap((part) => cutPart(part, this.viewports) ?? [])
    return seen.length === 0 ? undefined : new ChangeMessage(epoch, epoch, seen, this.mode)
  }

  /**
   * The matching pages as they are now; shared by subscribers that ask before the next change. Only
   * between epochs.
   * @throws MmsbError BUS_FAILED, PAYLOAD_TOO_LARGE, SHAPE_MISMATCH
   */
  snapshot(bus: StreamBus): SnapshotMessage {
    if (bus.failure !== null) throw new MmsbError('BUS_FAILED', `The bus has stopped: ${bus.failure}`)
    if (this.#snapshot?.epoch === bus.epoch) return this.#snapshot
    const pages = bus
      .pageNames()
      .filter((name) => this.patterns.matches(name))
      .map((name) => bus.peek(name))
      .map((page) => ({ page, window: this.viewports.windowOf(page.name, page.shape) }))
    const bytes = pages.reduce(
      (sum, { page, window }) =>
        sum + (window === undefined ? page.bytes : window.elements * DTYPE_INFO[page.dtype].sizeBytes),
      0,
    )
    if (bytes > STREAM_SNAPSHOT_MAX_BYTES) {
      throw new MmsbError(
        'PAYLOAD_TOO_LARGE',
        `a snapshot of ${pages.length} pages has ${bytes} bytes, more than ${STREAM_SNAPSHOT_MAX_BYTES}; read them over HTTP`,
      )
    }
    const seen = pages.map(({ page, window }) => {
      const { name, id, kind, dtype, version, elements } = page
      const ranges = window === undefined ? Uint32Array.of(0, elements) : rangesOf(window)
      return {
        name,
        id,
        kind,
        dtype,
        shape: window?.shape ?? page.shape,
        version,
        values: bus.gather(id, ranges),
      }
    })
    this.#snapshot = new SnapshotMessage(bus.epoch, bus.historyId, seen)
    return this.#snapshot
  }

  /** Bytes of the values of the snapshot kept for sharing. */
  get snapshotBytes(): number {
    return this.#snapshot?.valueBytes ?? 0
  }

  /** Releases the snapshot kept for sharing. */
  forgetSnapshot(): void {
    this.#snapshot = undefined
  }
}
