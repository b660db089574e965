/**
 * The types of the public API: what goes to the server and what comes back. Epochs and versions are integers.
 *
 * Null because the JSON of the server has it.
 */
import type { Dtype, TypedArray } from '../wire/dtype.js'
import type { DataMode, Policy } from '../wire/messages.js'
import type { Derivation } from '../wire/ops.js'
import type { ChangeKind, Location, Merge, PageKind } from '../wire/page.js'

export type { Derivation, DerivationInput } from '../wire/ops.js'
export type { Location, Merge } from '../wire/page.js'

/**
 * Elements: a typed array of the page's dtype, or numbers, bigints, decimal strings, "NaN",
 * "Infinity", booleans.
 */
export type Values = TypedArray | readonly (number | bigint | string | boolean)[]

/**
 * A change to one source page. Dense: `offset` (default 0) and `values`. Sparse: `indices` and `values`.
 * Masked: `mask` (one bit per element of the page, least significant first; bytes or base64) and one value
 * per set bit.
 */
export interface Delta {
  readonly offset?: number
  readonly indices?: ArrayLike<number>
  readonly mask?: string | Uint8Array
  readonly values: Values
  /** Default: `set`. */
  readonly merge?: Merge
}

/** A dense change whose elements are given as bytes, as the page holds them: little-endian, row-major. */
export interface Octets {
  /** In elements. */
  readonly offset?: number
  readonly octets: ArrayBufferView | ArrayBufferLike
  readonly merge?: Merge
}

/** Definition of a page that clients write. */
export interface SourceDefinition {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly location?: Location
  readonly fill?: number | bigint | string | boolean
}

/** Options of a derived page. */
export interface DerivedOptions {
  /** Asks for a cast of the result. */
  readonly dtype?: Dtype
  readonly shape?: readonly number[]
  readonly location?: Location
}

/** Definition of a page that is computed by an op. */
export interface DerivedDefinition extends DerivedOptions {
  readonly derive: Derivation
}

/** One page of `createMany`. */
export type NamedDefinition = (SourceDefinition | DerivedDefinition) & { readonly name: string }

/** A page without its elements. */
export interface Page {
  readonly name: string
  readonly id: number
  readonly kind: PageKind
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly bytes: number
  readonly location: 'cpu' | 'gpu' | 'unified'
  readonly version: number
  readonly createdEpoch: number
  readonly derive?: Derivation
  /** The version of its op that a derived page keeps until it is redefined or migrated. */
  readonly opVersion?: number
  readonly inputs: readonly string[]
  readonly dependents: readonly string[]
  readonly digest: string
}

/** The elements of a page, or of a part of it. */
export interface PageData<T extends TypedArray = TypedArray> {
  readonly name: string
  readonly dtype: Dtype
  /** Of the whole page. */
  readonly shape: readonly number[]
  readonly epoch: number
  readonly version: number
  readonly values: T
}

/** Several pages, all as of one epoch. */
export interface ReadAnswer {
  readonly epoch: number
  readonly pages: Readonly<Record<string, PageData>>
}

/** Deltas that are committed together or not at all. */
export interface Transaction {
  /** Committed together or not at all. An empty list makes an epoch without changes. */
  readonly ops: readonly (Delta & { readonly page: string })[]
  /** Versions that the pages must have; otherwise PRECONDITION_FAILED. */
  readonly expect?: readonly { readonly page: string; readonly version: number }[]
  readonly source?: string
  /** Any JSON value; stored in the log. */
  readonly intent?: unknown
}

/** One or more certificates, or a key, in PEM. */
export type Pem = string | Uint8Array

/** What a client knows for TLS. In Node only: a browser has its own. */
export interface TlsOptions {
  /** Certificates of the authorities that the server may be certified by; default: those of Node. */
  readonly ca?: Pem
  /** The certificate that the client shows, with its chain, and its private key. */
  readonly cert?: Pem
  readonly key?: Pem
}

/** Options of every call over HTTP. */
export interface CallOptions {
  readonly signal?: AbortSignal
  /** Bounds all attempts together; default: the client's `timeoutMs`. */
  readonly timeoutMs?: number
}

