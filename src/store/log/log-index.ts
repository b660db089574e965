/**
 * The index of the log while the store is open: unfinished blocks in memory, finished ones in the catalog.
 *
 * Invariants: the catalog only learns of durable epochs, and of blocks in order without a gap, so its newest
 * epoch proves that all epochs up to it were durable once. Nothing here delays an append, and nothing fails
 * when the catalog does: reads then begin at the start of their segment.
 */
import { INDEX_BATCH_ROWS } from '../../limits.js'
import { textOf } from '../os/errors.js'
import type { Catalog, IndexBlock, LogRecord, Notice } from '../types.js'
import { IndexBlockBuilder } from './index-blocks.js'

export interface LogIndexOptions {
  readonly catalog: Catalog
  readonly onNotice: (level: Notice['level'], message: string) => void
  /** Newest epoch known to be durable. */
  readonly durableEpoch: () => number
  /** Records of epochs from..to with their places, to bring the catalog up to date. */
  readonly scan: (from: number, to: number) => AsyncIterable<PlacedRecord>
}

/** A record and its place in the log. */
export interface PlacedRecord {
  readonly segment: number
  readonly offset: number
  readonly byteLength: number
  readonly record: Pick<LogRecord, 'epoch' | 'touchedPages'>
}

export class LogIndex {
  readonly #builder = new IndexBlockBuilder()
  readonly #options: LogIndexOptions
  /** Closed blocks that the catalog does not have yet, ascending. */
  #pending: IndexBlock[] = []
  #flushing: Promise<void> | undefined
  #catchingUp: Promise<void> | undefined
  #isBroken = false
  #isClosed = false
  /** Newest epoch in the catalog. */
  indexedEpoch = 0

  constructor(options: LogIndexOptions) {
    this.#options = options
  }

  /** Adds the next record of the log. */
  add({ segment, offset, byteLength, record }: PlacedRecord): void {
    this.#keep(this.#builder.add(segment, offset, byteLength, record.epoch, record.touchedPages))
  }

  endSegment(): void {
    this.#keep(this.#builder.flush())
    this.#flush(0)
  }

  #keep(block: IndexBlock | undefined): void {
    if (block === undefined || this.#isBroken) return
    this.#pending.push(block)
    this.#flush(INDEX_BATCH_ROWS)
  }

  /** Hands the durable blocks to the catalog if they are at least this many. */
  #flush(atLeast: number): void {
    if (this.#flushing !== undefined || this.#catchingUp !== undefined || this.#isBroken) return
    const durable = this.#options.durableEpoch()
    const ready = this.#pending.filter((block) => block.lastEpoch <= durable)
    if (ready.length === 0 || ready.length < atLeast) return
    this.#flushing = this.#store(ready).finally(() => {
      this.#flushing = undefined
    })
  }

  async #store(blocks: readonly IndexBlock[]): Promise<void> {
    try {
      await this.#options.catalog.addBlocks(blocks)
      this.indexedEpoch = (blocks.at(-1) as IndexBlock).lastEpoch
      this.#pending = this.#pending.filter((block) => block.firstEpoch > this.indexedEpoch)
    } catch (error) {
      this.fail(error)
    }
  }

  /** Gives the index up for good: from now on, reads begin at the start of their segment. */
  fail(error: unknown): void {
    if (this.#isBroken || this.#isClosed) return
    this.#isBroken = true
    this.#pending = []
    this.#options.onNotice(
      'warn',
      `the log index has stopped; reads of old epochs will be slower: ${textOf(error)}`,
    )
  }

  /** Indexes the epochs from..to in the background. Records added meanwhile wait until that is done. */
  catchUp(from: number, to: number): void {
    if (from > to) {
      this.#flush(INDEX_BATCH_ROWS)
      return
    }
    this.#catchingUp = this.#bringUp(from, to)
      .catch((error: unknown) => this.fail(error))
      .finally(() => {
        this.#catchingUp = undefined
        // A close cuts this short. What waits would then leave a gap behind what is indexed.
        if (!this.#isClosed) this.#flush(0)
      })
  }

  async #bringUp(from: number, to: number): Promise<void> {
    const builder = new IndexBlockBuilder()
    let blocks: IndexBlock[] = []
    const hand = async (atLeast: number): Promise<void> => {
      if (blocks.length < atLeast) return
      await this.#options.catalog.addBlocks(blocks)
      this.indexedEpoch = (blocks.at(-1) as IndexBlock).lastEpoch
      blocks = []
    }
    let segment: number | undefined
    for await (const placed of this.#options.scan(from, to)) {
      if (this.#isClosed) return
      const ended = placed.segment === segment ? undefined : builder.flush()
      segment = placed.segment
      const { offset, byteLength, record } = placed
      const full = builder.add(segment, offset, byteLength, record.epoch, record.touchedPages)
      for (const block of [ended, full]) if (block !== undefined) blocks.push(block)
      await hand(INDEX_BATCH_ROWS)
    }
    const last = builder.flush()
    if (last !== undefined) blocks.push(last)
    await hand(1)
  }

  /** The block that holds the epoch, if one is known. */
  async blockOf(epoch: number): Promise<IndexBlock | undefined> {
    const holds = (block: IndexBlock | undefined): boolean =>
      block !== undefined && block.firstEpoch <= epoch && epoch <= block.lastEpoch
    const open = this.#builder.peek()
    if (open !== undefined && holds(open)) return open
    const waiting = this.#pending.find(holds)
    if (waiting !== undefined) return waiting
    if (this.#isBroken) return undefined
    try {
      return await this.#options.catalog.blockOf(epoch)
    } catch (error) {
      this.#rebuildAfter(error)
      return undefined
    }
  }

  /** A damaged row is not repaired: the whole index is rebuilt from the log. */
  #rebuildAfter(error: unknown): void {
    this.#options.onNotice('warn', `the log index is damaged and is being rebuilt: ${textOf(error)}`)
    if (this.#catchingUp === undefined) this.rebuild().catch((failure: unknown) => this.fail(failure))
  }

  /** Drops the catalog's blocks and builds them again from the log. Resolves when that is done. */
  async rebuild(): Promise<void> {
    await this.#catchingUp
    await this.#flushing
    const first = this.#pending[0]?.firstEpoch ?? this.#builder.peek()?.firstEpoch
    await this.#options.catalog.clearBlocks()
    this.#isBroken = false
    this.indexedEpoch = 0
    this.catchUp(1, first === undefined ? this.#options.durableEpoch() : first - 1)
    await this.#catchingUp
    await this.#flushing
  }

  /** Hands all durable blocks to the catalog and closes it. */
  async close(): Promise<void> {
    await this.#flushing
    this.endSegment()
    await this.#flushing
    this.#isClosed = true
    await this.#catchingUp
    await this.#options.catalog.close()
  }
}
