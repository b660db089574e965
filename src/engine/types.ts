/**
 * The types of the bus that other rooms use: what goes in (transactions, options) and what comes out
 * (commits, pages, events). Types only; no behaviour.
 *
 * Null because JSON answers and public types have it.
 */
import type { FunctionBody } from '../kernels/expression/names.js'
import type { Limits } from '../operator-limits.js'
import type { DeltaJson } from '../state/delta.js'
import type { DeltaInput, Derivation, Expectation } from '../state/types.js'
import type { RetentionLimits, StoreStats } from '../store/types.js'
import type { Dtype, TypedArray } from '../wire/dtype.js'
import type { Location, PageKind } from '../wire/page.js'
import type { Admission } from './call-types.js'
import type { Stage, StageSummary } from './stage-timings.js'

export type {
  DeltaInput,
  DeltaValues,
  Derivation,
  DerivedDefinition,
  Expectation,
  PageDefinition,
  SourceDefinition,
} from '../state/types.js'
export type { Location, Merge, PageKind } from '../wire/page.js'

/** A transaction as a caller writes it: deltas that are committed together or not at all. */
export interface TransactionInput {
  readonly ops: readonly (DeltaInput & { readonly page: string })[]
  readonly expect?: readonly Expectation[]
  readonly source?: string
  readonly intent?: unknown
  /** Idempotency key: a repeat gets the first answer. */
  readonly key?: string
}

/**
 * A sender of frames. It gets the outcome of each frame by the frame's number, without a promise for every
 * frame. The calls must not throw.
 */
export interface Sender {
  /** Is told which pages the frames change. */
  readonly watch?: FrameWatch | undefined
  /** `count` frames from number `first` on, of `bytes` bytes together, were committed. */
  committed(first: number, count: number, bytes: number, epoch: number): void
  /** The frames were queued, but not committed. */
  failed(first: number, count: number, bytes: number, error: unknown): void
  /** The frame was not queued. */
  refused(number: number, error: unknown): void
}

/** Is told what frames do, by their number, before they are answered. */
export interface FrameWatch {
  /** Whether written pages are told; if not, only those that are created or deleted. */
  readonly withWrites: boolean
  /** The frame does something to this page. */
  saw(number: number, page: string): void
}

/** What the sender of frames may do, and under which names its frames are kept. */
export interface FrameAccess {
  /** Whether it may write this page. Asked for every frame. */
  mayWrite(page: { readonly id: number; readonly name: string }): boolean
  /**
   * Throws FORBIDDEN or PAGE_NOT_FOUND unless it may do this to a page; `name` is undefined if there is none.
   */
  require(verb: 'read' | 'write' | 'define', name: string | undefined, id: number): void
  /** The idempotency key under which a frame with this one is kept. */
  keyOf(key: string): string
  /** The source under which a frame with this one is kept. */
  sourceOf(source: string | undefined): string
  /** Undefined: its commits are not limited. */
  readonly admission?: Admission | undefined
}

/** Options of a write to one page. */
export interface WriteOptions {
  /** Idempotency key: a repeat gets the first answer. */
  readonly key?: string
  readonly source?: string
  readonly intent?: unknown
  /** The version the page must have; else PRECONDITION_FAILED. */
  readonly expectVersion?: number
}

/** The answer to a write of one page. */
export interface PatchResult {
  readonly epoch: number
  readonly version: number
  readonly page: string
}

/** The answer to the creation of a page. */
export interface CreateResult {
  readonly epoch: number
  /** False when a page of this name with the same definition existed already. */
  readonly created: boolean
  readonly page: PageInfo
}

/** The answer to the deletion of a page. */
export interface DeleteResult {
  readonly epoch: number
  /** Names of what was deleted: the page, and with `cascade` every page that derived from it. */
  readonly pages: readonly string[]
}

/** A part of a page, in elements; default: all of it. */
export interface ReadRange {
  readonly offset?: number
  readonly count?: number
}

