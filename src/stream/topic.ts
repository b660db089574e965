/**
 * Subscriptions that ask for the same pages and the same data: what they are told is made once for all of them.
 */
import { MmsbError } from '../errors.js'
import { STREAM_SNAPSHOT_MAX_BYTES } from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import { ChangeMessage, type DataMode, type PagePart, SnapshotMessage } from './messages.js'
import type { Subscription } from './subscription.js'
import type { StreamBus } from './types.js'

/** Subscriptions that see the same. */
export class Topic {
  readonly key: string
  readonly patterns: PatternSet
  readonly mode: DataMode
  readonly subscribers = new Set<Subscription>()
  /** When it lost its last subscriber; undefined while it has some. */
  idleSinceMs: number | undefined
  /** Of the epoch that is being split. */
  parts: PagePart[] = []
  #snapshot: SnapshotMessage | undefined

  constructor(key: string, patterns: PatternSet, mode: DataMode) {
    this.key = key
    this.patterns = patterns
    this.mode = mode
  }

  /** What the subscribers are told of the epoch that was split. */
  takeMessage(epoch: number): ChangeMessage | null {
    const message = this.messageOf(epoch, this.parts)
    this.parts = []
    this.#snapshot = undefined
    return message
  }

  /** What the subscribers are told of an epoch that changed these of the pages; null: nothing. */
  messageOf(epoch: number, parts: readonly PagePart[]): ChangeMessage | null {
    return new ChangeMessage(epoch, epoch, parts, this.mode)
  }

  /** The matching pages as of now; shared by those who ask before the next change. Only between epochs. */
  snapshot(bus: StreamBus): SnapshotMessage {
    if (bus.failure !== null) throw new MmsbError('BUS_FAILED', `The bus has stopped: ${bus.failure}`)
    if (this.#snapshot?.epoch === bus.epoch) return this.#snapshot
    const pages = bus
      .pageNames()
      .filter((name) => this.patterns.matches(name))
      .map((name) => bus.peek(name))
    const bytes = pages.reduce((sum, page) => sum + page.bytes, 0)
    if (bytes > STREAM_SNAPSHOT_MAX_BYTES) {
      throw new MmsbError(
        'PAYLOAD_TOO_LARGE',
        `a snapshot of ${pages.length} pages has ${bytes} bytes, more than ${STREAM_SNAPSHOT_MAX_BYTES}; read them over HTTP`,
      )
    }
    const whole = pages.map(({ name, id, kind, dtype, shape, version, elements }) => {
      const values = bus.gather(id, Uint32Array.of(0, elements))
      return { name, id, kind, dtype, shape, version, values }
    })
    this.#snapshot = new SnapshotMessage(bus.epoch, whole)
    return this.#snapshot
  }

  /** Lets go of a snapshot that nobody came to share. */
  forgetSnapshot(): void {
    this.#snapshot = undefined
  }
}
