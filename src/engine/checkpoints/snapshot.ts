/**
 * The state as of one epoch, readable while later epochs are executed: copy on write, by chunks.
 *
 * After each execution the native context hands over the bytes that it overwrote. When a chunk that was not
 * read yet is overwritten for the first time, the old chunk is put together from them and kept until it is
 * read.
 *
 * Invariants: pages are read ascending by id and offset, each byte once. `absorb` is called after every
 * execution, before the next one, and `saveWhole` before a page is destroyed. Nothing is called while an
 * execution runs on another thread. A kept chunk has its bytes as of the epoch of the snapshot.
 */
import { MmsbError } from '../../errors.js'
import type { NativeContext } from '../../ffi/context.js'
import { CHECKPOINT_CHUNK_BYTES } from '../../limits.js'
import type { OverwriteObserver } from '../commit/executor.js'

/** Larger than the number of chunks of any page. */
const CHUNKS = 2 ** 18
const SPAN_HEADER_BYTES = 16

interface Span {
  readonly page: number
  readonly offset: number
  readonly old: Uint8Array
}

export class Snapshot implements OverwriteObserver {
  readonly #context: NativeContext
  /** Size in bytes of each page that will be read. */
  #pages: Map<number, number>
  /** Old chunks, by page * CHUNKS + index. */
  readonly #saved = new Map<number, Uint8Array>()
  readonly #destroyed = new Set<number>()
  #page = 0
  #offset = 0
  #savedBytes = 0
  #failure: unknown

  /** `pages` is taken over. Throws UNSUPPORTED_LOCATION where the backend cannot tell what it overwrites. */
  constructor(context: NativeContext, pages: Map<number, number>) {
    this.#context = context
    this.#pages = pages
    context.watchOverwrites(true)
  }

  /** Bytes of the old chunks that are kept now. */
  get savedBytes(): number {
    return this.#savedBytes
  }

  /** Only these pages will be read. */
  narrow(ids: ReadonlySet<number>): void {
    this.#pages = new Map([...this.#pages].filter(([id]) => ids.has(id)))
  }

  /** Saves what the newest execution overwrote. An error is thrown at the next read. */
  absorb(): void {
    try {
      const bytes = this.#context.takeKept()
      if (bytes.length > 0) this.#save(spansOf(bytes))
    } catch (error) {
      this.#failure ??= error
    }
  }

  #save(spans: readonly Span[]): void {
    const fresh = new Set<number>()
    for (const { page, offset, old } of spans) {
      const last = Math.floor((offset + old.length - 1) / CHECKPOINT_CHUNK_BYTES)
      for (let i = Math.floor(offset / CHECKPOINT_CHUNK_BYTES); i <= last; i++) {
        if (this.#keep(page, i)) fresh.add(page * CHUNKS + i)
      }
    }
    // Newest first, so that the oldest bytes win where spans overlap.
    for (const { page, offset, old } of spans.toReversed()) {
      for (let at = 0; at < old.length; ) {
        const index = Math.floor((offset + at) / CHECKPOINT_CHUNK_BYTES)
        const end = Math.min(old.length, (index + 1) * CHECKPOINT_CHUNK_BYTES - offset)
        const key = page * CHUNKS + index
        if (fresh.has(key)) {
          const inChunk = offset + at - index * CHECKPOINT_CHUNK_BYTES
          this.#saved.get(key)?.set(old.subarray(at, end), inChunk)
        }
        at = end
      }
    }
  }

  /** Copies a chunk as it is now, if it is still to be read and not kept yet. */
  #keep(page: number, index: number): boolean {
    const bytes = this.#pages.get(page)
    const key = page * CHUNKS + index
    if (bytes === undefined || this.#saved.has(key)) return false
    const from = index * CHECKPOINT_CHUNK_BYTES
    const length = Math.min(CHECKPOINT_CHUNK_BYTES, bytes - from)
    if (page < this.#page || (page === this.#page && from + length <= this.#offset)) return false
    const chunk = new Uint8Array(length)
    this.#context.readPage(page, from, chunk)
    this.#saved.set(key, chunk)
    this.#savedBytes += length
    return true
  }

  /** A page is about to be destroyed. */
  saveWhole(page: number): void {
    const bytes = this.#pages.get(page)
    if (bytes === undefined) return
    for (let i = 0; i * CHECKPOINT_CHUNK_BYTES < bytes; i++) this.#keep(page, i)
    this.#destroyed.add(page)
  }

  /** Bytes of a page as of the snapshot's epoch. `offset` is a chunk's start. */
  read(page: number, offset: number, into: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure
    if (page < this.#page || (page === this.#page && offset < this.#offset))
      throw new MmsbError('INTERNAL', 'A snapshot must be read in order.')
    this.#page = page
    this.#offset = offset + into.length
    if (!this.#destroyed.has(page)) this.#context.readPage(page, offset, into)
    for (let at = 0; at < into.length; at += CHECKPOINT_CHUNK_BYTES) {
      const key = page * CHUNKS + (offset + at) / CHECKPOINT_CHUNK_BYTES
      const chunk = this.#saved.get(key)
      if (chunk === undefined) continue
      into.set(chunk, at)
      this.#saved.delete(key)
      this.#savedBytes -= chunk.length
    }
  }

  /** No more reads follow. */
  end(): void {
    this.#saved.clear()
    this.#pages.clear()
    this.#context.watchOverwrites(false)
  }
}

/** The spans in the layout of mmsb_kept_take (src/kernels/native/abi.h). */
function spansOf(bytes: Uint8Array): Span[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const spans: Span[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = view.getUint32(at + 4, true)
    const start = at + SPAN_HEADER_BYTES
    spans.push({
      page: view.getUint32(at, true),
      offset: Number(view.getBigUint64(at + 8, true)),
      old: bytes.subarray(start, start + length),
    })
    at = start + Math.ceil(length / 8) * 8
  }
  return spans
}
