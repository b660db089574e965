/**
 * What the store keeps and gives back, and the doors to the outside it is handed. Types only.
 * The store knows epochs, frames as opaque bytes, page ids and chunks; it knows nothing of graphs or ops.
 */

export type FsyncPolicy = 'always' | 'interval' | 'off'

/** One epoch in the log. */
export interface LogRecord {
  readonly epoch: number
  /** Milliseconds since 1970, from the injected clock. Never decreases from one epoch to the next. */
  readonly timestampMs: number
  /** 16 bytes: the digest of the state before this epoch. */
  readonly digestBefore: Uint8Array
  readonly frameCount: number
  /** The frames, one after another (docs/FORMAT.md). */
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
  /** Bytes [offset, offset + length) of a page as of the checkpoint's epoch; length <= 1 MiB. */
  read(pageId: number, offset: number, length: number): Uint8Array
}

export interface CheckpointInfo {
  readonly epoch: number
  readonly pages: number
  /** Bytes of all pages. */
  readonly bytes: number
  /** Bytes written to disk for this checkpoint. */
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
}