/** Options of a request about the past. */
export interface PastOptions {
  /** Cancels a request about the past. */
  readonly signal?: AbortSignal | undefined
  /**
   * Whose request it is: an object, such as a connection, or a name. Callers are served in turn. Requests
   * without one belong to one caller together.
   */
  readonly caller?: object | string | undefined
  /** Calls back with the milliseconds for which a thread was busy with it. */
  readonly onServed?: ((ms: number) => void) | undefined
}

/** Deltas to try, and the pages to read afterwards. */
export interface WhatIfInput {
  readonly ops: TransactionInput['ops']
  /** Names of the pages to read. */
  readonly read: readonly string[]
}

/**
 * Pages as they would be. `epoch` and the versions of changed pages are those of the commit that does not
 * happen.
 */
export interface WhatIfResult {
  readonly epoch: number
  readonly pages: Readonly<Record<string, PageData>>
}

/** A page without its elements. */
export interface PageInfo {
  readonly name: string
  readonly id: number
  readonly kind: PageKind
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly bytes: number
  readonly location: Exclude<Location, 'auto'>
  readonly version: number
  readonly createdEpoch: number
  readonly derive?: Derivation
  /** The version of its op that a derived page keeps until it is redefined or migrated. */
  readonly opVersion?: number
  /** Names of the pages this one derives from, in the order of the definition's roles. */
  readonly inputs: readonly string[]
  readonly dependents: readonly string[]
  /** 32 hex digits. */
  readonly digest: string
}

/** The part of a page's description that is known without waiting. */
export interface PageShape {
  readonly id: number
  readonly name: string
  readonly kind: PageKind
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly elements: number
  readonly bytes: number
  readonly version: number
}

/** The answer to a committed transaction. */
export interface CommitResult {
  readonly epoch: number
  /** Version, after the commit, of each page the transaction named (by name). */
  readonly pages: Readonly<Record<string, number>>
}

/** What one epoch changed in one page. */
export interface PageChange {
  readonly pageId: number
  readonly page: string
  readonly kind: 'source' | 'derived' | 'created' | 'deleted'
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /**
   * Element ranges, ascending and disjoint: offset, count, offset, count, ... One range covers a created
   * page.
   */
  readonly ranges: Uint32Array
}

/**
 * One epoch, as subscribers see it. Delivered synchronously, while the state is exactly that of the epoch.
 */
export interface CommitEvent {
  readonly epoch: number
  readonly timestampMs: number
  readonly changes: readonly PageChange[]
}

/** A change as subscribers received it, with the values that its ranges had then. */
export interface PastChange extends PageChange {
  /** Empty unless the query asks for values. */
  readonly values: TypedArray
}

/** A past epoch, as subscribers saw it. */
export interface PastEpoch {
  readonly epoch: number
  readonly timestampMs: number
  readonly changes: readonly PastChange[]
}

/** The epochs of a range that changed a page of the query, ascending. */
export interface PastEpochs {
  readonly epochs: readonly PastEpoch[]
  /** The range was searched up to this epoch; the next query starts here. */
  readonly through: number
}

/** Which past changes to replay, and for which pages. */
export interface PastEpochsQuery {
  /** Replays the epochs after this one. */
  readonly after: number
  /** The last epoch to replay. One answer may end earlier. */
  readonly to: number
  /** Names and patterns, as in a subscription. */
  readonly pages: readonly string[]
  /** Of these only the pages that match a pattern of each of these lists. */
  readonly visible?: readonly (readonly string[])[]
  readonly values: boolean
}

/** Elements of a page, with the epoch and version they are of. */
export interface PageData {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly version: number
  /** The epoch the values belong to. */
  readonly epoch: number
  /** A copy. Flat, row-major; bool pages give a Uint8Array of 0 and 1. */
  readonly values: TypedArray
}

