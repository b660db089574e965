/**
 * Subscriptions that ask for the same pages and the same data: what they are told is made once for all of them.
 */
import { MmsbError } from '../errors.js'
import { STREAM_SNAPSHOT_MAX_BYTES } from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import { DTYPE_INFO } from '../wire/dtype.js'
import type { DataMode } from '../wire/messages.js'
import { ChangeMessage, type PagePart, SnapshotMessage } from './messages.js'
import type { Subscription } from './subscription.js'
import type { StreamBus } from './types.js'
import { cutPart, rangesOf, type Viewports } from './viewport.js'

/** What a subscription is about. */
export interface Shape {
  readonly patterns: PatternSet
  readonly viewports: Viewports
  readonly mode: DataMode
}

/** Subscriptions that see the same. */
export class Topic {
  readonly key: string
  readonly patterns: PatternSet
  readonly viewports: Viewports
  readonly mode: DataMode
  readonly subscribers = new Set<Subscription>()
  /** When it lost its last subscriber; undefined while it has some. */
  idleSinceMs: number | undefined
  #snapshot: SnapshotMessage | undefined

  constructor(key: string, { patterns, viewports, mode }: Shape) {
    this.key = key
    this.patterns = patterns
    this.viewports = viewports
    this.mode = mode
  }

  /** What the subscribers are told of an epoch that changed these of the pages; null: nothing. Throws SHAPE_MISMATCH. */
  messageOf(epoch: number, parts: readonly PagePart[]): ChangeMessage | null {
    const seen = parts.flatMap((part) => this.cut(part) ?? [])
    return seen.length === 0 ? null : new ChangeMessage(epoch, epoch, seen, this.mode)
  }

  /** A part as the subscribers see it. Throws SHAPE_MISMATCH. */
  cut(part: PagePart): PagePart | null {
    return cutPart(part, this.viewports)
  }

  /** The matching pages as of now; shared by those who ask before the next change. Only between epochs. */
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
    this.#snapshot = new SnapshotMessage(bus.epoch, seen)
    return this.#snapshot
  }

  /** Lets go of a snapshot that nobody came to share. */
  forgetSnapshot(): void {
    this.#snapshot = undefined
  }
}
