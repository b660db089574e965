/**
 * A view is what a subscription shows: pages, windows on them, and how much data. Subscriptions with the same
 * view share one SharedView, which makes each message and each snapshot once for all of them.
 */
import type { PatternSet } from '../../state/pattern.js'
import type { DataMode } from '../../wire/messages.js'
import { ChangeMessage, type PagePart, type SnapshotMessage } from '../messages.js'
import { cutPart, type Viewports } from './viewport.js'

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

  /** The snapshot of this epoch, if one is kept: shared by subscribers that ask before the next change. */
  snapshotOf(epoch: number): SnapshotMessage | undefined {
    return this.#snapshot?.epoch === epoch ? this.#snapshot : undefined
  }

  /** Keeps a snapshot for sharing. */
  keepSnapshot(snapshot: SnapshotMessage): void {
    this.#snapshot = snapshot
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
