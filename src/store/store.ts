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
import { INDEX_BATCH_ROWS, SEGMENT_BYTES, SEGMENT_HEADER_BYTES } from '../limits.js'
import { BlockBuilder } from './blocks.js'
import { busFailed, textOf } from './failure.js'
import { realIo } from './io.js'
import { lockFolder } from './lock.js'
import {
  inspectLog,
  type LogFindings,
  type LogPlace,
  openTail,
  readForward,
  recordsAfter,
  type SegmentEntry,
  segmentOf,
} from './log.js'
import type { SegmentHeader } from './record.js'
import { rowOf } from './recovery.js'
import { segmentName, type Tail, type TailOptions } from './tail.js'
import type {
  CheckpointInfo,
  CheckpointReader,
  CheckpointSource,
  IndexBlock,
  LogRecord,
  Notice,
  RecoveryReport,
  StoreOptions,
  StoreStats,
} from './types.js'

function defaultTimer(callback: () => void, delayMs: number): () => void {
  const timer = setTimeout(callback, delayMs)
  timer.unref()
  return () => clearTimeout(timer)
}

interface Opened {
  readonly options: StoreOptions
  readonly place: LogPlace
  readonly segments: SegmentEntry[]
  readonly builder: BlockBuilder
  readonly pendingBlocks: IndexBlock[]
  readonly unlock: () => void
}

export class Store {
  readonly busId: string
  readonly recovery: RecoveryReport
  #tail!: Tail
  readonly #opened: Opened
  #closing: Promise<void> | undefined

  private constructor(opened: Opened, busId: string, recovery: RecoveryReport) {
    this.#opened = opened
    this.busId = busId
    this.recovery = recovery
  }

  /** Takes the lock and recovers. Throws BUS_FAILED when the folder is in use, damaged or not writable. */
  static async open(options: StoreOptions): Promise<Store> {
    const io = options.io ?? realIo(options.allocate)
    const logDir = path.join(options.dir, 'log')
    try {
      io.makeDir(logDir)
      await io.syncDir(options.dir)
    } catch (error) {
      throw busFailed(`the data folder ${options.dir} cannot be used: ${textOf(error)}`, error)
    }
    const unlock = (options.lock ?? lockFolder)(options.dir)
    try {
      return await Store.#recover(options, { io, logDir, crc32c: options.crc32c }, unlock)
    } catch (error) {
      unlock()
      throw error instanceof MmsbError
        ? error
        : busFailed(`the store cannot be opened: ${textOf(error)}`, error)
    }
  }

