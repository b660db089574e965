/**
 * Named durable readers: how far each has come, over restarts, and what of the past it still needs.
 *
 * Invariants: a cursor only ever goes forward; it has moved when the promise resolves, and then durably, and has not when it
 * rejects; a reader holds the past back no longer than a time since it was last heard of, and no more of it than a number of
 * bytes.
 */
import { MmsbError } from '../errors.js'
import { DURABLE_READERS_MAX, DURABLE_SEEN_MS } from '../limits.js'
import type { CursorRow, CursorStore } from '../store/cursors/cursors.js'

export interface DurableReader {
  readonly name: string
  readonly pages: readonly string[]
  /** The last epoch it has done with; null: it wants a snapshot first. */
  readonly epoch: number | null
  readonly createdMs: number
  /** When it was last heard of: it came, or moved its cursor. */
  readonly seenMs: number
}

export interface CursorRooms {
  readonly keeper: CursorStore
  readonly nowMs: () => number
  readonly newestEpoch: () => number
  /** Bytes of the log from the segment with this epoch on. */
  readonly bytesSince: (epoch: number) => number
  readonly holdMs: number
  readonly holdBytes: number
  readonly onNotice: (message: string) => void
}

export class Cursors {
  readonly #rooms: CursorRooms
  readonly #readers = new Map<string, DurableReader>()
  /** Those as they are on the disk. */
  readonly #kept = new Map<string, DurableReader>()

  private constructor(rooms: CursorRooms) {
    this.#rooms = rooms
  }

  static async open(rooms: CursorRooms): Promise<Cursors> {
    const cursors = new Cursors(rooms)
    const { rows, problems } = await rooms.keeper.load()
    for (const problem of problems) rooms.onNotice(`durable subscriptions: ${problem}`)
    const newest = rooms.newestEpoch()
    for (const { definition, epoch, ...row } of rows) {
      const { pages } = JSON.parse(definition) as { pages: string[] }
      // A log that was not synced may have lost epochs that a reader has seen.
      const reader = { ...row, pages, epoch: epoch === null ? null : Math.min(epoch, newest) }
      cursors.#readers.set(row.name, reader)
      cursors.#kept.set(row.name, reader)
    }
    return cursors
  }

  /** By name. */
  list(): DurableReader[] {
    return [...this.#readers.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  get(name: string): DurableReader | undefined {
    return this.#readers.get(name)
  }

  /** The reader of this name, or NOT_FOUND. */
  require(name: string): DurableReader {
    const reader = this.#readers.get(name)
    if (reader === undefined)
      throw new MmsbError('NOT_FOUND', `There is no durable subscription ${JSON.stringify(name)}.`)
    return reader
  }

  /** Makes a reader, or lets one that is there read other pages. Resolves when it is durable. Throws OVERLOADED. */
  async define(name: string, pages: readonly string[], epoch: number | null): Promise<void> {
    const nowMs = this.#rooms.nowMs()
    const known = this.#readers.get(name)
    if (known === undefined && this.#readers.size >= DURABLE_READERS_MAX) {
      throw new MmsbError('OVERLOADED', `There are ${DURABLE_READERS_MAX} durable subscriptions already.`)
    }
    await this.#put({ name, pages, epoch, createdMs: known?.createdMs ?? nowMs, seenMs: nowMs })
  }

  /**
   * Notes, now and then, that a reader was heard of. `idle`: the epochs after one and up to another have nothing for it; if it
   * has done with those before, its cursor moves over them.
   */
  touch(name: string, idle?: { readonly after: number; readonly upTo: number } | undefined): void {
    const reader = this.#readers.get(name)
    const { nowMs: clock, holdMs } = this.#rooms
    const nowMs = clock()
    if (reader === undefined || nowMs - reader.seenMs < Math.min(DURABLE_SEEN_MS, holdMs / 4)) return
    const isDone = idle !== undefined && reader.epoch !== null && reader.epoch >= idle.after
    const epoch = isDone ? Math.max(reader.epoch, idle.upTo) : reader.epoch
    this.#put({ ...reader, epoch, seenMs: nowMs }).catch(() => {})
  }

  /** Moves the cursor forward; resolves with where it stands, durably. Throws NOT_FOUND. */
  async commit(name: string, epoch: number): Promise<number> {
    const reader = this.require(name)
    const moved = Math.max(epoch, reader.epoch ?? 0)
    await this.#put({ ...reader, epoch: moved, seenMs: this.#rooms.nowMs() })
    return moved
  }

  async remove(name: string): Promise<void> {
    this.require(name)
    this.#readers.delete(name)
    try {
      await this.#rooms.keeper.remove(name)
      this.#kept.delete(name)
    } catch (error) {
      if (!this.#readers.has(name)) this.#restore(name)
      throw error
    }
  }

  async #put(reader: DurableReader): Promise<void> {
    const { pages, ...row } = reader
    this.#readers.set(row.name, reader)
    try {
      await this.#rooms.keeper.put({ ...row, definition: JSON.stringify({ pages }) } satisfies CursorRow)
      this.#kept.set(row.name, reader)
    } catch (error) {
      if (this.#readers.get(row.name) === reader) this.#restore(row.name)
      throw error
    }
  }

  /** What could not be written has not happened. */
  #restore(name: string): void {
    const kept = this.#kept.get(name)
    if (kept === undefined) this.#readers.delete(name)
    else this.#readers.set(name, kept)
  }

  /** Whether the past that the reader has not seen is kept for it. */
  holds({ epoch, seenMs }: DurableReader): boolean {
    const { nowMs, holdMs, holdBytes, bytesSince } = this.#rooms
    return epoch !== null && nowMs() - seenMs <= holdMs && bytesSince(epoch) <= holdBytes
  }

  /** The lowest epoch from which a reader is to go on; undefined when none needs any. */
  lowestNeeded(): number | undefined {
    const needed = this.list().flatMap((reader) => (this.holds(reader) ? (reader.epoch ?? []) : []))
    return needed.length === 0 ? undefined : Math.min(...needed)
  }

  close(): Promise<void> {
    return this.#rooms.keeper.close()
  }
}
