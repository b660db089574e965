/**
 * Which history the epochs of a data folder belong to: history.json (docs/internals/FORMAT.md).
 *
 * A history is named by the id of the bus and a generation. The generation is random. It changes whenever an
 * epoch number that was published may be used again, so that nobody takes an epoch of one history for one of
 * another.
 *
 * Invariants: a file that is missing, damaged, of another bus or a copy means a new generation.
 * So a restore, a repair and a cut only have to remove it. Under `interval` and `off` a crash can lose
 * published epochs: the file then says that the folder is in use, and only a clean close takes that back. A
 * generation is durable, or certain to be replaced at the next start, before the store is handed out. Knows
 * nothing of what the log holds.
 */
import path from 'node:path'
import type { Disk } from './os/disk.js'
import { busFailed, textOf } from './os/errors.js'
import { readOpen, replaceFile } from './os/small-file.js'
import type { FsyncPolicy, Notice } from './types.js'

export const HISTORY_NAME = 'history.json'
const DRAFT_NAME = 'history.tmp'
const FORMAT = 1
/** Far more than a file that this store writes has. */
const FILE_MAX_BYTES = 4096
const GENERATION_BYTES = 8

/** The content of history.json. */
interface Kept {
  readonly format: number
  readonly bus: string
  readonly generation: string
  /** Every published epoch is durable; false while a store runs that does not sync each of them. */
  readonly clean: boolean
  /** The file itself (Disk.identityOf): tells a copy from the original. */
  readonly file: string
}

export interface HistoryFolder {
  readonly disk: Disk
  readonly dir: string
}

export interface HistoryFileOptions extends HistoryFolder {
  readonly busId: string
  readonly fsync: FsyncPolicy
  readonly random: (length: number) => Uint8Array
  readonly notify: (level: Notice['level'], message: string) => void
}

/** The name of a history: `<bus id>.<generation>`, 32 and 16 hexadecimal digits. */
export const historyName = (busId: string, generation: string): string => `${busId}.${generation}`

/** A new generation. */
export const newGeneration = (random: (length: number) => Uint8Array): string =>
  Buffer.from(random(GENERATION_BYTES)).toString('hex')

/** The history of an open store. */
export class HistoryFile {
  /** `<bus id>.<generation>`. */
  readonly name: string
  readonly #options: HistoryFileOptions
  readonly #generation: string
  /** What the file says; undefined if there is none. */
  #isClean: boolean | undefined

  /** Reads the file, or begins a new generation. Throws BUS_FAILED when neither is possible. */
  static async open(options: HistoryFileOptions): Promise<HistoryFile> {
    const { busId, random } = options
    const kept = readKept(options)
    const reason = whyNew(kept, busId)
    const isKept = typeof kept !== 'string' && reason === undefined
    const file = new HistoryFile(options, isKept ? kept.generation : newGeneration(random))
    file.#isClean = isKept ? kept.clean : undefined
    const wanted = options.fsync === 'always'
    if (file.#isClean !== wanted) await file.#writeOrForget(wanted)
    if (reason !== undefined && kept !== MISSING) options.notify('warn', `a new history begins: ${reason}`)
    return file
  }

  private constructor(options: HistoryFileOptions, generation: string) {
    this.#options = options
    this.#generation = generation
    this.name = historyName(options.busId, generation)
  }

  /** Every published epoch is durable now. A failure costs nothing but a new generation at the next start. */
  async close(): Promise<void> {
    if (this.#isClean === true) return
    try {
      await this.#write(true)
    } catch (error) {
      this.#options.notify('warn', `${HISTORY_NAME} cannot be written: ${textOf(error)}`)
    }
  }

  /** On a full disk there is no file, which means a new generation at the next start. */
  async #writeOrForget(clean: boolean): Promise<void> {
    try {
      await this.#write(clean)
    } catch (error) {
      this.#isClean = undefined
      try {
        await forgetHistory(this.#options)
      } catch {
        throw busFailed(`${HISTORY_NAME} cannot be written: ${textOf(error)}`, error)
      }
      const outcome = 'the next start begins a new history'
      this.#options.notify('warn', `${HISTORY_NAME} cannot be written (${textOf(error)}): ${outcome}`)
    }
  }

  async #write(clean: boolean): Promise<void> {
    const { disk, dir, busId } = this.#options
    await replaceFile(disk, dir, { name: HISTORY_NAME, draft: DRAFT_NAME }, (fd) => {
      const generation = this.#generation
      const kept: Kept = { format: FORMAT, bus: busId, generation, clean, file: disk.identityOf(fd) }
      return Buffer.from(`${JSON.stringify(kept)}\n`)
    })
    this.#isClean = clean
  }
}

const MISSING = 'it is missing'

/** Why the file does not name the present history; undefined if it does. */
function whyNew(kept: Kept | string, busId: string): string | undefined {
  if (typeof kept === 'string') return `${HISTORY_NAME} cannot be used: ${kept}`
  if (kept.bus !== busId) return `${HISTORY_NAME} belongs to another bus`
  if (!kept.clean) return 'the last run did not sync every epoch and did not end cleanly'
  return undefined
}

/** The history that the folder's file names; undefined if the next start begins a new one. */
export function keptHistory(folder: HistoryFolder, busId: string): string | undefined {
  const kept = readKept(folder)
  if (typeof kept === 'string' || whyNew(kept, busId) !== undefined) return undefined
  return historyName(busId, kept.generation)
}

/** The content of the file, or why it cannot be used. */
function readKept({ disk, dir }: HistoryFolder): Kept | string {
  const file = path.join(dir, HISTORY_NAME)
  if (!disk.exists(file)) return MISSING
  try {
    const fd = disk.open(file, {})
    try {
      const kept = JSON.parse(readOpen(disk, fd, FILE_MAX_BYTES).toString('utf8')) as Kept
      if (!isKept(kept)) return 'its content is not that of a history'
      return kept.file === disk.identityOf(fd) ? kept : 'it is a copy'
    } finally {
      disk.close(fd)
    }
  } catch (error) {
    return textOf(error)
  }
}

function isKept(kept: Partial<Kept>): boolean {
  return (
    kept.format === FORMAT &&
    /^[0-9a-f]{32}$/.test(String(kept.bus)) &&
    /^[0-9a-f]{16}$/.test(String(kept.generation)) &&
    typeof kept.clean === 'boolean'
  )
}

/** From now on the folder has another history. Durable when the promise resolves. */
export async function forgetHistory({ disk, dir }: HistoryFolder): Promise<void> {
  disk.remove(path.join(dir, HISTORY_NAME))
  await disk.syncDir(dir)
}
