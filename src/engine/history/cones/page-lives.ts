/**
 * Which pages existed at which epochs, and what each derives from: read from a checkpoint's list of pages and
 * the structural records after it, without any values. With it a replay knows which pages it needs before it
 * begins.
 *
 * Invariants: complete from `base` to `through`, both included. The inputs of a page never change while it
 * lives, and ids are never used again, so a life is described once.
 */
import { MmsbError } from '../../../errors.js'
import { REPLAY_LIVES_JUMP_EPOCHS } from '../../../limits.js'
import { decodeFrame, splitFrames } from '../../../state/frame/reader.js'
import { scanFrames } from '../../../state/frame/scan.js'
import type { HistoryReader } from '../../../store/history.js'
import type { LogRecord } from '../../../store/types.js'
import { COMMAND_CREATE_PAGE, COMMAND_DELETE_PAGE } from '../../../wire/frame.js'
import { recordOfLoggedCreate } from '../../pages/page-records.js'

interface Life {
  readonly id: number
  readonly name: string
  readonly bytes: number
  readonly createdEpoch: number
  /** The epoch that deleted the page, as far as it is known. */
  deletedEpoch: number
  /** The pages whose present or past it reads. */
  readonly inputs: readonly number[]
}

export class PageLives {
  readonly #reader: HistoryReader
  readonly #onPause: (epoch: number) => void
  #base = 0
  #through = -1
  #version = 0
  #byId = new Map<number, Life>()
  #byName = new Map<string, Life[]>()

  /** `onPause` is called for every record that is read; it throws to end the search. */
  constructor(reader: HistoryReader, onPause: (epoch: number) => void) {
    this.#reader = reader
    this.#onPause = onPause
  }

  /** Another number whenever lives were added or ended. */
  get version(): number {
    return this.#version
  }

  /** The last epoch whose lives are known. */
  get through(): number {
    return this.#through
  }

  createdEpoch(id: number): number {
    return this.#byId.get(id)?.createdEpoch ?? 0
  }

  bytesOf(ids: Iterable<number>): number {
    let bytes = 0
    for (const id of ids) bytes += this.#byId.get(id)?.bytes ?? 0
    return bytes
  }

  /** Makes the lives of the epochs from..to known. Throws EPOCH_COMPACTED when they cannot be. */
  cover(from: number, to: number): void {
    if (this.#mustRestart(from)) this.#restart(from)
    if (to <= this.#through) return
    for (const record of this.#reader.records(this.#through + 1, to)) {
      if (!scanFrames(record.frames).onlyDeltas) this.#addRecord(record)
      this.#through = record.epoch
      this.#onPause(record.epoch)
    }
  }

  #mustRestart(from: number): boolean {
    if (this.#through < 0 || from < this.#base) return true
    if (from <= this.#through) return false
    if ((this.#reader.firstEpoch ?? 1) > this.#through + 1) return true
    if (from - this.#through <= REPLAY_LIVES_JUMP_EPOCHS) return false
    return this.#reader.checkpointEpochs().some((epoch) => epoch <= from && epoch > this.#through)
  }

  #restart(from: number): void {
    this.#byId = new Map()
    this.#byName = new Map()
    this.#through = -1
    this.#version++
    for (const epoch of this.#reader.checkpointEpochs()) {
      if (epoch > from) continue
      const pages = this.#reader.checkpointPages(epoch)
      if (pages === undefined) continue
      for (const { meta, createdEpoch } of pages) if (meta.byteLength > 0) this.#addFrame(meta, createdEpoch)
      this.#base = epoch
      this.#through = epoch
      return
    }
    if ((this.#reader.firstEpoch ?? 1) !== 1)
      throw new MmsbError('EPOCH_COMPACTED', `Epoch ${from} can no longer be rebuilt.`)
    this.#base = 0
    this.#through = 0
  }

  #addRecord({ epoch, frames }: LogRecord): void {
    for (const frame of splitFrames(frames)) this.#addFrame(frame, epoch)
  }

  #addFrame(bytes: Uint8Array, epoch: number): void {
    this.#version++
    for (const command of decodeFrame(bytes).commands) {
      if (command.type === COMMAND_DELETE_PAGE) {
        const life = this.#byId.get(command.pageId)
        if (life !== undefined) life.deletedEpoch = epoch
      } else if (command.type === COMMAND_CREATE_PAGE) {
        const { id, name, bytes, derived } = recordOfLoggedCreate(command, (page) => `#${page}`)
        const inputs = [...new Set((derived?.inputs ?? []).map((input) => input.prev ?? input.id))]
        const life = { id, name, bytes, createdEpoch: epoch, deletedEpoch: Number.POSITIVE_INFINITY, inputs }
        this.#byId.set(id, life)
        const namesakes = this.#byName.get(name)
        if (namesakes === undefined) this.#byName.set(name, [life])
        else namesakes.push(life)
      }
    }
  }

  /** The pages of these names that lived, or were created or deleted, in the epochs from..to. */
  named(names: Iterable<string>, from: number, to: number): number[] {
    return [...new Set(names)].flatMap((name) =>
      (this.#byName.get(name) ?? []).filter((life) => livedIn(life, from, to)).map(({ id }) => id),
    )
  }

  /** The same for the pages whose names match. */
  matching(matches: (name: string) => boolean, from: number, to: number): number[] {
    const ids: number[] = []
    for (const [name, lives] of this.#byName) {
      if (!matches(name)) continue
      for (const life of lives) if (livedIn(life, from, to)) ids.push(life.id)
    }
    return ids
  }

  /** These pages, and all that they derive from, directly or not. */
  withInputs(ids: Iterable<number>): Set<number> {
    const cone = new Set(ids)
    for (const id of cone) for (const input of this.#byId.get(id)?.inputs ?? []) cone.add(input)
    return cone
  }
}

const livedIn = ({ createdEpoch, deletedEpoch }: Life, from: number, to: number): boolean =>
  createdEpoch <= to && deletedEpoch >= from
