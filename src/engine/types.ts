/**
 * The words of the bus that other rooms speak: what goes in (transactions), what comes out (commits, pages, events).
 * Types only; no behaviour.
 */
import type { FunctionBody } from '../kernels/expression/names.js'
import type { DeltaJson } from '../state/delta.js'
import type { DeltaInput, Derivation, Expectation } from '../state/types.js'
import type { RetentionLimits, StoreStats } from '../store/types.js'
import type { Dtype, TypedArray } from '../wire/dtype.js'
import type { Location, PageKind } from '../wire/page.js'
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
  /** Names of the pages this one derives from, in the order of the definition's roles. */
  readonly inputs: readonly string[]
  readonly dependents: readonly string[]
  /** 32 hex digits. */
  readonly digest: string
}

/** The part of a page that is known at once. */
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

/**
 * Sends frames by number and learns from these calls what became of each, without a promise for every frame. The calls must not
 * throw.
 */
export interface Sender {
  /** `count` frames from number `first` on, of `bytes` bytes together, were committed. */
  committed(first: number, count: number, bytes: number, epoch: number): void
  /** They were accepted but could not be committed. */
  failed(first: number, count: number, bytes: number, error: unknown): void
  /** The frame was not accepted. */
  refused(number: number, error: unknown): void
}

/** What a committed transaction answers. */
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
  /** Element ranges, ascending and disjoint: offset, count, offset, count, ... A created page has one that covers it. */
  readonly ranges: Uint32Array
}

/** One epoch, as subscribers see it. Delivered synchronously while the state is exactly that of the epoch. */
export interface CommitEvent {
  readonly epoch: number
  readonly timestampMs: number
  readonly changes: readonly PageChange[]
}

/** A change as subscribers were told of it, with the values its ranges had then. */
export interface PastChange extends PageChange {
  /** Empty when they were not asked for. */
  readonly values: TypedArray
}

/** A past epoch, as subscribers saw it. */
export interface PastEpoch {
  readonly epoch: number
  readonly timestampMs: number
  readonly changes: readonly PastChange[]
}

/** Some epochs of a range: those that changed a page asked for, ascending. */
export interface PastEpochs {
  readonly epochs: readonly PastEpoch[]
  /** Every epoch up to here has been looked at. */
  readonly through: number
}

/** Which past changes to replay, and for which pages. */
export interface PastEpochsQuery {
  /** Epochs after this one... */
  readonly after: number
  /** ...up to this one, as far as one answer goes. */
  readonly to: number
  /** Names and patterns, as in a subscription. */
  readonly pages: readonly string[]
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

/** A command of a transaction in the log: a delta as it was written, a page made or ended. */
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

/** What one epoch did. */
export interface EpochInfo {
  readonly epoch: number
  /** When it was committed: ISO 8601, UTC. */
  readonly timestamp: string
  readonly transactions: readonly {
    readonly source: string | null
    readonly intent: unknown
    readonly ops: readonly EpochOp[]
  }[]
  /** Names of the pages whose bytes changed, and of those created and deleted, sorted. */
  readonly changed: readonly string[]
  /** Of the state after it. */
  readonly digest: string
}

/** Past epochs in ascending order, and where the next answer begins. */
export interface EpochList {
  readonly epochs: readonly EpochInfo[]
  /** The epoch to go on from; null when the range was looked at to its end. */
  readonly next: number | null
}

/** The versions of a page, ascending. */
export interface PageHistory {
  readonly name: string
  readonly versions: readonly {
    readonly epoch: number
    readonly timestamp: string
    /** Of the transaction that reached the page; the last one of its epoch. */
    readonly source: string | null
    readonly intent: unknown
  }[]
  /** The epoch to go on from; null when the range was looked at to its end. */
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
        /** It is there at `to` and not at `from`. */
        readonly created?: true
        /** It is there at `from` and not at `to`. */
        readonly deleted?: true
      }
    >
  >
}

