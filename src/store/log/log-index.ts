/**
 * The index of the log while the store is open: blocks under way in memory, finished ones in the catalogue.
 *
 * Invariants: the catalogue only ever learns of epochs that are durable, and of blocks in order without a gap, so its
 * newest epoch proves that all up to it were durable once. Nothing here delays an append, and nothing fails when the
 * catalogue does: readers then begin at the segment's start.
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
  /** Records of epochs from..to with their places, for bringing the catalogue up. */
  readonly scan: (from: number, to: number) => AsyncIterable<PlacedRecord>
}

export interface PlacedRecord {
  readonly segment: number
  readonly offset: number
  readonly byteLength: number
  readonly record: Pick<LogRecord, 'epoch' | 'touchedPages'>
}

export class LogIndex {
  private readonly builder = new IndexBlockBuilder()
  /** Closed blocks that the catalogue has not taken yet, ascending. */
  private pending: IndexBlock[] = []
  private flushing: Promise<void> | null = null
  private catchingUp: Promise<void> | null = null
  private broken = false
  private closed = false
  /** Newest epoch in the catalogue. */
  indexedEpoch = 0

  constructor(private readonly options: LogIndexOptions) {}

  /** Takes in the next record of the log. */
  add({ segment, offset, byteLength, record }: PlacedRecord): void {
    if (this.broken) return
    this.keep(this.builder.add(segment, offset, byteLength, record.epoch, record.touchedPages))
  }

  endSegment(): void {
    this.keep(this.builder.flush())
    this.flush(0)
  }

  private keep(block: IndexBlock | null): void {
    if (block === null || this.broken) return
    this.pending.push(block)
    if (this.pending.length >= INDEX_BATCH_ROWS) this.flush(INDEX_BATCH_ROWS)
  }

  /** Hands blocks to the catalogue when there are at least so many that are durable. */
  private flush(atLeast: number): void {
    if (this.flushing !== null || this.catchingUp !== null || this.broken) return
    const durable = this.options.durableEpoch()
    const ready = this.pending.filter((block) => block.lastEpoch <= durable)
    if (ready.length === 0 || ready.length < atLeast) return
    this.flushing = this.hand(ready).finally(() => {
      this.flushing = null
    })
  }

  private async hand(blocks: readonly IndexBlock[]): Promise<void> {
    try {
      await this.options.catalog.addBlocks(blocks)
      this.indexedEpoch = blocks.at(-1)?.lastEpoch ?? this.indexedEpoch
      this.pending = this.pending.filter((block) => block.firstEpoch > this.indexedEpoch)
    } catch (error) {
      this.fail(error)
    }
  }

  /** Stops keeping the index, for good: reads begin at the segment's start from now on. */
  fail(error: unknown): void {
    if (this.broken || this.closed) return
    this.broken = true
    this.pending = []
    this.options.onNotice(
      'warn',
      `the log index has stopped; reads of old epochs will be slower: ${textOf(error)}`,
    )
  }

  /** Brings the catalogue from `from` up to `to`, in the background; what is added meanwhile waits behind it. */
  catchUp(from: number, to: number): void {
    if (from > to) {
      this.flush(INDEX_BATCH_ROWS)
      return
    }
    this.catchingUp = this.bringUp(from, to)
      .catch((error: unknown) => this.fail(error))
      .finally(() => {
        this.catchingUp = null
        this.flush(0)
      })
  }

  private async bringUp(from: number, to: number): Promise<void> {
    const builder = new IndexBlockBuilder()
    let blocks: IndexBlock[] = []
    const hand = async (atLeast: number): Promise<void> => {
      if (blocks.length < atLeast) return
      await this.options.catalog.addBlocks(blocks)
      this.indexedEpoch = blocks.at(-1)?.lastEpoch ?? this.indexedEpoch
      blocks = []
    }
    let segment = -1
    for await (const placed of this.options.scan(from, to)) {
      if (this.closed) return
      const ended = placed.segment === segment ? null : builder.flush()
      segment = placed.segment
      const { offset, byteLength, record } = placed
      const full = builder.add(segment, offset, byteLength, record.epoch, record.touchedPages)
      for (const block of [ended, full]) if (block !== null) blocks.push(block)
      await hand(INDEX_BATCH_ROWS)
    }
    const last = builder.flush()
    if (last !== null) blocks.push(last)
    await hand(1)
  }

  /** The block that holds the epoch, when one is known. */
  async blockOf(epoch: number): Promise<IndexBlock | null> {
    const holds = (block: IndexBlock | null): boolean =>
      block !== null && block.firstEpoch <= epoch && epoch <= block.lastEpoch
    const open = this.builder.peek()
    if (open !== null && holds(open)) return open
    const waiting = this.pending.find(holds)
    if (waiting !== undefined) return waiting
    if (this.broken) return null
    try {
      return (await this.options.catalog.blockOf(epoch)) ?? null
    } catch (error) {
      this.rebuildAfter(error)
      return null
    }
  }

  /** A row that cannot be read is not repaired: the whole index is made again from the log. */
  private rebuildAfter(error: unknown): void {
    this.options.onNotice('warn', `the log index is damaged and is being rebuilt: ${textOf(error)}`)
    if (this.catchingUp === null) this.rebuild().catch((failure: unknown) => this.fail(failure))
  }

  /** Forgets the catalogue's blocks and makes them again from the log. Resolves when that is done. */
  async rebuild(): Promise<void> {
    await this.catchingUp
    await this.flushing
    const first = this.pending[0]?.firstEpoch ?? this.builder.peek()?.firstEpoch
    await this.options.catalog.clearBlocks()
    this.broken = false
    this.indexedEpoch = 0
    this.catchUp(1, first === undefined ? this.options.durableEpoch() : first - 1)
    await this.catchingUp
    await this.flushing
  }

  /** Hands over all that is durable and lets go. */
  async close(): Promise<void> {
    await this.flushing
    if (this.catchingUp === null) {
      const last = this.builder.flush()
      if (last !== null && !this.broken) this.pending.push(last)
      this.flush(0)
      await this.flushing
    }
    this.closed = true
    await this.catchingUp
    await this.options.catalog.close()
  }
}