/** A command of a logged transaction: a delta as it was written, or a page or function defined or deleted. */
export type EpochOp =
  | (Omit<DeltaJson, 'page'> & { readonly page: string })
  | {
      readonly op: 'create'
      readonly page: string
      readonly dtype: Dtype
      readonly shape: readonly number[]
      readonly location: Location
      readonly fill?: number | string | boolean
      readonly derive?: Derivation
    }
  | { readonly op: 'delete'; readonly page: string }
  | ({ readonly op: 'define'; readonly function: string } & FunctionBody)
  | { readonly op: 'undefine'; readonly function: string }

/** The transactions of one epoch and the pages they changed. */
export interface EpochInfo {
  readonly epoch: number
  /** When it was committed: ISO 8601, UTC. */
  readonly timestamp: string
  /** Set when the epoch was cancelled after it was logged: it has no transactions and changed nothing. */
  readonly void?: boolean
  readonly transactions: readonly {
    readonly source: string | null
    readonly intent: unknown
    readonly ops: readonly EpochOp[]
  }[]
  /** Names of the pages whose bytes changed, and of those created and deleted, sorted. */
  readonly changed: readonly string[]
  /** Digest of the state after the epoch. */
  readonly digest: string
}

/** Past epochs in ascending order, and where the next answer begins. */
export interface EpochList {
  readonly epochs: readonly EpochInfo[]
  /** The epoch to continue from; null when the whole range was searched. */
  readonly next: number | null
}

/** The versions of a page, ascending. */
export interface PageHistory {
  readonly name: string
  readonly versions: readonly {
    readonly epoch: number
    readonly timestamp: string
    /** Source of the last transaction of the epoch that reached the page. */
    readonly source: string | null
    readonly intent: unknown
  }[]
  /** The epoch to continue from; null when the whole range was searched. */
  readonly next: number | null
}

/** Element ranges (offset, count) whose bytes differ between two epochs. */
export interface DiffResult {
  readonly from: number
  readonly to: number
  readonly pages: Readonly<
    Record<
      string,
      {
        readonly ranges: readonly (readonly [number, number])[]
        /** The page exists at `to` and not at `from`. */
        readonly created?: true
        /** The page exists at `from` and not at `to`. */
        readonly deleted?: true
      }
    >
  >
}

/** The findings of a replay of the log. */
export interface VerifyResult {
  readonly ok: boolean
  readonly from: number
  readonly to: number
  /** Number of epochs replayed. */
  readonly epochs: number
  /** The first epoch at which log and state differ, and the page when it can be determined. */
  readonly divergence: {
    readonly epoch: number
    readonly page: string | null
    readonly detail: string
  } | null
  /**
   * Damaged checkpoints in the range. The state can be rebuilt without them, but they cannot be relied on.
   */
  readonly problems: readonly string[]
}

/** A function that users defined. */
export interface FunctionInfo {
  readonly name: string
  readonly params: readonly string[]
  readonly expr: string
  /** World age of the change that gave it this definition. */
  readonly worldAge: number
  /** Epoch of that change. */
  readonly epoch: number
  /** Names of the pages that use it, directly or through other functions, sorted. */
  readonly pages: readonly string[]
}

/** A page in the dependency graph. */
export interface GraphNode {
  readonly name: string
  readonly kind: PageKind
  readonly level: number
  readonly op?: string
}

/** A dependency: page `to` reads page `from`. */
export interface GraphEdge {
  readonly from: string
  readonly to: string
  /** The role of `from` in the definition of `to`. */
  readonly input: string
  /** `to` reads what `from` held one epoch earlier. */
  readonly prev?: true
}

/** When an epoch counts as durable: see docs/internals/DURABILITY.md. */
export type FsyncMode = 'always' | 'interval' | 'off'