  static async #recover(options: StoreOptions, place: LogPlace, unlock: () => void): Promise<Store> {
    const builder = new BlockBuilder()
    const pendingBlocks: IndexBlock[] = []
    const findings = inspectLog(place, (segment, { record, offset, byteLength }) => {
      const block = builder.add(segment.firstEpoch, offset, byteLength, record.epoch, record.touchedPages)
      if (block !== null) pendingBlocks.push(block)
    })
    const row = rowOf({
      tail: findings.tornBytes > 0 ? 'torn' : 'whole',
      body: findings.damage === null ? 'sound' : 'bad',
      index: 'current',
      checkpoint: 'none',
    })
    if (row.action === 'refuse') throw busFailed(`the log is damaged: ${findings.damage}`)
    const random = options.random ?? ((length: number) => new Uint8Array(randomBytes(length)))
    const busId = findings.busId ?? Buffer.from(random(16)).toString('hex')
    const segments = findings.segments
    const opened: Opened = { options, place, segments, builder, pendingBlocks, unlock }
    const store = new Store(opened, busId, reportOf(findings, row.row))
    store.#tail = await openTail(store.#tailOptions(random), findings, segments)
    for (const note of store.recovery.notes) store.#notice('warn', note)
    return store
  }

  #tailOptions(random: (length: number) => Uint8Array): TailOptions {
    const { options, place, segments, builder } = this.#opened
    return {
      io: place.io,
      logDir: place.logDir,
      crc32c: place.crc32c,
      fsync: options.fsync,
      clock: options.clock ?? Date.now,
      random,
      setTimer: options.setTimer ?? defaultTimer,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      busId: this.busId,
      onAppended: (record, segment, offset, byteLength) => {
        const last = segments.at(-1)
        if (last !== undefined) last.end = offset + byteLength
        this.#keep(builder.add(segment.firstEpoch, offset, byteLength, record.epoch, record.touchedPages))
      },
      onRotated: (next, previousEnd) => this.#rotated(next, previousEnd),
      onFailed: (error) => this.#notice('error', error.message),
    }
  }

  #rotated(next: SegmentHeader, previousEnd: number): void {
    const { segments, builder, place } = this.#opened
    const last = segments.at(-1)
    if (last !== undefined) last.end = previousEnd
    this.#keep(builder.flush())
    segments.push({
      header: next,
      file: path.join(place.logDir, segmentName(next.firstEpoch)),
      end: SEGMENT_HEADER_BYTES,
    })
  }

  #keep(block: IndexBlock | null): void {
    if (block !== null) this.#opened.pendingBlocks.push(block)
    void INDEX_BATCH_ROWS
  }

  #notice(level: Notice['level'], message: string): void {
    this.#opened.options.onNotice?.({ level, message })
  }

  /** Why the store has stopped taking appends, or null. */
  get failure(): string | null {
    return this.#tail.failure?.message ?? null
  }

  get newestEpoch(): number {
    return this.#tail.newestEpoch
  }

  /** Oldest epoch whose record can be read; newest + 1 when there is none. */
  get minEpoch(): number {
    return this.#opened.segments[0]?.header.firstEpoch ?? this.newestEpoch + 1
  }

  /** The newest usable checkpoint, wholly verified, or null when the log is to be replayed from its beginning. */
  openCheckpoint(): CheckpointReader | null {
    return null
  }

  /**
   * Every record with an epoch above `fromEpoch`, in order, checksums verified. A record is a view into a buffer that is
   * good until the next is asked for. Throws BUS_FAILED at damage, EPOCH_COMPACTED when the log begins later.
   */
  records(fromEpoch: number): Iterable<LogRecord> {
    const { place, segments } = this.#opened
    if (fromEpoch >= this.newestEpoch) return []
    this.#refuseCompacted(fromEpoch + 1)
    return recordsAfter(place, segments, fromEpoch, this.newestEpoch)
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
    const { place, segments } = this.#opened
    const last = Math.min(to, this.newestEpoch)
    for (let epoch = from; epoch <= last; ) {
      const index = segmentOf(segments, epoch)
      const entry = segments[index]
      if (entry === undefined) return
      const segmentLast = Math.min(last, (segments[index + 1]?.header.firstEpoch ?? last + 1) - 1)
      const start = await this.#startOf(entry, epoch)
      for await (const { record } of readForward(place, entry, start.offset, start.epoch, segmentLast)) {
        if (record.epoch >= epoch) yield record
      }
      epoch = segmentLast + 1
    }
  }

  /** Where to begin reading for an epoch: the start of its block, else of its segment. */
  async #startOf(entry: SegmentEntry, epoch: number): Promise<{ offset: number; epoch: number }> {
    const { pendingBlocks, builder } = this.#opened
    const open = builder.peek()
    const candidates = open === null ? pendingBlocks : [...pendingBlocks, open]
    const block = candidates.find((b) => b.firstEpoch <= epoch && epoch <= b.lastEpoch)
    if (block !== undefined) return { offset: block.offset, epoch: block.firstEpoch }
    return { offset: SEGMENT_HEADER_BYTES, epoch: entry.header.firstEpoch }
  }

  #refuseCompacted(epoch: number): void {
    const minEpoch = this.minEpoch
    if (epoch < minEpoch) {
      throw new MmsbError('EPOCH_COMPACTED', `Epoch ${epoch} is no longer in the log.`, { minEpoch })
    }
  }

  async checkpoint(_source: CheckpointSource): Promise<CheckpointInfo> {
    throw new MmsbError('INTERNAL', 'checkpoints are not written yet')
  }

  checkpoints(): CheckpointInfo[] {
    return []
  }

  stats(): StoreStats {
    const tail = this.#tail
    let bytes = 0
    for (const segment of this.#opened.segments) bytes += segment.end
    return {
      bytes,
      segments: this.#opened.segments.length,
      records: tail.appended,
      minEpoch: this.minEpoch,
      newestEpoch: tail.newestEpoch,
      durableEpoch: tail.durableEpoch,
      appendUs: tail.timing.stats(),
      indexedEpoch: 0,
      failure: this.failure,
    }
  }

  /** Finishes what is in flight, seals the log, gives back room not used and lets go of the lock. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    try {
      await this.#tail.close()
    } finally {
      this.#opened.unlock()
    }
  }
}

function reportOf(findings: LogFindings, row: string): RecoveryReport {
  const notes: string[] = []
  if (findings.tornBytes > 0) {
    notes.push(`cut ${findings.tornBytes} bytes of a torn write behind epoch ${findings.newestEpoch}`)
  }
  return {
    newestEpoch: findings.newestEpoch,
    checkpointEpoch: null,
    tornBytes: findings.tornBytes,
    notes,
    row,
  }
}
