/**
 * Feeds the pages of a checkpoint to the thread that writes it. Runs in the main thread and reads the changed
 * pages in bounded pieces.
 *
 * Invariants: the event loop runs after every piece. At most CHECKPOINT_PIECES_IN_FLIGHT buffers exist; they
 * move to the thread and back without a copy. The file gets its name only after the log is durable up to the
 * checkpoint's epoch.
 */
import { MmsbError } from '../../errors.js'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PIECE_PAGES_MAX,
  CHECKPOINT_PIECES_IN_FLIGHT,
} from '../../limits.js'
import { nextSlice } from '../../slices.js'
import { isNoRoom, logFull, textOf } from '../os/errors.js'
import type { CheckpointInfo, CheckpointPage, CheckpointSource } from '../types.js'
import type { PagePiece } from './file-writer.js'
import { checkpointName, type MetaKey } from './format.js'
import type { CheckpointThread } from './thread.js'

export interface CheckpointJob {
  readonly thread: CheckpointThread
  readonly busId: string
  /** The epoch of a sound checkpoint to build on, if there is one. */
  readonly base: number | undefined
  readonly source: CheckpointSource
  /** Bytes of pages that are read at once. */
  readonly pieceBytes: number
  /** Makes the log durable up to the checkpoint's epoch. */
  readonly syncLog: () => Promise<void>
  readonly onNotice: (message: string) => void
}

/** Writes one checkpoint. Throws LOG_FULL when the disk is full, else INTERNAL, and leaves no file then. */
export async function writeCheckpoint(job: CheckpointJob): Promise<CheckpointInfo> {
  const startedMs = performance.now()
  const { thread, busId, source } = job
  const { epoch } = source.header
  try {
    const base = await thread.ask({ type: 'begin', base: job.base, busId })
    if (typeof base === 'string') {
      job.onNotice(`checkpoint ${job.base} cannot be built on (${base}); all pages are written again`)
    }
    await feedPages(job, typeof base === 'number' ? base : undefined)
    source.onRead?.()
    const extra = (await source.lateExtra?.()) ?? source.header.extra
    await job.syncLog()
    const newBytes = (await thread.ask({ type: 'end', epoch, meta: metaOf(job, extra) })) as number
    const { pages } = source
    const ms = Math.round(performance.now() - startedMs)
    return { epoch, pages: pages.length, bytes: bytesOf(pages), newBytes, ms, file: checkpointName(epoch) }
  } catch (error) {
    await thread.ask({ type: 'abandon' }).catch(() => {})
    if (error instanceof MmsbError) throw error
    const text = `the checkpoint of epoch ${epoch} could not be written: ${textOf(error)}`
    throw isNoRoom(error)
      ? logFull(text, error)
      : new MmsbError('INTERNAL', text, undefined, { cause: error })
  }
}

export function bytesOf(pages: readonly CheckpointPage[]): number {
  let bytes = 0
  for (const page of pages) bytes += page.bytes
  return bytes
}

function metaOf({ source, busId }: CheckpointJob, extra: string): Record<MetaKey, string | Uint8Array> {
  const { header, pages } = source
  return {
    bus_id: busId,
    bytes: String(bytesOf(pages)),
    digest: header.digest,
    epoch: String(header.epoch),
    extra,
    next_page_id: String(header.nextPageId),
    pages: String(pages.length),
    timestamp_ms: String(header.timestampMs),
  }
}

/** Fills pieces and sends them. The buffer of a piece comes back with its answer and is filled again. */
async function feedPages(
  { source, thread, pieceBytes: mostBytes }: CheckpointJob,
  base: number | undefined,
): Promise<void> {
  const cursor = new PageCursor(source, base)
  source.begin?.(cursor.changed)
  const pieceBytes = Math.min(mostBytes, cursor.changedBytes)
  const away: Promise<Uint8Array>[] = []
  let readBytes = 0
  while (!cursor.ended) {
    const isFull = away.length === CHECKPOINT_PIECES_IN_FLIGHT
    const bytes = (isFull ? await away.shift() : undefined) ?? new Uint8Array(pieceBytes)
    const ready = source.ready?.()
    if (ready !== undefined) await ready
    const piece = cursor.fill(bytes)
    readBytes += piece.length
    source.wasRead?.(readBytes, cursor.changedBytes)
    const request = { type: 'piece', pages: piece.pages, bytes: bytes.subarray(0, piece.length) } as const
    const answered = thread
      .ask(request, [bytes.buffer as ArrayBuffer])
      .then((back) => new Uint8Array((back as Uint8Array).buffer))
    // A failure is seen when the buffer is needed again, or at the end.
    answered.catch(() => {})
    away.push(answered)
    await nextSlice()
  }
  await Promise.all(away)
}

/** Walks the pages chunk by chunk, ascending by id. */
class PageCursor {
  /** Ids of the pages whose bytes are fed; the others have the bytes of the base. */
  readonly changed: ReadonlySet<number>
  readonly changedBytes: number
  readonly #source: CheckpointSource
  readonly #pages: readonly CheckpointPage[]
  #next = 0
  #offset = 0
  #isBegun = false

  constructor(source: CheckpointSource, base: number | undefined) {
    this.#source = source
    this.#pages = [...source.pages].sort((a, b) => a.id - b.id)
    const changed = this.#pages.filter(
      ({ version, createdEpoch }) => base === undefined || version > base || createdEpoch > base,
    )
    this.changed = new Set(changed.map(({ id }) => id))
    this.changedBytes = bytesOf(changed)
  }

  get ended(): boolean {
    return this.#next >= this.#pages.length
  }

  /** Fills the buffer with whole chunks, as far as they fit. `pages` are those that begin in it. */
  fill(into: Uint8Array): { pages: PagePiece[]; length: number } {
    const pages: PagePiece[] = []
    let length = 0
    for (let page = this.#pages[this.#next]; page !== undefined; page = this.#pages[this.#next]) {
      const isChanged = this.changed.has(page.id)
      if (!this.#isBegun) {
        if (pages.length >= CHECKPOINT_PIECE_PAGES_MAX) break
        pages.push(pieceOf(page, isChanged))
        this.#isBegun = true
      }
      const left = isChanged ? page.bytes - this.#offset : 0
      const room = into.length - length
      const take = left <= room ? left : room - (room % CHECKPOINT_CHUNK_BYTES)
      if (take === 0 && left > 0) break
      if (take > 0) this.#source.read(page.id, this.#offset, into.subarray(length, length + take))
      this.#offset += take
      length += take
      if (take < left) break
      this.#next++
      this.#offset = 0
      this.#isBegun = false
    }
    return { pages, length }
  }
}

function pieceOf({ id, version, createdEpoch, bytes, meta }: CheckpointPage, isChanged: boolean): PagePiece {
  // A copy of its own: a view would take its whole buffer along to the other thread.
  const page = { id, version, createdEpoch, bytes, meta: new Uint8Array(meta) }
  return isChanged ? page : { ...page, unchanged: true }
}
