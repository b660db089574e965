/**
 * The store: one data folder with its log, index and checkpoints.
 *
 *   lock.db            held while the folder is open
 *   log/*.seg          the log; the only truth
 *   catalog.db         the index of the log and the list of checkpoints; rebuilt when lost
 *   checkpoints/*.db   immutable full states
 *
 * Invariants: an append that has resolved under `always` survives a crash; the index and the list of checkpoints only
 * ever name what is durable; opening decides by the recovery table and, where it refuses, changes nothing. Knows nothing
 * of frames' contents, graphs or ops.
 */
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { MmsbError } from '../errors.js'
import { CHECKPOINTS_KEPT, SEGMENT_BYTES, SEGMENT_HEADER_BYTES } from '../limits.js'
import { catalogIn } from './catalog/catalog.js'
import { bytesOf, writeCheckpoint } from './checkpoint/feed-pages.js'
import { type CheckpointFile, openCheckpointFile } from './checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointFolder } from './checkpoint/folder.js'
import { type CheckpointThread, startCheckpointThread } from './checkpoint/thread.js'
import {
  type LogFolder,
  openLog,
  readForward,
  recordsAfter,
  type SegmentEntry,
  segmentOf,
} from './log/log.js'
import { LogIndex, type PlacedRecord } from './log/log-index.js'
import type { SegmentHeader } from './log/record.js'
import { type SegmentWriter, type SegmentWriterOptions, segmentName } from './log/segment-writer.js'
import { makeDurableDir, realDisk } from './os/disk.js'
import { busFailed, textOf } from './os/errors.js'
import { lockFolder } from './os/lock.js'
import { type FolderFindings, inspectFolder } from './recovery/inspect.js'
import { anchorOf, thinned } from './retention.js'
import type {
  Catalog,
  CheckpointInfo,
  CheckpointReader,
  CheckpointSource,
  LogRecord,
  Notice,
  RecoveryReport,
  RetentionLimits,
  StoreOptions,
  StoreStats,
} from './types.js'

function defaultTimer(callback: () => void, delayMs: number): () => void {
  const timer = setTimeout(callback, delayMs)
  timer.unref()
  return () => clearTimeout(timer)
}

/** What `open` gathers before there is a store. */
interface StoreDeps {
  readonly options: StoreOptions
  readonly place: LogFolder
  readonly checkpoints: CheckpointFolder
  readonly checkpointThread: () => CheckpointThread
  readonly catalog: Catalog
  readonly unlock: () => void
}

export class Store {
  readonly busId: string
  readonly recovery: RecoveryReport
  readonly #deps: StoreDeps
  readonly #segments: SegmentEntry[]
  readonly #index: LogIndex
  #tail!: SegmentWriter
  #checkpoints: CheckpointInfo[]
  #opened: CheckpointFile | null
  /** Epochs of checkpoints that this process has read back wholly. */
  readonly #verified = new Set<number>()
  /** Settles when the checkpoints asked for so far are written. */
  #writing: Promise<unknown> = Promise.resolve()
  /** Begun with the first job, ended at close or when one fails. */
  #host: CheckpointThread | undefined
  #closing: Promise<void> | undefined
  #onFailed: ((error: MmsbError) => void) | undefined

  private constructor(deps: StoreDeps, found: FolderFindings, index: LogIndex, busId: string) {
    this.#deps = deps
    this.#index = index
    this.#segments = found.log.segments
    this.#checkpoints = found.checkpoints.sort((a, b) => a.epoch - b.epoch)
    this.#opened = found.checkpoint
    if (found.checkpoint !== null) this.#verified.add(found.checkpoint.header.epoch)
    this.busId = busId
    this.recovery = {
      newestEpoch: found.log.newestEpoch,
      checkpointEpoch: found.checkpoint?.header.epoch ?? null,
      tornBytes: found.log.tornBytes,
      notes: found.notes,
      row: found.row.row,
    }
    this.#index.indexedEpoch = found.indexedEpoch
  }

  /** Takes the lock and recovers. Throws BUS_FAILED when the folder is in use, damaged or not writable. */
  static async open(options: StoreOptions): Promise<Store> {
    const disk = options.disk ?? realDisk(options.allocate)
    const place = { disk, logDir: path.join(options.dir, 'log'), crc32c: options.crc32c }
    const checkpointDir = path.join(options.dir, 'checkpoints')
    try {
      await makeDurableDir(disk, place.logDir)
      await makeDurableDir(disk, checkpointDir)
    } catch (error) {
      throw busFailed(`the data folder ${options.dir} cannot be used: ${textOf(error)}`, error)
    }
    const unlock = (options.lock ?? lockFolder)(options.dir)
    const catalog = options.catalog ?? catalogIn(options.dir)
    try {
      const checkpoints = options.checkpointFolder ?? checkpointFolder(checkpointDir)
      const checkpointThread = options.checkpointThread ?? (() => startCheckpointThread(checkpointDir))
      return await Store.#recover({ options, place, checkpoints, checkpointThread, catalog, unlock })
    } catch (error) {
      await catalog.close()
      unlock()
      throw error instanceof MmsbError
        ? error
        : busFailed(`the store cannot be opened: ${textOf(error)}`, error)
    }
  }

