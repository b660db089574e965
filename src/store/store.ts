/**
 * The store: one data folder with its log, index and checkpoints.
 *
 *   lock.db            held while the folder is open
 *   history.json       which history the epochs belong to
 *   log/*.seg          the log; the only source of truth
 *   catalog.db         the index of the log and the list of checkpoints; rebuilt when lost
 *   checkpoints/*.db   immutable full states
 *
 * Invariants: an append that has resolved under `always` survives a crash. The index and the list of
 * checkpoints only name what is durable. Opening follows the recovery table and, where that refuses, changes
 * nothing. Knows nothing of frames' contents, graphs or ops.
 * Null because StoreStats, a public type, promises it.
 */
import path from 'node:path'
import { MmsbError } from '../errors.js'
import { SEGMENT_HEADER_BYTES } from '../limits.js'
import { Slices } from '../slices.js'
import { type CheckpointFile, openCheckpointFile } from './checkpoint/file-reader.js'
import { CheckpointList } from './checkpoint-list.js'
import { HistoryFile } from './history-file.js'
import { openLog, readForward, recordsAfter, type SegmentEntry, segmentOf, spansOf } from './log/log.js'
import { LogIndex, type PlacedRecord } from './log/log-index.js'
import type { SegmentHeader } from './log/record.js'
import { segmentName } from './log/segment-file.js'
import type { SegmentWriter, SegmentWriterOptions } from './log/segment-writer.js'
import { finishCut } from './offline/cut.js'
import { interruptedRestore } from './offline/restore.js'
import { type StoreDeps, type StoreOptions, withDefaults } from './options.js'
import { makeDurableDirs } from './os/disk.js'
import { busFailed, textOf } from './os/errors.js'
import { type FileIdentity, type FolderLock, PARTS } from './os/lock.js'
import { opennessOf } from './os/private-files.js'
import type { ReadableStore } from './read-only.js'
import { type FolderFindings, inspectFolder } from './recovery/inspect.js'
import { anchorOf } from './retention.js'
import type {
  Catalog,
  CheckpointInfo,
  CheckpointReader,
  CheckpointSource,
  LogRecord,
  RecoveryReport,
  RetentionLimits,
  StoreStats,
} from './types.js'

/** What stays open with the store. */
interface Opened {
  readonly deps: StoreDeps
  readonly catalog: Catalog
  readonly lock: FolderLock
}

export class Store implements ReadableStore {
  readonly busId: string
  /** The folder, an absolute path. */
  readonly dir: string
  /** What `dir` led to when it was locked. */
  readonly identity: FileIdentity | undefined
  readonly recovery: RecoveryReport
  readonly #deps: StoreDeps
  readonly #catalog: Catalog
  readonly #lock: FolderLock
  readonly #segments: SegmentEntry[]
  readonly #index: LogIndex
  readonly #checkpoints: CheckpointList
  #writer!: SegmentWriter
  #history!: HistoryFile
  /** The checkpoint that recovery opened, until openCheckpoint hands it out. */
  #opened: CheckpointFile | undefined
  #closing: Promise<void> | undefined
  #onFailed: ((error: MmsbError) => void) | undefined

