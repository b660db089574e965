/** What the main thread and the thread of the admin listener send each other. Types only. */
import type { Limits } from '../../operator-limits.js'
import type { Health } from '../health.js'

/** What the thread gets at its start. */
export interface AdminData {
  readonly host: string
  readonly port: number
  /** Any Host and Origin. */
  readonly isInsecure: boolean
  readonly allowedOrigins: ReadonlySet<string>
  /** Lower-case; further names for Host. */
  readonly allowedHosts?: ReadonlySet<string> | undefined
  readonly limits: Limits
  readonly logLevel: string
  /** See pulse.ts. */
  readonly pulse: SharedArrayBuffer
  readonly health: Health
  readonly snapshot: MetricsSnapshot
}

/** Metrics in the text format of Prometheus, and when they were read, in ns of `process.hrtime`. */
export interface MetricsSnapshot {
  readonly text: string
  readonly takenNs: bigint
}

export type ToAdmin =
  | { readonly type: 'health'; readonly health: Health }
  /** Without a snapshot they could not be read. */
  | { readonly type: 'metrics'; readonly snapshot?: MetricsSnapshot }
  | { readonly type: 'close' }

export type FromAdmin =
  | { readonly type: 'listening'; readonly port: number }
  | { readonly type: 'refused'; readonly code: string; readonly message: string }
  /** Asks for metrics. */
  | { readonly type: 'collect' }
  | { readonly type: 'closed' }
