/**
 * What the store keeps and gives back, and the doors to the outside it is handed. Types only.
 * The store knows epochs, frames as opaque bytes, page ids and chunks; it knows nothing of graphs or ops.
 */

import type { CheckpointFolder } from './checkpoint/folder.js'
import type { CheckpointThread } from './checkpoint/thread.js'
import type { Disk } from './os/disk.js'

export type FsyncPolicy = 'always' | 'interval' | 'off'

/** CRC-32C (Castagnoli), continuing from `seed` (0 to start), standard inversions inside. */
export interface Crc32c {
  (bytes: Uint8Array, seed?: number): number
  /**
   * How many sound records (src/store/log/segment-reader.ts) stand one after another at the start of `bytes`, the first of them that of
   * `firstEpoch`. Absent: each is checked by itself.
   */
  readonly soundRecords?: (bytes: Uint8Array, firstEpoch: number, recordSeed: number) => number
}

export interface Notice {
  readonly level: 'info' | 'warn' | 'error'
  readonly message: string
}

/** One epoch in the log. */
export interface LogRecord {
  readonly epoch: number
  /** Milliseconds since 1970, from the injected clock. Never decreases from one epoch to the next. */
  readonly timestampMs: number
  /** 16 bytes: the digest of the state before this epoch. */
  readonly digestBefore: Uint8Array
  readonly frameCount: number
  /** The frames, one after another (docs/internals/FORMAT.md). Given to append, they must not change until it has settled. */
  readonly frames: Uint8Array
  /** Ids of the pages that deltas or structural commands of the frames touch, ascending. */
  readonly touchedPages: Uint32Array
}

/** One page in a checkpoint. `meta` is the page's create-page command, exactly as in the log, opaque to the store. */
export interface CheckpointPage {
  readonly id: number
  readonly version: number
  readonly createdEpoch: number
  readonly bytes: number
  readonly meta: Uint8Array
}

export interface CheckpointHeader {
  readonly epoch: number
  readonly timestampMs: number
  /** 16 bytes: the digest of the state at this epoch. */
  readonly digest: Uint8Array
  readonly nextPageId: number
  /** JSON the engine wants kept (functions, world age, idempotency keys...); opaque to the store. */
  readonly extra: string
}

export interface CheckpointSource {
  readonly header: CheckpointHeader
  readonly pages: readonly CheckpointPage[]
  /** Puts the bytes of a page from `offset` on, as of the checkpoint's epoch, into `into`; at most 1 MiB. */
  read(pageId: number, offset: number, into: Uint8Array): void
  /** Called once, before anything is read: only pages of these ids will be. */
  begin?(pageIds: ReadonlySet<number>): void
  /** Waited for before each turn of reading. */
  ready?(): Promise<void> | undefined
  /** Called once, when nothing more will be read, though the file is not complete yet. */
  onRead?(): void
  /** What stands for `header.extra`, when it takes time to make. */
  lateExtra?(): Promise<string>
}

export interface CheckpointInfo {
  readonly epoch: number
  readonly pages: number
  /** Bytes of all pages. */
  readonly bytes: number
  /** Bytes of pages written for this checkpoint: those that it does not refer to in older files. Never more than `bytes`. */
  readonly newBytes: number
  readonly ms: number
  readonly file: string
}

/** A checkpoint being read at start. */
export interface CheckpointReader {
  readonly header: CheckpointHeader
  readonly pages: readonly CheckpointPage[]
  /** Calls back for every stored chunk of every page; chunks of zeros may be left out. Checks each chunk's hash. */
  load(onChunk: (pageId: number, offset: number, bytes: Uint8Array) => void): void
  close(): void
}

/** What was found at start. `notes` are lines for people. */
export interface RecoveryReport {
  readonly newestEpoch: number
  readonly checkpointEpoch: number | null
  readonly tornBytes: number
  readonly notes: readonly string[]
  /** The row of the recovery table that applied (src/store/recovery/table.ts). */
  readonly row: string
}

