/**
 * What the stream needs from a bus, what a subscriber asks for, and where messages go. Types only.
 *
 * Null because the public Bus has it: `failure`.
 */
import type { Cursors } from '../engine/durable-cursors.js'
import type { CommitEvent, PageShape, PastEpochs, PastEpochsQuery } from '../engine/types.js'
import type { LimitGuard } from '../operator-limits.js'
import type { TypedArray } from '../wire/dtype.js'
import type { DataMode, Policy } from '../wire/messages.js'
import type { StreamMessage } from './messages.js'
import type { Slices } from './views/viewport.js'

/** What the stream needs from a bus. */
export interface StreamBus {
  readonly epoch: number
  /** The history that the epochs belong to. */
  readonly historyId: string
  /** The oldest epoch that a subscriber can resume from. */
  readonly minEpoch: number
  /** Why the bus has stopped, or null. The state of a stopped bus belongs to no epoch. */
  readonly failure: string | null
  /** The operator's limits. */
  readonly limits: LimitGuard
  onFailure(listener: (reason: string) => void): () => void
  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void
  between(run: () => void): void
  gather(pageId: number, ranges: Uint32Array): TypedArray
  pageNames(): readonly string[]
  peek(name: string): PageShape
  /** Every write is refused with READ_ONLY, and durable readers too. */
  readonly isReadOnly: boolean
  /** Cursors of durable readers; undefined if the bus has no data folder. */
  readonly cursors: Cursors | undefined
  pastChanges(
    query: PastEpochsQuery,
    options: {
      readonly signal: AbortSignal
      readonly caller: object
      readonly onServed?: ((ms: number) => void) | undefined
    },
  ): Promise<PastEpochs>
}

/** What a subscription asks for: see docs/guide/STREAM.md. */
export interface SubscribeOptions {
  /** Page names, or patterns with `*` for any run of characters. Pages created later match too. */
  readonly pages: readonly string[]
  /** `now` (default); `snapshot`: the whole pages first; or the last epoch already seen. */
  readonly from?: 'now' | 'snapshot' | number
  /** What a change carries: page names only, changed ranges, or (default) ranges and values. */
  readonly data?: DataMode
  /**
   * A window on each of these pages instead of the whole page: for each axis its start and its stop. Shape
   * and ranges in messages are then those of the window.
   */
  readonly slice?: Slices
  /**
   * What happens when the reader is too slow: the subscription ends (default), or epochs are folded together.
   */
  readonly policy?: Policy
  /** At most this many changes a second; implies `latest`. */
  readonly maxRate?: number
  /**
   * A name under which the bus stores this reader's cursor, across restarts: the reader resumes after the
   * last epoch it committed. `from` applies to a new reader, and to one whose cursor is older than the
   * oldest epoch kept.
   */
  readonly durable?: string
  /**
   * The history that `from` belongs to, as `historyId` of the bus and `subscribed` name it. HISTORY_CHANGED
   * if it is no longer the present one. A durable reader whose cursor is of another history is refused unless
   * it gives the present one here, and starts over as `from` says.
   */
  readonly history?: string
}

/** The outgoing side of one connection. `send` must not throw and must not wait. */
export interface Sink {
  send(id: string, message: StreamMessage): void
  /** Encodes a message that is likely to be sent soon. Must not throw. */
  prepare?(id: string, message: StreamMessage): void
  /** Bytes that were sent and that the reader or its network has not taken yet. */
  readonly queuedBytes: number
  /** Of these, bytes in pieces that other readers may share. Default: none. */
  readonly sharedBytes?: number
  /** Grows while the reader takes what is queued. */
  readonly takenBytes?: number
  /** Ends the connection at once, because its reader takes too little. */
  cut?(): void
  /**
   * True while `latest` subscriptions should wait. When it becomes false, the sink calls Connection.drained.
   */
  readonly isCongested: boolean
  /** The stream has closed the connection: no more messages come. */
  closed(): void
}