  static async #recover(deps: StoreDeps): Promise<Store> {
    const { options, place, checkpoints, catalog } = deps
    let opened: Store | undefined
    const index = new LogIndex({
      catalog,
      onNotice: (level, message) => options.onNotice?.({ level, message }),
      durableEpoch: () => (opened === undefined ? 0 : opened.#tail.durableEpoch),
      scan: (from, to) => (opened === undefined ? noRecords() : opened.#placed(from, to)),
    })
    const found = await inspectFolder({ log: place, checkpoints, catalog }, (placed) => index.add(placed))
    if (found.row.action === 'refuse') {
      found.checkpoint?.close()
      throw busFailed(`the data folder ${options.dir} is not safe to open: ${found.refusal}`)
    }
    const random = options.random ?? ((length: number) => new Uint8Array(randomBytes(length)))
    const busId = found.log.busId ?? Buffer.from(random(16)).toString('hex')
    const store = new Store(deps, found, index, busId)
    try {
      store.#tail = await openLog(store.#tailOptions(random), found.log, store.#segments)
      opened = store
      await store.#startIndex(found)
    } catch (error) {
      found.checkpoint?.close()
      await store.#tail?.close()
      throw error
    }
    for (const note of found.notes) store.#notice('warn', note)
    return store
  }

  /** The last segment's records are in hand; those of earlier segments are fetched in the background. */
  async #startIndex(found: FolderFindings): Promise<void> {
    const { catalog } = this.#deps
    try {
      await catalog.begin(this.busId, found.indexAnew)
      for (const checkpoint of this.#checkpoints) await catalog.addCheckpoint(checkpoint)
    } catch (error) {
      this.#index.fail(error)
      return
    }
    const first = this.#segments.at(-1)?.header.firstEpoch ?? 1
    this.#index.catchUp(found.indexedEpoch + 1, first - 1)
  }

  #tailOptions(random: (length: number) => Uint8Array): SegmentWriterOptions {
    const { options, place } = this.#deps
    return {
      disk: place.disk,
      logDir: place.logDir,
      crc32c: place.crc32c,
      fsync: options.fsync,
      clock: options.clock ?? Date.now,
      random,
      setTimer: options.setTimer ?? defaultTimer,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      busId: this.busId,
      onAppended: (record, segment, offset, byteLength) => {
        const last = this.#segments.at(-1)
        if (last !== undefined) last.end = offset + byteLength
        this.#index.add({ segment: segment.firstEpoch, offset, byteLength, record })
      },
      onRotated: (next, previousEnd) => this.#rotated(next, previousEnd),
      onFailed: (error) => {
        this.#notice('error', error.message)
        this.#onFailed?.(error)
      },
    }
  }

  #rotated(next: SegmentHeader, previousEnd: number): void {
    const last = this.#segments.at(-1)
    if (last !== undefined) last.end = previousEnd
    this.#index.endSegment()
    const file = path.join(this.#deps.place.logDir, segmentName(next.firstEpoch))
    this.#segments.push({ header: next, file, end: SEGMENT_HEADER_BYTES })
  }

