/**
 * Named durable readers: how far each has read, across restarts, and which history it still needs.
 *
 * Invariants: a cursor only moves forward. When the promise of a move resolves, the move is durable; when it
 * rejects, the cursor has not moved. History is kept for a reader only for a limited time after it was last
 * seen, and only up to a number of bytes.
 *
 * Null because the store has it for a reader that has not committed its snapshot yet.
 */
import { MmsbError } from '../errors.js'
import { DURABLE_READERS_MAX, DURABLE_SEEN_MS } from '../limits.js'
import type { CursorRow, CursorStore } from '../store/cursors/cursors.js'

export interface DurableReader {
  readonly name: string
  readonly pages: readonly string[]
  /** The history that its epoch belongs to. */
  readonly history: string
  /** The last epoch that it has processed; null: it needs a snapshot first. */
  readonly epoch: number | null
  readonly createdMs: number
  /** When it last connected or moved its cursor. */
  readonly seenMs: number
}

/** The definition of a reader in cursors.db, as JSON. */
interface Definition {
  readonly pages: string[]
  readonly history?: string
}

export interface CursorDeps {
  readonly store: CursorStore
  readonly nowMs: () => number
  readonly newestEpoch: () => number
  /** The history of the bus. */
  readonly history: string
  /** Bytes of log from the segment with this epoch on. */
  readonly bytesSince: (epoch: number) => number
  readonly holdMs: number
  readonly holdBytes: number
  readonly onNotice: (message: string) => void
}

export class Cursors {
  readonly #deps: CursorDeps
  readonly #readers = new Map<string, DurableReader>()
  /** The readers as they are on disk. */
  readonly #kept = new Map<string, DurableReader>()

  /** Holds nothing yet; `open` loads what is on disk. */
  constructor(deps: CursorDeps) {
    this.#deps = deps
  }

  static async open(deps: CursorDeps): Promise<Cursors> {
    const cursors = new Cursors(deps)
    const { rows, problems } = await deps.store.load()
    for (const problem of problems) deps.onNotice(`durable subscriptions: ${problem}`)
    const newest = deps.newestEpoch()
    for (const { definition, epoch, ...row } of rows) {
      const { pages, history = deps.history } = JSON.parse(definition) as Definition
      // Releases up to 0.1.0 name no history, and may have lost epochs that the reader has seen.
      const reader = { ...row, pages, history, epoch: epoch === null ? null : Math.min(epoch, newest) }
      cursors.#readers.set(row.name, reader)
      cursors.#kept.set(row.name, reader)
    }
    return cursors
  }

  /** All readers, sorted by name. */
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

  /**
   * Creates a reader, or changes which pages an existing one reads. Resolves when it is durable. Throws
   * OVERLOADED.
   */
  async define(name: string, pages: readonly string[], epoch: number | null): Promise<void> {
    const nowMs = this.#deps.nowMs()
    const known = this.#readers.get(name)
    if (known === undefined && this.#readers.size >= DURABLE_READERS_MAX) {
      throw new MmsbError('OVERLOADED', `There are ${DURABLE_READERS_MAX} durable subscriptions already.`)
    }
    const { history } = this.#deps
    await this.#put({ name, pages, history, epoch, createdMs: known?.createdMs ?? nowMs, seenMs: nowMs })
  }

  /**
   * Records that a connected reader was seen, at most once in a while. `idle`: the epochs after `after` up to
   * `upTo` hold nothing for it; if it has processed everything before them, its cursor advances over them.
   */
  touch(name: string, idle?: { readonly after: number; readonly upTo: number } | undefined): void {
    const reader = this.#readers.get(name)
    const { nowMs: clock, holdMs } = this.#deps
    const nowMs = clock()
    if (reader === undefined || nowMs - reader.seenMs < Math.min(DURABLE_SEEN_MS, holdMs / 4)) return
    const isDone = idle !== undefined && reader.epoch !== null && reader.epoch >= idle.after
    const epoch = isDone ? Math.max(reader.epoch, idle.upTo) : reader.epoch
    this.#put({ ...reader, epoch, seenMs: nowMs }).catch(() => {})
  }

  /** Moves the cursor forward; resolves with its durable position. Throws NOT_FOUND. */
  async commit(name: string, epoch: number): Promise<number> {
    const reader = this.require(name)
    const moved = Math.max(epoch, reader.epoch ?? 0)
    await this.#put({ ...reader, epoch: moved, seenMs: this.#deps.nowMs() })
    return moved
  }

  async remove(name: string): Promise<void> {
    this.require(name)
    this.#readers.delete(name)
    try {
      await this.#deps.store.remove(name)
      this.#kept.delete(name)
    } catch (error) {
      if (!this.#readers.has(name)) this.#restore(name)
      throw error
    }
  }

  async #put(reader: DurableReader): Promise<void> {
    const { pages, history, ...row } = reader
    this.#readers.set(row.name, reader)
    try {
      await this.#deps.store.put({
        ...row,
        definition: JSON.stringify({ pages, history }),
      } satisfies CursorRow)
      this.#kept.set(row.name, reader)
    } catch (error) {
      if (this.#readers.get(row.name) === reader) this.#restore(row.name)
      throw error
    }
  }

  /** Goes back to what is on disk, because a write failed. */
  #restore(name: string): void {
    const kept = this.#kept.get(name)
    if (kept === undefined) this.#readers.delete(name)
    else this.#readers.set(name, kept)
  }

  /** Whether the history that the reader has not seen is kept for it. */
  holds({ epoch, history, seenMs }: DurableReader): boolean {
    const { nowMs, holdMs, holdBytes, bytesSince } = this.#deps
    if (history !== this.#deps.history) return false
    return epoch !== null && nowMs() - seenMs <= holdMs && bytesSince(epoch) <= holdBytes
  }

  /** The lowest epoch that a reader continues from; undefined when no reader needs history. */
  lowestNeeded(): number | undefined {
    const needed = this.list().flatMap((reader) => (this.holds(reader) ? (reader.epoch ?? []) : []))
    return needed.length === 0 ? undefined : Math.min(...needed)
  }

  close(): Promise<void> {
    return this.#deps.store.close()
  }
}
