/**
 * The main thread's side of writing a checkpoint: reads pages in bounded pieces and hands them to the thread that writes.
 *
 * Invariants: the event loop is given back after every piece; at most CHECKPOINT_PIECES_IN_FLIGHT buffers exist, handed
 * over and back without a copy; the file gets its name only after the log is durable up to its epoch.
 */
import fs from 'node:fs'
import path from 'node:path'
import { MmsbError } from '../errors.js'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PACK_BYTES,
  CHECKPOINT_PIECE_PAGES_MAX,
  CHECKPOINT_PIECES_IN_FLIGHT,
} from '../limits.js'
import { checkpointName, type MetaKey } from './checkpoint-format.js'
import type { CheckpointRequest } from './checkpoint-worker.js'
import { isNoRoom, logFull, textOf } from './failure.js'
import type { CheckpointInfo, CheckpointPage, CheckpointSource } from './types.js'
import { startWorker, WorkerClient } from './worker.js'

const PIECE_BYTES = CHECKPOINT_PACK_BYTES

export interface CheckpointJob {
  readonly dir: string
  readonly busId: string
  readonly source: CheckpointSource
  /** Makes the log durable up to the checkpoint's epoch. */
  readonly syncLog: () => Promise<void>
}

/** Writes one checkpoint. Throws LOG_FULL when the disk is full, INTERNAL otherwise; no file is left then. */
export async function writeCheckpoint(job: CheckpointJob): Promise<CheckpointInfo> {
  const startedMs = performance.now()
  const { epoch } = job.source.header
  const file = path.join(job.dir, checkpointName(epoch))
  const temporary = path.join(job.dir, 'next.tmp')
  const client = new WorkerClient(startWorker('checkpoint-worker'))
  const ask = (request: CheckpointRequest, transfer?: ArrayBuffer[]): Promise<unknown> =>
    client.request(request, transfer)
  try {
    await ask({ type: 'begin', temporary, file })
    await handOver(job.source, ask)
    job.source.onRead?.()
    await job.syncLog()
    const newBytes = (await ask({ type: 'end', meta: metaOf(job) })) as number
    const { pages } = job.source
    const ms = Math.round(performance.now() - startedMs)
    return { epoch, pages: pages.length, bytes: bytesOf(pages), newBytes, ms, file: path.basename(file) }
  } catch (error) {
    await client.terminate()
    fs.rmSync(temporary, { force: true })
    if (error instanceof MmsbError) throw error
    const text = `the checkpoint of epoch ${epoch} could not be written: ${textOf(error)}`
    throw isNoRoom(error)
      ? logFull(text, error)
      : new MmsbError('INTERNAL', text, undefined, { cause: error })
  } finally {
    await client.terminate()
  }
}

function bytesOf(pages: readonly CheckpointPage[]): number {
  let bytes = 0
  for (const page of pages) bytes += page.bytes
  return bytes
}

function metaOf({ source, busId }: CheckpointJob): Record<MetaKey, string | Uint8Array> {
  const { header, pages } = source
  return {
    bus_id: busId,
    bytes: String(bytesOf(pages)),
    digest: header.digest,
    epoch: String(header.epoch),
    extra: header.extra,
    next_page_id: String(header.nextPageId),
    pages: String(pages.length),
    timestamp_ms: String(header.timestampMs),
  }
}

type Ask = (request: CheckpointRequest, transfer?: ArrayBuffer[]) => Promise<unknown>

/** Fills pieces and sends them; a piece's buffer comes back with its answer and is filled again. */
async function handOver(source: CheckpointSource, ask: Ask): Promise<void> {
  const cursor = new PageCursor(source)
  const free = Array.from({ length: CHECKPOINT_PIECES_IN_FLIGHT }, () => new Uint8Array(PIECE_BYTES))
  const away: Promise<Uint8Array>[] = []
  while (!cursor.ended) {
    const bytes = free.pop() ?? (await away.shift()) ?? new Uint8Array(PIECE_BYTES)
    const piece = cursor.fill(bytes)
    const request = { type: 'piece', pages: piece.pages, bytes: bytes.subarray(0, piece.length) } as const
    const answered = ask(request, [bytes.buffer as ArrayBuffer]).then(
      (back) => new Uint8Array((back as Uint8Array).buffer),
    )
    // Whether it failed is seen when its buffer is wanted, or at the end.
    answered.catch(() => {})
    away.push(answered)
    await new Promise((resolve) => setImmediate(resolve))
  }
  await Promise.all(away)
}

/** Walks the pages chunk by chunk. */
class PageCursor {
  private readonly pages: readonly CheckpointPage[]
  private next = 0
  private offset = 0
  private begun = false

  constructor(private readonly source: CheckpointSource) {
    this.pages = [...source.pages].sort((a, b) => a.id - b.id)
  }

  get ended(): boolean {
    return this.next >= this.pages.length
  }

  /** Fills the buffer as far as whole chunks go; `pages` are those that begin in it. */
  fill(into: Uint8Array): { pages: CheckpointPage[]; length: number } {
    const pages: CheckpointPage[] = []
    let length = 0
    for (let page = this.pages[this.next]; page !== undefined; page = this.pages[this.next]) {
      if (!this.begun) {
        if (pages.length >= CHECKPOINT_PIECE_PAGES_MAX) break
        // An exact copy: a view would carry its whole buffer over to the other thread.
        pages.push({ ...page, meta: new Uint8Array(page.meta) })
        this.begun = true
      }
      const left = page.bytes - this.offset
      const room = into.length - length
      const take = left <= room ? left : room - (room % CHECKPOINT_CHUNK_BYTES)
      if (take === 0 && left > 0) break
      this.copy(page, take, into, length)
      length += take
      if (this.offset < page.bytes) break
      this.next++
      this.offset = 0
      this.begun = false
    }
    return { pages, length }
  }

  private copy(page: CheckpointPage, length: number, into: Uint8Array, at: number): void {
    if (length > 0) into.set(this.source.read(page.id, this.offset, length), at)
    this.offset += length
  }
}