/** Options of `Bus.open`. */
export interface BusOptions {
  /** Folder of log, index and checkpoints. Absent: the bus is in memory only and nothing is durable. */
  readonly dataDir?: string
  /**
   * Opens the folder for reading only: nothing in it is created or changed, and every write is refused with
   * READ_ONLY. Several buses may read one folder, but none while it is open for writing. Default false.
   */
  readonly readOnly?: boolean
  /** With `readOnly`: opens the folder as it was at this epoch. Default: the newest. */
  readonly untilEpoch?: number
  readonly backend?: 'auto' | 'cpu' | 'cuda'
  readonly fsync?: FsyncMode
  /** Maximum bytes of all pages together. */
  readonly memoryLimitBytes?: number
  /** Limits that differ from the standard: docs/guide/LIMITS.md. */
  readonly limits?: Partial<Limits>
  /** Native worker threads; default: the number of cores. */
  readonly threads?: number
  /** When the bus makes checkpoints by itself. */
  readonly checkpoints?: {
    /** Epochs since the last checkpoint; 0: never. Default CHECKPOINT_EVERY_EPOCHS. */
    readonly everyEpochs?: number
    /** Bytes of log since the last checkpoint; 0: never. Default CHECKPOINT_EVERY_BYTES. */
    readonly everyBytes?: number
    /** At close, if epochs were committed since the last checkpoint. Default false. */
    readonly atClose?: boolean
  }
  /** How much history is kept; default: all of it. */
  readonly retention?: RetentionLimits
  /** Maximum size of one log segment. Retention deletes whole segments. Default SEGMENT_BYTES. */
  readonly segmentBytes?: number
  /** How long history is kept for a named durable reader after it was last seen. */
  readonly durableHoldMs?: number
  /** Maximum bytes of log kept for a named durable reader. */
  readonly durableHoldBytes?: number
  /** Receives warnings and the progress of recovery; default: nobody. */
  readonly onNotice?: (notice: { level: 'info' | 'warn' | 'error'; message: string }) => void
  /** Receives how far opening has come, several times a second; default: nobody. */
  readonly onProgress?: (progress: RecoveryProgress) => void
  /** Ends opening: `Bus.open` rejects with the signal's reason, and the folder is closed again. */
  readonly signal?: AbortSignal
}

/** How far recovery has come. */
export interface RecoveryProgress {
  readonly phase: 'inspecting' | 'loading' | 'replaying'
  /** Of all of the work, from 0 to 100. */
  readonly percent: number
  /** The phase in words, such as "replaying epoch 812 of 10000". */
  readonly detail: string
}

/** The state of a bus at one moment. */
export interface BusStatus {
  readonly version: string
  /** The history that the epochs belong to (Bus.historyId). */
  readonly history: string
  readonly epoch: number
  readonly digest: string
  readonly backend: 'cpu' | 'cuda'
  readonly device?: Readonly<Record<string, unknown>>
  /** The device failed after this epoch and the bus continued on the CPU. */
  readonly deviceLoss?: { readonly epoch: number; readonly reason: string }
  readonly pages: number
  readonly fsync: FsyncMode
  /** Every write is refused with READ_ONLY. */
  readonly readOnly: boolean
  readonly uptimeMs: number
  readonly minEpoch: number
}

/** The steps that one epoch ran. */
export interface ExecutionLog {
  readonly epoch: number
  readonly steps: readonly {
    readonly page: string
    readonly changed: boolean
    readonly full: boolean
    readonly elementsComputed: number
  }[]
}

interface LocationStats {
  count: number
  bytes: number
}

/** Counts, sizes and timings of a bus since its start. */
export interface BusStats {
  readonly epoch: number
  readonly pages: {
    readonly count: number
    readonly source: number
    readonly derived: number
    readonly bytes: number
    readonly byLocation: Readonly<Record<'cpu' | 'gpu' | 'unified', LocationStats>>
    readonly quotaBytes: number
    readonly poolBytes: number
  }
  /** Deltas committed since start, by kind. */
  readonly deltas: { readonly dense: number; readonly sparse: number; readonly masked: number }
  readonly graph: { readonly nodes: number; readonly edges: number; readonly depth: number }
  /** Per stage of a commit, since start, in microseconds. */
  readonly timings: Readonly<Record<Stage, StageSummary>>
  readonly queue: { readonly transactions: number; readonly bytes: number }
  /** null when the bus is in memory only. */
  readonly log: StoreStats | null
}
