/**
 * The audit folder as one writer sees it.
 *
 * Invariants: lines of one call are written whole or not at all: after an error the files are cut back. Other
 * processes may write to the folder too: each call works under a lock, from where the chain ends then. `head`
 * is written after the lines that it names are durable.
 */
import fs from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { AUDIT_LOCK_WAIT_MS } from '../limits.js'
import { PRIVATE_FILE, PRIVATE_FOLDER } from '../store/os/private-files.js'
import { EMPTY, fileOf, filesIn, findEnd, HEAD_NAME, type Head, headText, readHead } from './files.js'
import { type AuditEntry, type ChainEnd, lineAfter } from './line.js'

/** Locks an open file for this descriptor alone (flock). Returns 0 or an errno. */
export type Lock = (fd: number) => number

/** Gets what an operator should know. */
export type OnNotice = (level: 'info' | 'warn' | 'error', message: string, details: object) => void

export interface TrailOptions {
  readonly dir: string
  readonly lock: Lock
  readonly onNotice: OnNotice
}

export interface TimedEntry {
  readonly tsMs: number
  readonly entry: AuditEntry
}

const EWOULDBLOCK = 11
const LOCK_RETRY_MS = 2
const sync = promisify(fs.fdatasync)

export class AuditTrail {
  readonly #options: TrailOptions
  /** Where the chain ended after the last call; undefined after an error. */
  #head: Head | undefined
  #open: { readonly file: string; readonly fd: number } | undefined
  /** There are lines that may not be durable yet. */
  #isUnsynced = false

  constructor(options: TrailOptions) {
    this.#options = options
  }

  /** Makes the folder if it is missing. Throws errors of the system. */
  prepare(): ChainEnd {
    const { dir } = this.#options
    makeFolder(dir)
    return findEnd(dir).head
  }

  /** Writes lines for these entries; with `isDurable` they are durable when this resolves. */
  async write(entries: readonly TimedEntry[], isDurable: boolean): Promise<void> {
    const lock = await this.#locked()
    const written = new Map<string, number>()
    try {
      let head = this.#place()
      written.set(head.file, head.bytes)
      let text = ''
      const flush = async (): Promise<void> => {
        const bytes = Buffer.from(text)
        text = ''
        if (bytes.length > 0) await writeAll(this.#descriptorOf(head.file), bytes, head.bytes)
        head = { ...head, bytes: head.bytes + bytes.length }
      }
      for (const { tsMs, entry } of entries) {
        const file = fileOf(tsMs)
        // A clock that was put back does not put lines back.
        if (file > head.file) {
          await flush()
          if (head.file !== '') await sync(this.#descriptorOf(head.file))
          head = { ...head, file, bytes: 0 }
          written.set(file, 0)
        }
        const { line, end } = lineAfter(head, tsMs, entry)
        head = { ...head, ...end }
        text += `${line}\n`
      }
      await flush()
      this.#head = head
      this.#isUnsynced = true
      if (isDurable) await this.#sync(lock)
    } catch (error) {
      this.#cutBack(written)
      throw error
    } finally {
      fs.closeSync(lock)
    }
  }

  /** Makes durable what was written. */
  async sync(): Promise<void> {
    if (!this.#isUnsynced) return
    const lock = await this.#locked()
    try {
      await this.#sync(lock)
    } finally {
      fs.closeSync(lock)
    }
  }

  /** Where the chain ended after the last call. */
  get end(): ChainEnd | undefined {
    return this.#head
  }

  close(): void {
    if (this.#open !== undefined) fs.closeSync(this.#open.fd)
    this.#open = undefined
    this.#head = undefined
  }

  async #sync(lock: number): Promise<void> {
    const head = this.#head
    if (head === undefined) return
    await sync(this.#descriptorOf(head.file))
    this.#isUnsynced = false
    // Another process may have gone on from here already.
    if ((readHead(this.#options.dir)?.seq ?? 0) < head.seq)
      await writeAll(lock, Buffer.from(headText(head)), 0)
  }

  /** The lock lies on `head`, and ends when its descriptor is closed, also by a crash. */
  async #locked(): Promise<number> {
    const { dir, lock } = this.#options
    const { O_CREAT, O_RDWR } = fs.constants
    makeFolder(dir)
    const fd = fs.openSync(path.join(dir, HEAD_NAME), O_RDWR | O_CREAT, PRIVATE_FILE)
    for (let waitedMs = 0; lock(fd) === EWOULDBLOCK; waitedMs += LOCK_RETRY_MS) {
      if (waitedMs >= AUDIT_LOCK_WAIT_MS) {
        fs.closeSync(fd)
        throw new Error(`another process holds ${path.join(dir, HEAD_NAME)}`)
      }
      await sleep(LOCK_RETRY_MS)
    }
    // A head that names no line is not one that was emptied.
    if (fs.fstatSync(fd).size === 0) fs.writeSync(fd, headText(EMPTY), 0)
    return fd
  }

  /** Where the next line goes. Cuts off a line that a crash has torn. */
  #place(): Head {
    const { dir, onNotice } = this.#options
    if (this.#head !== undefined && this.#isStill(this.#head)) return this.#head
    this.close()
    const { head, tornBytes } = findEnd(dir)
    if (tornBytes > 0) {
      fs.ftruncateSync(this.#descriptorOf(head.file), head.bytes)
      onNotice('warn', 'cut a torn line off the audit trail', { file: head.file, tornBytes })
    }
    return head
  }

  /** Whether nobody else has written since. */
  #isStill({ file, bytes }: Head): boolean {
    const { dir } = this.#options
    if (this.#open?.file !== file || filesIn(dir).at(-1) !== file) return false
    const named = fs.statSync(path.join(dir, file))
    return named.size === bytes && named.ino === fs.fstatSync(this.#open.fd).ino
  }

  #descriptorOf(file: string): number {
    if (this.#open?.file === file) return this.#open.fd
    if (this.#open !== undefined) fs.closeSync(this.#open.fd)
    this.#open = undefined
    const { dir } = this.#options
    const { O_CREAT, O_RDWR } = fs.constants
    const fd = fs.openSync(path.join(dir, file), O_RDWR | O_CREAT, PRIVATE_FILE)
    this.#open = { file, fd }
    fs.fchmodSync(fd, PRIVATE_FILE)
    syncFolder(dir)
    return fd
  }

  /** Takes back what a failed call has written. What cannot be taken back is found at the next call. */
  #cutBack(written: ReadonlyMap<string, number>): void {
    this.#head = undefined
    try {
      for (const [file, bytes] of written) if (file !== '') fs.ftruncateSync(this.#descriptorOf(file), bytes)
    } catch {}
    this.close()
  }
}

/** In a folder that is there. */
function makeFolder(dir: string): void {
  if (fs.existsSync(dir)) return
  fs.mkdirSync(dir, { mode: PRIVATE_FOLDER })
  syncFolder(path.dirname(dir))
}

function syncFolder(dir: string): void {
  const fd = fs.openSync(dir, 'r')
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

function writeAll(fd: number, bytes: Buffer, at: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void => {
      fs.write(fd, bytes, done, bytes.length - done, at + done, (error, written) => {
        if (error !== null) reject(error)
        else if (done + written === bytes.length) resolve()
        else step(done + written)
      })
    }
    step(0)
  })
}