/** One row of the log index: a run of whole records of one segment. */
export interface IndexBlock {
  /** First epoch of the segment the block lies in; names the segment. */
  readonly segment: number
  readonly offset: number
  readonly end: number
  readonly firstEpoch: number
  readonly lastEpoch: number
  /** Ids of the pages touched, packed (src/store/log/index-blocks.ts); null: any. */
  readonly pages: Uint8Array | null
}

/** What opening the catalogue found. `lost`: there was none, or what there was could not be trusted and was set aside. */
export type CatalogFindings =
  | { readonly state: 'lost'; readonly why: string }
  | {
      readonly state: 'read'
      readonly busId: string
      /** Newest epoch that the log index covers, 0 for none. */
      readonly lastEpoch: number
      readonly checkpoints: readonly CheckpointInfo[]
    }

/** The catalogue: log index and list of checkpoints. Everything in it can be rebuilt, so its loss loses nothing. */
export interface Catalog {
  open(): Promise<CatalogFindings>
  /** Says whose catalogue it is; must be called once before anything is added. `anew` forgets all it held. */
  begin(busId: string, anew: boolean): Promise<void>
  addBlocks(blocks: readonly IndexBlock[]): Promise<void>
  clearBlocks(): Promise<void>
  /** The block that holds the epoch, or undefined. Rejects when the row is damaged. */
  blockOf(epoch: number): Promise<IndexBlock | undefined>
  /** Blocks that overlap [from, to], ascending. Rejects when a row is damaged. */
  blocksBetween(from: number, to: number): Promise<IndexBlock[]>
  /** Forgets blocks whose epochs all come before this one. */
  dropBlocksBefore(epoch: number): Promise<void>
  addCheckpoint(info: CheckpointInfo): Promise<void>
  removeCheckpoint(epoch: number): Promise<void>
  close(): Promise<void>
}

export interface StoreOptions {
  readonly dir: string
  readonly fsync: FsyncPolicy
  readonly crc32c: Crc32c
  /** posix_fallocate through ffi: 0 or an errno. Absent: room is taken by writing zeros. */
  readonly allocate?: (fd: number, offset: number, length: number) => number
  readonly onNotice?: (notice: Notice) => void
  /** Milliseconds since 1970. */
  readonly clock?: () => number
  /** The disk of the log; default: the real one. */
  readonly disk?: Disk
  /** Random bytes for ids and seeds. */
  readonly random?: (length: number) => Uint8Array
  /** Calls back once after the delay; returns what cancels it. */
  readonly setTimer?: (callback: () => void, delayMs: number) => () => void
  /** Keeps a second process out; default: an exclusive lock held through SQLite. Returns what lets go. */
  readonly lock?: (dir: string) => () => void
  /** Default: catalog.db in a worker thread. */
  readonly catalog?: Catalog
  /** Where checkpoint files lie, for reading; default: the folder `checkpoints`. */
  readonly checkpointFolder?: CheckpointFolder
  /** Who writes and removes them; default: a worker thread for each job. */
  readonly checkpointThread?: () => CheckpointThread
  /** Checkpoints kept at most; default CHECKPOINTS_KEPT. */
  readonly checkpointsKept?: number
  /** Size of a log segment; default SEGMENT_BYTES. */
  readonly segmentBytes?: number
}

/** How much of the past is kept. Absent: no limit of that kind. What any limit lets go may go. */
export interface RetentionLimits {
  readonly maxAgeMs?: number
  /** Bytes of log. */
  readonly maxBytes?: number
  readonly maxEpochs?: number
}

export interface TimingStats {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface StoreStats {
  /** Bytes of records in the log, headers of segments included. */
  readonly bytes: number
  readonly segments: number
  /** Records appended since the start. */
  readonly records: number
  /** Oldest epoch whose record is in the log; newest + 1 when it holds none. */
  readonly minEpoch: number
  readonly newestEpoch: number
  /** Newest epoch known to be durable. */
  readonly durableEpoch: number
  /** Microseconds from the start of an append to its durability, of the newest appends. */
  readonly appendUs: TimingStats
  /** Epochs the index reaches. */
  readonly indexedEpoch: number
  readonly failure: string | null
}