  #notice(level: Notice['level'], message: string): void {
    this.#deps.options.onNotice?.({ level, message })
  }

  /** Who is told when the store stops: a sync may fail while nobody appends. */
  onFailed(listener: (error: MmsbError) => void): void {
    this.#onFailed = listener
  }

  /** Why the store has stopped taking appends, or null. */
  get failure(): string | null {
    return this.#tail.failure?.message ?? null
  }

  get newestEpoch(): number {
    return this.#tail.newestEpoch
  }

  /** Bytes of records appended since the start. */
  get appendedBytes(): number {
    return this.#tail.appendedBytes
  }

  /** Oldest epoch whose record can be read; newest + 1 when there is none. */
  get minEpoch(): number {
    return this.#segments[0]?.header.firstEpoch ?? this.newestEpoch + 1
  }

  /** Bytes of the log that hold the epochs after this one, counted in whole segments. */
  bytesSince(epoch: number): number {
    let bytes = 0
    for (const [i, { end }] of this.#segments.entries()) {
      const next = this.#segments[i + 1]
      if (next === undefined || next.header.firstEpoch > epoch + 1) bytes += end
    }
    return bytes
  }

  /** The newest usable checkpoint, wholly verified, or null when the log is to be replayed from its beginning. */
  openCheckpoint(): CheckpointReader | null {
    const epoch = this.recovery.checkpointEpoch
    if (epoch === null) return null
    const ready = this.#opened ?? openCheckpointFile(this.#deps.checkpoints, epoch, this.busId)
    this.#opened = null
    if (typeof ready === 'string') throw busFailed(`checkpoint ${epoch} cannot be read any more: ${ready}`)
    return ready
  }

  /**
   * Every record with an epoch above `fromEpoch`, in order, checksums verified. A record is a view into a buffer that is
   * good until the next is asked for. Throws BUS_FAILED at damage, EPOCH_COMPACTED when the log begins later.
   */
  records(fromEpoch: number): Iterable<LogRecord> {
    const { place } = this.#deps
    if (fromEpoch >= this.newestEpoch) return []
    this.#refuseCompacted(fromEpoch + 1)
    return recordsAfter(place, this.#segments, fromEpoch, this.newestEpoch)
  }

  /**
   * Makes sure that the next record, of `bytes` bytes of frames, has room, beginning a new segment when it has not.
   * Returns nothing when there is room already. Throws LOG_FULL with nothing changed.
   */
  reserve(bytes: number): Promise<void> | undefined {
    // A frame takes at least 16 bytes for each page it touches, so a quarter more is room for the page ids.
    return this.#tail.reserve(bytes + (bytes >> 2))
  }

  /** Appends one record. Resolves when it is durable (`always`), else when it is written. Rejects with BUS_FAILED. */
  append(record: LogRecord): Promise<void> {
    return this.#tail.append(record)
  }

  /**
   * Makes the append in flight durable before it returns, by writing the same bytes to the same place once more. The
   * promise of the append settles later, and the next append need not wait for it. Throws BUS_FAILED.
   */
  completeSync(): void {
    this.#tail.completeSync()
  }

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
      const block = epoch === segment ? null : await this.#index.blockOf(epoch)
      const start = block?.segment === segment ? block : { offset: SEGMENT_HEADER_BYTES, firstEpoch: segment }
      const { place } = this.#deps
      for await (const found of readForward(place, entry, start.offset, start.firstEpoch, segmentLast)) {
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

  /**
   * Writes a checkpoint in a thread of its own and enters it in the catalogue; what an older one holds already is referred
   * to. The source is read in bounded pieces, between which the event loop runs; it says through `onRead` when it is needed
   * no more. One at a time. A checkpoint that is there already is not written again. Throws LOG_FULL when the disk is full,
   * BUS_FAILED when the store has stopped.
   */
  checkpoint(source: CheckpointSource): Promise<CheckpointInfo> {
    return this.#inTurn(() => this.#writeCheckpoint(source))
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#writing.then(work)
    this.#writing = done.catch(() => {})
    return done
  }

  async #writeCheckpoint(source: CheckpointSource): Promise<CheckpointInfo> {
    if (this.#tail.failure !== null) throw this.#tail.failure
    if (this.#closing !== undefined) throw busFailed('the store is closed')
    const { epoch } = source.header
    if (epoch > this.newestEpoch) {
      throw new MmsbError('INTERNAL', `checkpoint of epoch ${epoch}, which is not in the log`)
    }
    const known = this.#checkpoints.find((checkpoint) => checkpoint.epoch === epoch)
    if (known !== undefined) {
      source.onRead?.()
      return { ...known, pages: source.pages.length, bytes: bytesOf(source.pages), newBytes: 0, ms: 0 }
    }
    return this.#withHost(async (host) => {
      const info = await writeCheckpoint({
        host,
        busId: this.busId,
        base: this.#checkpoints.at(-1)?.epoch ?? null,
        source,
        syncLog: () => this.#tail.sync(),
        onNotice: (message) => this.#notice('warn', message),
      })
      this.#checkpoints = [...this.#checkpoints, info]
      await this.#deps.catalog.addCheckpoint(info).catch((error: unknown) => {
        this.#notice('warn', `the catalogue could not list checkpoint ${epoch}: ${textOf(error)}`)
      })
      const epochs = this.#checkpoints.map((checkpoint) => checkpoint.epoch)
      await this.#keepCheckpoints(
        host,
        thinned(epochs, this.#deps.options.checkpointsKept ?? CHECKPOINTS_KEPT),
      )
      return info
    })
  }

  async #withHost<T>(work: (host: CheckpointThread) => Promise<T>): Promise<T> {
    this.#host ??= this.#deps.checkpointThread()
    try {
      return await work(this.#host)
    } catch (error) {
      await this.#endHost()
      throw error
    }
  }

  async #endHost(): Promise<void> {
    const host = this.#host
    this.#host = undefined
    await host?.end()
  }

  /** Forgets the other checkpoints, and removes the files that nobody needs then. */
  async #keepCheckpoints(host: CheckpointThread, epochs: readonly number[]): Promise<void> {
    const kept = new Set(epochs)
    try {
      for (const { epoch } of this.#checkpoints) {
        if (!kept.has(epoch)) await this.#deps.catalog.removeCheckpoint(epoch).catch(() => {})
      }
      this.#checkpoints = this.#checkpoints.filter(({ epoch }) => kept.has(epoch))
      await host.ask({ type: 'collect', epochs })
    } catch (error) {
      this.#notice('warn', `old checkpoints could not be removed: ${textOf(error)}`)
    }
  }

  /**
   * Lets go what the limits do not keep: segments of the log behind a checkpoint, and the checkpoints before it; never
   * beyond the second newest verified checkpoint or the lowest epoch that `lowestNeeded` says readers need. Returns the
   * number of segments that went.
   */
  retain(limits: RetentionLimits, lowestNeeded?: () => number | undefined): Promise<number> {
    return this.#inTurn(async () => {
      if (this.#tail.failure !== null || this.#closing !== undefined) return 0
      const anchorNow = (): number | undefined => this.#anchor(limits, lowestNeeded?.())
      if (anchorNow() === undefined) return 0
      return this.#withHost(async (host) => {
        const anchor = await this.#verifiedAnchor(host, anchorNow)
        if (anchor === undefined) return 0
        const epochs = this.#checkpoints.map(({ epoch }) => epoch)
        await this.#keepCheckpoints(
          host,
          epochs.filter((epoch) => epoch >= anchor),
        )
        return this.#dropSegments(anchor)
      })
    })
  }

  #anchor(limits: RetentionLimits, neededEpoch: number | undefined): number | undefined {
    const { newestEpoch } = this
    const segments = this.#segments.map(({ header, end }, i) => ({
      firstEpoch: header.firstEpoch,
      lastEpoch: (this.#segments[i + 1]?.header.firstEpoch ?? Number.POSITIVE_INFINITY) - 1,
      bytes: end,
      createdMs: header.createdMs,
    }))
    const checkpoints = this.#checkpoints.map(({ epoch }) => epoch)
    const nowMs = (this.#deps.options.clock ?? Date.now)()
    return anchorOf({ limits, nowMs, newestEpoch, segments, checkpoints, neededEpoch })
  }

  /** Reads the anchor and the two newest checkpoints back; one that is not sound is counted out. */
  async #verifiedAnchor(
    host: CheckpointThread,
    anchorNow: () => number | undefined,
  ): Promise<number | undefined> {
    for (;;) {
      const anchor = anchorNow()
      if (anchor === undefined) return undefined
      const unread = [anchor, ...this.#checkpoints.slice(-2).map(({ epoch }) => epoch)].find(
        (epoch) => !this.#verified.has(epoch),
      )
      if (unread === undefined) return anchor
      const why = await host.ask({ type: 'verify', epoch: unread, busId: this.busId })
      if (why === null) this.#verified.add(unread)
      else {
        this.#notice('error', `checkpoint ${unread} is not sound and is not counted: ${String(why)}`)
        this.#checkpoints = this.#checkpoints.filter(({ epoch }) => epoch !== unread)
      }
    }
  }

  /** Oldest first, each removal durable before the next, so that a crash leaves no gap. */
  async #dropSegments(anchor: number): Promise<number> {
    const { place, catalog } = this.#deps
    let gone = 0
    for (;;) {
      const [first, second] = this.#segments
      if (first === undefined || second === undefined || second.header.firstEpoch > anchor + 1) break
      this.#segments.shift()
      place.disk.remove(first.file)
      await place.disk.syncDir(place.logDir)
      gone++
    }
    await catalog.dropBlocksBefore(this.minEpoch).catch(() => {})
    return gone
  }

  /** Checkpoints that can be used, oldest first. */
  checkpoints(): CheckpointInfo[] {
    return [...this.#checkpoints]
  }

  /** Makes the log index again from the log. */
  rebuildIndex(): Promise<void> {
    return this.#index.rebuild()
  }

  stats(): StoreStats {
    const tail = this.#tail
    let bytes = 0
    for (const segment of this.#segments) bytes += segment.end
    return {
      bytes,
      segments: this.#segments.length,
      records: tail.appended,
      minEpoch: this.minEpoch,
      newestEpoch: tail.newestEpoch,
      durableEpoch: tail.durableEpoch,
      appendUs: tail.timing.stats(),
      indexedEpoch: this.#index.indexedEpoch,
      failure: this.failure,
    }
  }

  /** Finishes what is in flight, seals the log, gives back room not used and lets go of the lock. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#opened?.close()
    await this.#writing
    await this.#endHost()
    try {
      await this.#tail.close()
    } finally {
      await this.#index.close()
      this.#deps.unlock()
    }
  }
}

async function* noRecords(): AsyncGenerator<PlacedRecord> {}