  /** For Store.open only. */
  constructor(opened: Opened, found: FolderFindings, index: LogIndex, busId: string) {
    const { deps, catalog, lock } = opened
    this.#deps = deps
    this.#catalog = catalog
    this.#lock = lock
    this.dir = deps.dir
    this.identity = lock.identity
    this.#index = index
    this.#segments = found.log.segments
    this.#opened = found.checkpoint
    this.busId = busId
    const checkpointEpoch = found.checkpoint?.header.epoch
    this.#checkpoints = new CheckpointList(
      {
        busId,
        catalog,
        startThread: deps.startCheckpointThread,
        keptMax: deps.checkpointsKept,
        pieceBytes: deps.checkpointPieceBytes,
        notify: deps.notify,
      },
      found.checkpoints,
      checkpointEpoch,
    )
    this.recovery = {
      newestEpoch: found.log.newestEpoch,
      checkpointEpoch,
      tornBytes: found.log.tornBytes,
      notes: found.notes,
      row: found.row.row,
    }
    this.#index.indexedEpoch = found.indexedEpoch
  }

  // ---- opening -----------------------------------------------------------------------------------

  /**
   * Takes the lock and recovers. Throws FOLDER_LOCKED when the folder is in use, BUS_FAILED when it is
   * damaged or not writable.
   */
  static async open(options: StoreOptions): Promise<Store> {
    const deps = withDefaults(options)
    if (interruptedRestore(deps.disk, deps.dir))
      throw busFailed(`${deps.dir} holds an interrupted restore; restore it again`)
    try {
      await makeDurableDirs(deps.disk, deps.dir, PARTS)
      // An earlier process may have named a file and not synced its name. openLog does the same for the log.
      await deps.disk.syncDir(deps.checkpointDir)
    } catch (error) {
      throw busFailed(`the data folder ${deps.dir} cannot be used: ${textOf(error)}`, error)
    }
    const lock = deps.lock(deps.dir)
    try {
      await finishCut(deps)
    } catch (error) {
      lock.release()
      throw error
    }
    const catalog = deps.openCatalog()
    try {
      return await Store.#recover({ deps, catalog, lock }, new Slices(options.signal, options.ticksMs))
    } catch (error) {
      await catalog.close()
      lock.release()
      options.signal?.throwIfAborted()
      throw error instanceof MmsbError
        ? error
        : busFailed(`the store cannot be opened: ${textOf(error)}`, error)
    }
  }

  static async #recover(opened: Opened, slices: Slices): Promise<Store> {
    const { deps, catalog } = opened
    let ready: Store | undefined
    const index = new LogIndex({
      catalog,
      onNotice: deps.notify,
      durableEpoch: () => (ready === undefined ? 0 : ready.#writer.durableEpoch),
      scan: (from, to) => (ready === undefined ? noRecords() : ready.#placed(from, to)),
    })
    const parts = { log: deps, checkpoints: deps.checkpointFolder, catalog }
    const found = await inspectFolder(parts, (placed) => index.add(placed), slices)
    if (found.row.action === 'refuse') {
      found.checkpoint?.close()
      throw busFailed(`the data folder ${deps.dir} is not safe to open: ${found.refusal}`)
    }
    const busId = found.log.busId ?? Buffer.from(deps.random(16)).toString('hex')
    const store = new Store(opened, found, index, busId)
    try {
      store.#writer = await openLog(store.#writerOptions(), found.log, store.#segments)
      const { disk, dir, fsync, random, notify } = deps
      store.#history = await HistoryFile.open({ disk, dir, fsync, random, notify, busId })
      ready = store
      await store.#startIndex(found)
    } catch (error) {
      found.checkpoint?.close()
      await store.#writer?.close()
      throw error
    }
    for (const note of found.notes) deps.notify('warn', note)
    const openness = opened.lock.identity === undefined ? undefined : opennessOf(deps.dir)
    if (openness !== undefined) deps.notify('warn', openness)
    opened.lock.watch(store.#writer)
    return store
  }

  /** Inspection has indexed the last segment; epochs of earlier segments are indexed in the background. */
  async #startIndex(found: FolderFindings): Promise<void> {
    try {
      await this.#catalog.begin(this.busId, found.isIndexLost)
      for (const checkpoint of this.#checkpoints.all()) await this.#catalog.addCheckpoint(checkpoint)
    } catch (error) {
      this.#index.fail(error)
      return
    }
    const first = this.#segments.at(-1)?.header.firstEpoch ?? 1
    this.#index.catchUp(found.indexedEpoch + 1, first - 1)
  }

  #writerOptions(): SegmentWriterOptions {
    const { disk, logDir, crc32c, fsync, clock, random, setTimer, segmentBytes, notify } = this.#deps
    return {
      disk,
      logDir,
      crc32c,
      fsync,
      clock,
      random,
      setTimer,
      segmentBytes,
      busId: this.busId,
      lost: () => this.#lock.lost(),
      onAppended: (record, segment, offset, byteLength) => {
        const last = this.#segments.at(-1)
        if (last !== undefined) last.end = offset + byteLength
        this.#index.add({ segment: segment.firstEpoch, offset, byteLength, record })
      },
      onVoided: (end) => {
        const last = this.#segments.at(-1)
        if (last !== undefined) last.end = end
      },
      onRotated: (next, previousEnd) => this.#rotated(next, previousEnd),
      onFailed: (error) => {
        notify('error', error.message)
        this.#onFailed?.(error)
      },
    }
  }

  #rotated(next: SegmentHeader, previousEnd: number): void {
    const last = this.#segments.at(-1)
    if (last !== undefined) last.end = previousEnd
    this.#index.endSegment()
    const file = path.join(this.#deps.logDir, segmentName(next.firstEpoch))
    this.#segments.push({ header: next, file, end: SEGMENT_HEADER_BYTES })
  }

  /** Throws BUS_FAILED, for good, when the folder is no longer the one that was opened. */
  refuseWhenLost(): void {
    this.#writer.checkHeld()
    if (this.#writer.failure !== undefined) throw this.#writer.failure
  }

  /** Calls back when the store stops. A sync may fail while no append is waiting. */
  onFailed(listener: (error: MmsbError) => void): void {
    this.#onFailed = listener
  }

  // ---- what it holds -----------------------------------------------------------------------------

  /** Why the store has stopped taking appends, if it has. */
  get failure(): string | undefined {
    return this.#writer.failure?.message
  }

  /** The history that its epochs belong to: `<bus id>.<generation>`. */
  get history(): string {
    return this.#history.name
  }

  get newestEpoch(): number {
    return this.#writer.newestEpoch
  }

  /** Bytes of records appended since the start. */
  get appendedBytes(): number {
    return this.#writer.appendedBytes
  }

  /** Oldest epoch whose record can be read; newest + 1 when there is none. */
  get minEpoch(): number {
    return this.#segments[0]?.header.firstEpoch ?? this.newestEpoch + 1
  }

  /** Bytes of the log that hold the epochs after this one, counted in whole segments. */
  bytesSince(epoch: number): number {
    const after = spansOf(this.#segments).filter(({ lastEpoch }) => lastEpoch > epoch)
    return after.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  stats(): StoreStats {
    const writer = this.#writer
    let bytes = 0
    for (const segment of this.#segments) bytes += segment.end
    return {
      bytes,
      segments: this.#segments.length,
      records: writer.appended,
      minEpoch: this.minEpoch,
      newestEpoch: writer.newestEpoch,
      durableEpoch: writer.durableEpoch,
      appendUs: writer.durations.stats(),
      indexedEpoch: this.#index.indexedEpoch,
      failure: this.failure ?? null,
    }
  }

  // ---- recovery ----------------------------------------------------------------------------------

  /**
   * The newest usable checkpoint, completely verified; undefined when the log must be replayed from its
   * beginning.
   */
  openCheckpoint(): CheckpointReader | undefined {
    const epoch = this.recovery.checkpointEpoch
    if (epoch === undefined) return undefined
    const opened = this.#opened ?? openCheckpointFile(this.#deps.checkpointFolder, epoch, this.busId)
    this.#opened = undefined
    if (typeof opened === 'string') throw busFailed(`checkpoint ${epoch} cannot be read any more: ${opened}`)
    return opened
  }

  /**
   * Every record with an epoch above `fromEpoch`, in order, checksums verified. A record is a view into a
   * buffer and valid until the next one is requested. Throws BUS_FAILED when the log is damaged,
   * EPOCH_COMPACTED when it begins later.
   */
  records(fromEpoch: number): Iterable<LogRecord> {
    if (fromEpoch >= this.newestEpoch) return []
    this.#refuseCompacted(fromEpoch + 1)
    return recordsAfter(this.#deps, this.#segments, fromEpoch, this.newestEpoch)
  }

  // ---- appends -----------------------------------------------------------------------------------

  /**
   * Makes room for the next record, of `bytes` bytes of frames; begins a new segment if needed. Returns
   * undefined when there is room already. Throws LOG_FULL with nothing changed.
   */
  reserve(bytes: number): Promise<void> | undefined {
    // A frame takes at least 16 bytes for each page it touches, so a quarter more is room for the page ids.
    return this.#writer.reserve(bytes + (bytes >> 2))
  }

  /**
   * Appends one record. Resolves when it is durable (`always`), else when it is written. Rejects with
   * BUS_FAILED.
   */
  append(record: LogRecord): Promise<void> {
    return this.#writer.append(record)
  }

  /**
   * Writes, durably and before it returns, that the newest epoch changes nothing: it was cancelled. There is
   * always room for it. Throws BUS_FAILED.
   */
  appendVoid(epoch: number, timestampMs: number): void {
    this.#writer.appendVoid(epoch, timestampMs)
  }

  /**
   * Makes the append in flight durable before it returns, by writing the same bytes to the same place again.
   * The promise of the append settles later; the next append need not wait for it. Throws BUS_FAILED.
   */
  completeSync(): void {
    this.#writer.completeSync()
  }

  // ---- reading back ------------------------------------------------------------------------------

  /** The record of an epoch. Throws EPOCH_NOT_FOUND, EPOCH_COMPACTED. */
  async read(epoch: number): Promise<LogRecord> {
    for await (const record of this.range(epoch, epoch)) return record
    throw new MmsbError(
      'EPOCH_NOT_FOUND',
      `Epoch ${epoch} is not in the log; the newest is ${this.newestEpoch}.`,
    )
  }

  /** Records of epochs from..to, both included, ascending; ends at the newest. Records own their bytes. */
  async *range(from: number, to: number): AsyncGenerator<LogRecord> {
    this.#refuseCompacted(from)
    for await (const { record } of this.#placed(from, to)) yield record
  }

  /** Records with their places. */
  async *#placed(from: number, to: number): AsyncGenerator<PlacedRecord & { record: LogRecord }> {
    const segments = this.#segments
    const last = Math.min(to, this.newestEpoch)
    for (let epoch = Math.max(from, this.minEpoch); epoch <= last; ) {
      const index = segmentOf(segments, epoch)
      const entry = segments[index]
      if (entry === undefined) return
      const segment = entry.header.firstEpoch
      const segmentLast = Math.min(last, (segments[index + 1]?.header.firstEpoch ?? last + 1) - 1)
      const block = epoch === segment ? undefined : await this.#index.blockOf(epoch)
      const start = block?.segment === segment ? block : { offset: SEGMENT_HEADER_BYTES, firstEpoch: segment }
      for await (const found of readForward(this.#deps, entry, start.offset, start.firstEpoch, segmentLast)) {
        if (found.record.epoch >= epoch) yield { segment, ...found }
      }
      epoch = segmentLast + 1
    }
  }

  #refuseCompacted(epoch: number): void {
    const minEpoch = this.minEpoch
    if (epoch < minEpoch) {
      throw new MmsbError('EPOCH_COMPACTED', `Epoch ${epoch} is no longer in the log.`, { minEpoch })
    }
  }

  /** Builds the log index again from the log. */
  rebuildIndex(): Promise<void> {
    return this.#index.rebuild()
  }

  // ---- checkpoints and retention -----------------------------------------------------------------

  /** The usable checkpoints, oldest first. */
  checkpoints(): CheckpointInfo[] {
    return this.#checkpoints.all()
  }

  /**
   * Writes a checkpoint in its own thread and enters it in the catalog. Chunks that an older checkpoint holds
   * are referred to, not written again. The source is read in bounded pieces, between which the event loop
   * runs; its `onRead` is called when it is no longer needed. One checkpoint is written at a time; one that
   * exists is not written again. Throws LOG_FULL when the disk is full, BUS_FAILED when the store has
   * stopped.
   */
  checkpoint(source: CheckpointSource): Promise<CheckpointInfo> {
    return this.#checkpoints.inTurn(async () => {
      if (this.#closing !== undefined) throw busFailed('the store is closed')
      this.refuseWhenLost()
      const { epoch } = source.header
      if (epoch > this.newestEpoch) {
        throw new MmsbError('INTERNAL', `checkpoint of epoch ${epoch}, which is not in the log`)
      }
      return this.#checkpoints.write(source, () => {
        // The file gets its name next.
        this.refuseWhenLost()
        return this.#writer.sync()
      })
    })
  }

  /**
   * Removes what the limits do not keep: segments of the log up to a checkpoint, and the checkpoints before
   * that one. Keeps everything from the second newest verified checkpoint on, and from the lowest epoch that
   * readers need (`lowestNeeded`). Returns the number of segments removed.
   */
  retain(limits: RetentionLimits, lowestNeeded?: () => number | undefined): Promise<number> {
    return this.#checkpoints.inTurn(async () => {
      if (this.#closing !== undefined) return 0
      this.#writer.checkHeld()
      if (this.#writer.failure !== undefined) return 0
      const anchor = await this.#checkpoints.removeBefore(() => this.#anchor(limits, lowestNeeded?.()))
      return anchor === undefined ? 0 : this.#dropSegments(anchor)
    })
  }

  #anchor(limits: RetentionLimits, neededEpoch: number | undefined): number | undefined {
    return anchorOf({
      limits,
      nowMs: this.#deps.clock(),
      newestEpoch: this.newestEpoch,
      segments: spansOf(this.#segments),
      checkpoints: this.#checkpoints.epochs(),
      neededEpoch,
    })
  }

  /** Oldest first, each removal durable before the next, so that a crash leaves no gap. */
  async #dropSegments(anchor: number): Promise<number> {
    const { disk, logDir } = this.#deps
    let removed = 0
    for (;;) {
      const [first, second] = this.#segments
      if (first === undefined || second === undefined || second.header.firstEpoch > anchor + 1) break
      this.refuseWhenLost()
      this.#segments.shift()
      disk.remove(first.file)
      await disk.syncDir(logDir)
      removed++
    }
    await this.#catalog.dropBlocksBefore(this.minEpoch).catch(() => {})
    return removed
  }

  // ---- closing -----------------------------------------------------------------------------------

  /** Finishes what is in flight, seals the log, gives back unused room and releases the lock. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#opened?.close()
    await this.#checkpoints.close()
    try {
      await this.#writer.close()
      if (this.#writer.failure === undefined) await this.#history.close()
    } finally {
      await this.#index.close()
      this.#lock.release()
    }
  }
}

async function* noRecords(): AsyncGenerator<PlacedRecord> {}
