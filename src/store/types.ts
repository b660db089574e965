/**
 * The data that the store keeps and gives back, and the catalog it writes to. Types only; every file of the
 * store may import them. The store knows epochs, frames as opaque bytes, page ids and chunks; it knows
 * nothing of graphs or ops.
 * Null because StoreStats, a public type, promises it.
 */

export type FsyncPolicy = 'always' | 'interval' | 'off'

/** CRC-32C (Castagnoli), continuing from `seed` (0 to start), standard inversions inside. */
export interface Crc32c {
  (bytes: Uint8Array, seed?: number): number
  /**
   * How many sound records (src/store/log/segment-reader.ts) follow one another from the start of `bytes`;
   * the first must be that of `firstEpoch`. Absent: the reader checks each record by itself.
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
  /**
   * The frames, one after another (docs/internals/FORMAT.md). They must not change until the append has
   * settled.
   */
  readonly frames: Uint8Array
  /** Ids of the pages that deltas or structural commands of the frames touch, ascending. */
  readonly touchedPages: Uint32Array
  /** The epoch was cancelled after it was logged: it has no frames and changes nothing. */
  readonly isVoid?: boolean
}

/**
 * One page in a checkpoint. `meta` is the page's create-page command, exactly as in the log, opaque to the
 * store.
 */
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
  /** The engine's own JSON (functions, world age, idempotency keys...); opaque to the store. */
  readonly extra: string
}

/** The state that a checkpoint is written from. */
export interface CheckpointSource {
  readonly header: CheckpointHeader
  readonly pages: readonly CheckpointPage[]
  /** Fills `into` (at most 1 MiB) with the bytes of a page from `offset` on, as of the checkpoint's epoch. */
  read(pageId: number, offset: number, into: Uint8Array): void
  /** Called once, before the first read, with the ids of the pages that will be read. */
  begin?(pageIds: ReadonlySet<number>): void
  /** Awaited before each turn of reading. */
  ready?(): Promise<void> | undefined
  /** Called after each turn of reading: how many bytes of how many to be written were read. */
  wasRead?(bytes: number, of: number): void
  /** Called once after the last read. The file is not complete yet. */
  onRead?(): void
  /** Replaces `header.extra` where that takes time to make. */
  lateExtra?(): Promise<string>
}

export interface CheckpointInfo {
  readonly epoch: number
  readonly pages: number
  /** Bytes of all pages. */
  readonly bytes: number
  /**
   * Bytes of pages written for this checkpoint, without those that older files already hold. Never more than
   * `bytes`.
   */
  readonly newBytes: number
  readonly ms: number
  readonly file: string
}

/** An open checkpoint. */
/** Receives a piece of a page; the bytes are valid during the call. */
export type OnChunk = (pageId: number, offset: number, bytes: Uint8Array) => void

export interface CheckpointReader {
  readonly header: CheckpointHeader
  readonly pages: readonly CheckpointPage[]
  /**
   * Calls back for every stored chunk of every page, or of those that are wanted; chunks of zeros may be left
   * out.
   */
  load(onChunk: OnChunk, wants?: (pageId: number) => boolean): void
  /** The same, to be interrupted between two pieces of about 1 MiB. */
  loading(onChunk: OnChunk, wants?: (pageId: number) => boolean): Generator<undefined, void>
  close(): void
}

/** What recovery found and did. `notes` are lines for people. */
export interface RecoveryReport {
  readonly newestEpoch: number
  /** Undefined: recovery starts from the empty state. */
  readonly checkpointEpoch: number | undefined
  readonly tornBytes: number
  readonly notes: readonly string[]
  /** The row of the recovery table that applied (src/store/recovery/table.ts). */
  readonly row: string
}

/** One row of the log index: whole records of one segment, one after another. */
export interface IndexBlock {
  /** First epoch of the segment that holds the block; names the segment. */
  readonly segment: number
  readonly offset: number
  readonly end: number
  readonly firstEpoch: number
  readonly lastEpoch: number
  /** Ids of the pages touched, packed (src/store/log/index-blocks.ts); undefined: any page. */
  readonly pages: Uint8Array | undefined
}

/** What opening the catalog found. `lost`: there was none, or it could not be trusted and was set aside. */
export type CatalogFindings =
  | { readonly state: 'lost'; readonly why: string }
  | {
      readonly state: 'read'
      readonly busId: string
      /** Newest epoch that the log index covers, 0 for none. */
      readonly lastEpoch: number
      readonly checkpoints: readonly CheckpointInfo[]
    }

/** The catalog: log index and list of checkpoints. It can be rebuilt, so losing it loses no data. */
export interface Catalog {
  open(): Promise<CatalogFindings>
  /**
   * Names the bus that the catalog belongs to; must be called once before anything is added. `anew` forgets
   * all rows.
   */
  begin(busId: string, anew: boolean): Promise<void>
  addBlocks(blocks: readonly IndexBlock[]): Promise<void>
  clearBlocks(): Promise<void>
  /** The block that holds the epoch, or undefined. Rejects when the row is damaged. */
  blockOf(epoch: number): Promise<IndexBlock | undefined>
  /** Forgets blocks whose epochs all come before this one. */
  dropBlocksBefore(epoch: number): Promise<void>
  addCheckpoint(info: CheckpointInfo): Promise<void>
  removeCheckpoint(epoch: number): Promise<void>
  close(): Promise<void>
}

/**
 * How much of the past is kept. Absent: no limit of that kind. History beyond any one of the limits may be
 * removed.
 */
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
  /** Microseconds from the start of an append until it is durable, of the newest appends. */
  readonly appendUs: TimingStats
  /** Newest epoch that the index covers. */
  readonly indexedEpoch: number
  readonly failure: string | null
}
