/**
 * The main thread's side of writing a checkpoint: reads the pages that changed in bounded pieces and hands them to the
 * thread that writes.
 *
 * Invariants: the event loop is given back after every piece; at most CHECKPOINT_PIECES_IN_FLIGHT buffers exist, handed
 * over and back without a copy; the file gets its name only after the log is durable up to its epoch.
 */
import { MmsbError } from '../../errors.js'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PACK_BYTES,
  CHECKPOINT_PIECE_PAGES_MAX,
  CHECKPOINT_PIECES_IN_FLIGHT,
} from '../../limits.js'
import { isNoRoom, logFull, textOf } from '../os/errors.js'
import type { CheckpointInfo, CheckpointPage, CheckpointSource } from '../types.js'
import type { PagePiece } from './file-writer.js'
import { checkpointName, type MetaKey } from './format.js'
import type { CheckpointThread } from './thread.js'

const PIECE_BYTES = CHECKPOINT_PACK_BYTES

export interface CheckpointJob {
  readonly host: CheckpointThread
  readonly busId: string
  /** A sound checkpoint to write against, or null. */
  readonly base: number | null
  readonly source: CheckpointSource
  /** Makes the log durable up to the checkpoint's epoch. */
  readonly syncLog: () => Promise<void>
  readonly onNotice: (message: string) => void
}

/** Writes one checkpoint. Throws LOG_FULL when the disk is full, INTERNAL otherwise; no file is left then. */
export async function writeCheckpoint(job: CheckpointJob): Promise<CheckpointInfo> {
  const startedMs = performance.now()
  const { host, busId, source } = job
  const { epoch } = source.header
  try {
    const base = await host.ask({ type: 'begin', base: job.base, busId })
    if (typeof base === 'string') {
      job.onNotice(`checkpoint ${job.base} cannot be built upon (${base}); everything is written anew`)
    }
    await handOver(source, host, typeof base === 'number' ? base : null)
    source.onRead?.()
    const extra = (await source.lateExtra?.()) ?? source.header.extra
    await job.syncLog()
    const newBytes = (await host.ask({ type: 'end', epoch, meta: metaOf(job, extra) })) as number
    const { pages } = source
    const ms = Math.round(performance.now() - startedMs)
    return { epoch, pages: pages.length, bytes: bytesOf(pages), newBytes, ms, file: checkpointName(epoch) }
  } catch (error) {
    await host.ask({ type: 'abandon' }).catch(() => {})
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

/** Fills pieces and sends them; a piece's buffer comes back with its answer and is filled again. */
async function handOver(
  source: CheckpointSource,
  host: CheckpointThread,
  base: number | null,
): Promise<void> {
  const cursor = new PageCursor(source, base)
  source.begin?.(cursor.changed)
  const pieceBytes = Math.min(PIECE_BYTES, cursor.changedBytes)
  const away: Promise<Uint8Array>[] = []
  while (!cursor.ended) {
    const isFull = away.length === CHECKPOINT_PIECES_IN_FLIGHT
    const bytes = (isFull ? await away.shift() : undefined) ?? new Uint8Array(pieceBytes)
    const ready = source.ready?.()
    if (ready !== undefined) await ready
    const piece = cursor.fill(bytes)
    const request = { type: 'piece', pages: piece.pages, bytes: bytes.subarray(0, piece.length) } as const
    const answered = host
      .ask(request, [bytes.buffer as ArrayBuffer])
      .then((back) => new Uint8Array((back as Uint8Array).buffer))
    // Whether it failed is seen when its buffer is wanted, or at the end.
    answered.catch(() => {})
    away.push(answered)
    await new Promise((resolve) => setImmediate(resolve))
  }
  await Promise.all(away)
}

/** Walks the pages chunk by chunk, ascending by id. */
class PageCursor {
  /** Ids of the pages whose bytes are handed over; the others are as in the base. */
  readonly changed: ReadonlySet<number>
  readonly changedBytes: number
  private readonly pages: readonly CheckpointPage[]
  private next = 0
  private offset = 0
  private begun = false

  constructor(
    private readonly source: CheckpointSource,
    base: number | null,
  ) {
    this.pages = [...source.pages].sort((a, b) => a.id - b.id)
    const changed = this.pages.filter(
      ({ version, createdEpoch }) => base === null || version > base || createdEpoch > base,
    )
    this.changed = new Set(changed.map(({ id }) => id))
    this.changedBytes = bytesOf(changed)
  }

  get ended(): boolean {
    return this.next >= this.pages.length
  }

  /** Fills the buffer as far as whole chunks go; `pages` are those that begin in it. */
  fill(into: Uint8Array): { pages: PagePiece[]; length: number } {
    const pages: PagePiece[] = []
    let length = 0
    for (let page = this.pages[this.next]; page !== undefined; page = this.pages[this.next]) {
      const isChanged = this.changed.has(page.id)
      if (!this.begun) {
        if (pages.length >= CHECKPOINT_PIECE_PAGES_MAX) break
        pages.push(pieceOf(page, isChanged))
        this.begun = true
      }
      const left = isChanged ? page.bytes - this.offset : 0
      const room = into.length - length
      const take = left <= room ? left : room - (room % CHECKPOINT_CHUNK_BYTES)
      if (take === 0 && left > 0) break
      if (take > 0) this.source.read(page.id, this.offset, into.subarray(length, length + take))
      this.offset += take
      length += take
      if (take < left) break
      this.next++
      this.offset = 0
      this.begun = false
    }
    return { pages, length }
  }
}

function pieceOf({ id, version, createdEpoch, bytes, meta }: CheckpointPage, isChanged: boolean): PagePiece {
  // An exact copy: a view would carry its whole buffer over to the other thread.
  const page = { id, version, createdEpoch, bytes, meta: new Uint8Array(meta) }
  return isChanged ? page : { ...page, unchanged: true }
}
