/** The words of the stream: what it needs of a bus, what a subscriber asks for, where messages go. Types only. */
import type { Cursors } from '../engine/durable-cursors.js'
import type { CommitEvent, PageShape, PastEpochs, PastEpochsQuery } from '../engine/types.js'
import type { TypedArray } from '../wire/dtype.js'
import type { DataMode } from '../wire/messages.js'
import type { StreamMessage } from './messages.js'
import type { Slices } from './viewport.js'

/** What the stream needs of a bus. */
export interface StreamBus {
  readonly epoch: number
  /** The oldest epoch to go on from. */
  readonly minEpoch: number
  /** Why the bus has stopped, or null; then its state is that of no epoch. */
  readonly failure: string | null
  onFailure(listener: (reason: string) => void): () => void
  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void
  between(run: () => void): void
  gather(pageId: number, ranges: Uint32Array): TypedArray
  pageNames(): readonly string[]
  peek(name: string): PageShape
  /** Named durable readers; undefined where nothing is durable. */
  readonly cursors: Cursors | undefined
  pastChanges(query: PastEpochsQuery, options: { readonly signal: AbortSignal }): Promise<PastEpochs>
}

/** What a subscription asks for: see docs/guide/STREAM.md. */
export interface SubscribeOptions {
  /** Page names, or patterns with `*` for any run of characters. Pages created later match too. */
  readonly pages: readonly string[]
  /** `now` (default); `snapshot`: the whole pages first; or the last epoch already seen. */
  readonly from?: 'now' | 'snapshot' | number
  /** What a change carries: nothing but names, changed ranges, or (default) ranges and values. */
  readonly data?: DataMode
  /**
   * Of these pages only a window: for each axis where it starts and where it stops. What is told of such a page has the
   * window's shape, and its ranges count within the window.
   */
  readonly slice?: Slices
  /** For a reader that is too slow: end (default), or fold epochs together. */
  readonly policy?: 'lossless' | 'latest'
  /** At most this many changes a second; implies `latest`. */
  readonly maxRate?: number
  /**
   * A name under which the bus keeps, over restarts, how far this reader has come: it goes on after the last epoch it
   * committed. `from` then says where it begins when it is new, or when what it needs is gone.
   */
  readonly durable?: string
}

/** Where the messages of one connection go. `send` must not throw and must not wait. */
export interface Sink {
  send(id: string, message: StreamMessage): void
  /** The message may be sent soon: encodes it. Must not throw. */
  prepare?(id: string, message: StreamMessage): void
  /** Bytes sent and not yet taken by the reader or its network. */
  readonly queuedBytes: number
  /** True while a reader who takes only the latest should not get more. When it turns false the sink calls Connection.drained. */
  readonly isCongested: boolean
  /** No more messages come: the connection was closed from within. */
  closed(): void
}