/** Options of a write. */
export interface WriteOptions extends CallOptions {
  /**
   * Idempotency key: a repeated request gets the first answer. Default: a new one per call, which makes
   * retries safe.
   */
  readonly key?: string
  /** Version that the page must have (If-Match); otherwise PRECONDITION_FAILED. */
  readonly expectVersion?: number
}

/** Options of a read. */
export interface ReadOptions extends CallOptions {
  /** As of this epoch; default: now. */
  readonly epoch?: number
}

/** The answer to a write. */
export interface WriteAnswer {
  readonly epoch: number
  readonly version: number
  readonly page: string
}

/** The answer to a transaction. */
export interface TransactionAnswer {
  readonly epoch: number
  /** Versions of the pages written. */
  readonly pages: Readonly<Record<string, number>>
}

/** What one epoch did. */
export interface EpochEntry {
  readonly epoch: number
  /** ISO 8601, UTC. */
  readonly timestamp: string
  readonly transactions: readonly {
    readonly source: string | null
    readonly intent: unknown
    readonly ops: readonly Readonly<Record<string, unknown>>[]
  }[]
  readonly changed: readonly string[]
  readonly digest: string
}

/** The epochs in which a page changed. */
export interface HistoryAnswer {
  readonly name: string
  readonly versions: readonly {
    readonly epoch: number
    readonly timestamp: string
    readonly source: string | null
    readonly intent: unknown
  }[]
  readonly next: number | null
}

/** The ranges that differ between two epochs. */
export interface DiffAnswer {
  readonly from: number
  readonly to: number
  readonly pages: Readonly<
    Record<
      string,
      {
        readonly ranges: readonly (readonly [offset: number, count: number])[]
        readonly created?: true
        readonly deleted?: true
      }
    >
  >
}

/** A checkpoint that the server keeps. */
export interface Checkpoint {
  readonly epoch: number
  readonly pages: number
  readonly bytes: number
  readonly newBytes: number
  readonly ms: number
}

/** The result of a verification. */
export interface VerifyAnswer {
  readonly ok: boolean
  readonly from: number
  readonly to: number
  readonly epochs: number
  readonly divergence: null | {
    readonly epoch: number
    readonly page: string | null
    readonly detail: string
  }
  readonly problems: readonly string[]
}

/** A user function: parameters and expression. */
export interface FunctionDefinition {
  readonly params: readonly string[]
  readonly expr: string
}

/** A user function as the server has it. */
export interface FunctionView extends FunctionDefinition {
  readonly name: string
  readonly worldAge: number
  readonly epoch: number
  /** Pages that use the function, directly or through other functions. */
  readonly pages: readonly string[]
}

/** The dependency graph: pages and edges. */
export interface Graph {
  readonly nodes: readonly {
    readonly name: string
    readonly kind: 'source' | 'derived'
    readonly level: number
    readonly op?: string
  }[]
  readonly edges: readonly {
    readonly from: string
    readonly to: string
    readonly input: string
    readonly prev?: true
  }[]
}

/** The state of the server at one moment. */
export interface Status {
  readonly version: string
  /** The history that the epochs belong to. It changes when epoch numbers may be used again. */
  readonly history: string
  readonly epoch: number
  /** Absent for a principal that may not read all pages. */
  readonly digest?: string
  readonly backend: 'cpu' | 'cuda'
  readonly device?: Readonly<Record<string, unknown>>
  /** The GPU failed at this epoch, and the CPU goes on. */
  readonly deviceLoss?: { readonly epoch: number; readonly reason: string }
  readonly pages: number
  readonly fsync: 'always' | 'interval' | 'off'
  /** Every write is refused with READ_ONLY. */
  readonly readOnly: boolean
  readonly uptimeMs: number
  readonly minEpoch: number
  readonly state: 'ready' | 'stopping' | 'failed'
  /** Why the server is not ready. */
  readonly reason?: string
}