/** What a replay of the log found. */
export interface VerifyResult {
  readonly ok: boolean
  readonly from: number
  readonly to: number
  /** How many epochs were replayed. */
  readonly epochs: number
  /** The first epoch at which log and state differ, and the page where that can be told. */
  readonly divergence: {
    readonly epoch: number
    readonly page: string | null
    readonly detail: string
  } | null
  /** What is wrong with checkpoints in the range: they are not needed to rebuild the state, but cannot be relied on. */
  readonly problems: readonly string[]
}

/** A function that users defined. */
export interface FunctionInfo {
  readonly name: string
  readonly params: readonly string[]
  readonly expr: string
  /** Of the change that gave it this meaning. */
  readonly worldAge: number
  /** When that was. */
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
  /** `to` reads what `from` held in the epoch before. */
  readonly prev?: true
}

/** When an epoch counts as durable: see docs/internals/DURABILITY.md. */
export type FsyncMode = 'always' | 'interval' | 'off'

/** Options of `Bus.open`. */
export interface BusOptions {
  /** Folder of log, index and checkpoints. Absent: the bus lives in memory only and nothing is durable. */
  readonly dataDir?: string
  readonly backend?: 'auto' | 'cpu' | 'cuda'
  readonly fsync?: FsyncMode
  /** Bound on the bytes of all pages. */
  readonly memoryLimitBytes?: number
  /** Native worker threads; default: the number of cores. */
  readonly threads?: number
  /** When checkpoints are made by themselves. */
  readonly checkpoints?: {
    /** Epochs since the last; 0: never. Default CHECKPOINT_EVERY_EPOCHS. */
    readonly everyEpochs?: number
    /** Bytes of log since the last; 0: never. Default CHECKPOINT_EVERY_BYTES. */
    readonly everyBytes?: number
    /** At close, when there were epochs since the last. Default false. */
    readonly atClose?: boolean
  }
  /** How much of the past is kept; default: all of it. */
  readonly retention?: RetentionLimits
  /** Size of a segment of the log: what retention lets go at a time. Default SEGMENT_BYTES. */
  readonly segmentBytes?: number
  /** How long, since it was last heard of, a named durable reader holds the past back. */
  readonly durableHoldMs?: number
  /** How many bytes of log a named durable reader may hold back. */
  readonly durableHoldBytes?: number
  /** Where warnings and progress of recovery go; default: nowhere. */
  readonly onNotice?: (notice: { level: 'info' | 'warn' | 'error'; message: string }) => void
}

/** The state of a bus at one moment. */
export interface BusStatus {
  readonly version: string
  readonly epoch: number
  readonly digest: string
  readonly backend: 'cpu' | 'cuda'
  readonly device?: Readonly<Record<string, unknown>>
  /** The device failed after this epoch, and the bus went on without it. */
  readonly deviceLoss?: { readonly epoch: number; readonly reason: string }
  readonly pages: number
  readonly fsync: FsyncMode
  readonly uptimeMs: number
  readonly minEpoch: number
}

/** What one epoch computed. */
export interface ExecutionLog {
  readonly epoch: number
  readonly steps: readonly {
    readonly page: string
    readonly changed: boolean
    readonly full: boolean
    readonly elementsComputed: number
  }[]
}

interface PlaceStats {
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
    readonly byLocation: Readonly<Record<'cpu' | 'gpu' | 'unified', PlaceStats>>
    readonly quotaBytes: number
    readonly poolBytes: number
  }
  /** Deltas committed since start, by kind. */
  readonly deltas: { readonly dense: number; readonly sparse: number; readonly masked: number }
  readonly graph: { readonly nodes: number; readonly edges: number; readonly depth: number }
  /** Per stage of a write's journey, since start, in microseconds. */
  readonly timings: Readonly<Record<Stage, StageSummary>>
  readonly queue: { readonly transactions: number; readonly bytes: number }
  /** null when the bus lives in memory only. */
  readonly log: StoreStats | null
}
