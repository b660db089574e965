/** What one reader may use of the stream, over all its connections, where that is limited. Types only. */
import type { MmsbError } from '../errors.js'

export interface ReaderLimits {
  /** The refusal of one more connection; undefined if it may be opened. */
  connectionRefusal(): MmsbError | undefined
  /** @throws MmsbError QUOTA_EXCEEDED unless one more subscription may be opened */
  refuseSubscription(): void
  /** So many more are open; fewer, if it is negative. */
  hold(name: 'connections' | 'subscriptions', count: number): void
  /** Milliseconds until it may have more of the past replayed; 0: now. */
  readonly replayWaitMs: number
  /** A thread was busy for so long with its replay. */
  readonly replayed: (ms: number) => void
}