/** `count` durations in microseconds. */
export interface Durations {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/**
 * Counters and timings of the server. Later versions add fields. A principal that may not read all pages gets
 * the counts of those that it may read, and no more.
 */
export interface Stats {
  readonly epoch: number
  readonly pages: {
    readonly count: number
    readonly source: number
    readonly derived: number
    readonly bytes: number
    /** This and the quota are absent for a principal that may not read all pages. */
    readonly byLocation?: Readonly<
      Record<'cpu' | 'gpu' | 'unified', { readonly count: number; readonly bytes: number }>
    >
    /** What the pages may have together. */
    readonly quotaBytes?: number
  }
  readonly graph: { readonly nodes: number; readonly edges: number; readonly depth?: number }
  readonly deltas?: { readonly dense: number; readonly sparse: number; readonly masked: number }
  /** The stages of a write since the start. */
  readonly timings?: Readonly<Record<string, Durations>>
  readonly queue?: { readonly transactions: number; readonly bytes: number }
  /** Null if there is no log. */
  readonly log?: null | {
    /** How long the newest appends took to become durable. */
    readonly appendUs: Durations
    readonly bytes: number
    readonly segments: number
    readonly minEpoch: number
    readonly newestEpoch: number
    readonly durableEpoch: number
    readonly failure: string | null
  }
  readonly subscriptions?: {
    readonly connections: number
    readonly subscriptions: number
    readonly delivered: number
    readonly conflated: number
    readonly overflows: number
    readonly durable: readonly {
      readonly name: string
      readonly epoch: number | null
      readonly lag: number | null
      readonly connected: boolean
      readonly held: boolean
    }[]
    /** The subscriptions that are farthest behind; servers of earlier releases do not name them. */
    readonly late?: readonly {
      readonly id: string
      /** The first of its names and patterns. */
      readonly pages: readonly string[]
      /** Epochs that it has not been sent yet. */
      readonly lag: number
      /** Bytes that were sent, and that the reader or its network has not taken. */
      readonly queuedBytes: number
    }[]
  }
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
   * What a reader that is too slow receives: every epoch all the same (default), or epochs folded together.
   */
  readonly policy?: Policy
  /** At most this many changes a second; implies `latest`. */
  readonly maxRate?: number
  /**
   * A window on each of these pages instead of the whole page: for each axis its start and its stop. Shape
   * and ranges in changes are then those of the window.
   */
  readonly slice?: Readonly<Record<string, readonly (readonly [start: number, stop: number])[]>>
  /**
   * A name under which the server stores this reader's cursor, across restarts: the reader resumes after the
   * last epoch it committed. `from` applies to a new reader only.
   */
  readonly durable?: string
  /**
   * The history that `from` belongs to, as `status()` and HISTORY_CHANGED name it. If the server has another
   * one, the subscription fails with HISTORY_CHANGED. A durable subscription whose cursor is of another
   * history needs the present one here to start over as `from` says.
   */
  readonly history?: string
  readonly signal?: AbortSignal
}

/** A durable subscription, as the server sees it. */
export interface DurableView {
  readonly name: string
  readonly pages: readonly string[]
  /** The last epoch committed; null until the reader has committed its snapshot. */
  readonly epoch: number | null
  readonly lag: number | null
  readonly connected: boolean
  /** Whether the server keeps the epochs that the reader has not seen. */
  readonly held: boolean
  readonly createdAt: string
  readonly seenAt: string
}

/** What one change says about one page. */
export interface ChangedPage {
  readonly page: string
  /** In a snapshot `source` or `derived`. */
  readonly kind: ChangeKind
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Element ranges. Empty with data `none`, and for a deleted page. */
  readonly ranges: readonly (readonly [offset: number, count: number])[]
  /** The elements of the ranges, one after another. Present with data `values`. */
  readonly values?: TypedArray
}

/** One epoch; with `first` < `epoch`, several epochs folded into one; or the snapshot, which comes first. */
export interface Change {
  readonly type: 'change' | 'snapshot'
  readonly epoch: number
  readonly first: number
  readonly changes: readonly ChangedPage[]
}
