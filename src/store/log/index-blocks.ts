/**
 * Builds rows of the log index from the records as they go by: runs of whole records with the set of pages
 * they touch.
 *
 * Invariants: blocks follow one another without a gap, never span segments, and are closed by size alone, so
 * an index rebuilt from the log has the same rows as one kept while the log was written. A set of pages is
 * exact or absent (any page).
 */
import { INDEX_BLOCK_BYTES, INDEX_BLOCK_PAGES_MAX } from '../../limits.js'
import type { IndexBlock } from '../types.js'

/** Ascending ids as gaps, in base 128, seven bits a byte, lowest first. */
export function packPages(ids: Iterable<number>): Uint8Array {
  const sorted = Uint32Array.from(ids).sort()
  const bytes = new Uint8Array(sorted.length * 5)
  let length = 0
  let previous = 0
  for (const id of sorted) {
    let gap = id - previous
    previous = id
    while (gap >= 128) {
      bytes[length++] = (gap & 127) | 128
      gap = Math.floor(gap / 128)
    }
    bytes[length++] = gap
  }
  return bytes.slice(0, length)
}

/** Gathers records into blocks. */
export class IndexBlockBuilder {
  #open: { segment: number; offset: number; end: number; firstEpoch: number; lastEpoch: number } | undefined
  #pages: Set<number> | undefined = new Set()

  /** Adds the next record. Returns the block it completes, or undefined. */
  add(
    segment: number,
    offset: number,
    byteLength: number,
    epoch: number,
    touched: Uint32Array,
  ): IndexBlock | undefined {
    if (this.#open === undefined) {
      this.#open = { segment, offset, end: offset, firstEpoch: epoch, lastEpoch: epoch }
      this.#pages = new Set()
    }
    this.#open.end = offset + byteLength
    this.#open.lastEpoch = epoch
    this.#touch(touched)
    return this.#open.end - this.#open.offset >= INDEX_BLOCK_BYTES ? this.flush() : undefined
  }

  #touch(ids: Uint32Array): void {
    const pages = this.#pages
    if (pages === undefined) return
    if (ids.length > INDEX_BLOCK_PAGES_MAX) {
      this.#pages = undefined
      return
    }
    for (const id of ids) pages.add(id)
    if (pages.size > INDEX_BLOCK_PAGES_MAX) this.#pages = undefined
  }

  /** Closes the block being built, at the end of a segment or of the log. */
  flush(): IndexBlock | undefined {
    const open = this.#open
    const pages = this.#pages
    if (open === undefined) return undefined
    this.#open = undefined
    return { ...open, pages: pages === undefined ? undefined : packPages(pages) }
  }

  /** The block being built, as it is now. */
  peek(): IndexBlock | undefined {
    return this.#open === undefined ? undefined : { ...this.#open, pages: undefined }
  }
}
