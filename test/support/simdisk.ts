/**
 * A disk in memory that can lose what was not synced. In a crash it keeps, drops or tears into sectors the
 * writes and truncations that no sync covered, and any of the names that changed since their folder was
 * synced, folders included. It can also die at the n-th sync, run full, or fail a call. It takes the bytes
 * of an asynchronous write late, and notes when somebody has changed them meanwhile.
 */
import path from 'node:path'
import type { Disk, DiskCallback } from '../../src/store/os/disk.js'
import type { FolderLock } from '../../src/store/os/lock.js'
import { afterCrash, Inode } from './sim-inode.js'

/** What a crash does to unsynced changes: keeps all, drops all, or decides for each sector under a seed. */
export type CrashPolicy = 'keep' | 'drop' | { readonly seed: number }

export class SimCrash extends Error {}

/** mulberry32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296
  }
}

interface Handle {
  readonly inode: Inode
  readonly dsync: boolean
}

export interface SimDiskOptions {
  /** The disk dies at the n-th sync, which does not happen. */
  readonly dieAtSync?: number
  /** Bytes that files can take up in total. */
  readonly roomBytes?: number
  readonly zeroAhead?: boolean
  /** Asynchronous writes take effect some time after the call, not at once. */
  readonly lateWrites?: boolean
  /** Schedules when an asynchronous call takes effect, and separately when it is answered. */
  readonly schedule?: (task: () => void) => void
  /** Makes a broken disk, for tests that must notice it. */
  readonly sabotage?: Sabotage
}

/** The lock of a folder that only one process can see. */
export const NO_LOCK: FolderLock = {
  identity: undefined,
  lost: () => undefined,
  watch: () => {},
  release: () => {},
}

export interface Sabotage {
  /** The bytes to write instead; undefined: none. */
  write?(bytes: Uint8Array, file: string): Uint8Array | undefined
  /** False: the sync reports success and does nothing. */
  sync?(file: string): boolean
}

type Names = Map<string, Inode>

interface NameChange {
  readonly dir: string
  readonly apply: (names: Names) => void
}

/** What a disk begins with. */
interface Contents {
  readonly names: Names
  /** Names as they were at the last sync of their folder, and the changes since. */
  readonly durable: Names
  readonly changes: NameChange[]
}

const NOTHING = (): Contents => ({ names: new Map(), durable: new Map(), changes: [] })

export class SimDisk implements Disk {
  syncs = 0
  dead = false
  /** Settles when the disk dies. */
  readonly died: Promise<void>
  /** Called before every operation; throws the error that the operation shall fail with. */
  fault: ((call: 'write' | 'sync' | 'allocate' | 'open' | 'syncDir', file: string) => void) | undefined
  roomBytes: number
  /** Writes whose bytes were changed before they were answered. */
  readonly spoilt: string[] = []
  readonly #options: SimDiskOptions
  readonly #names: Names
  readonly #durableNames: Names
  readonly #nameChanges: NameChange[]
  readonly #handles = new Map<number, Handle & { file: string }>()
  #nextFd = 3
  #die!: () => void
  #isBurnt = false
  readonly #unanswered: ((error: Error) => void)[] = []

  constructor(options: SimDiskOptions = {}, contents: Contents = NOTHING()) {
    this.#options = options
    this.#names = contents.names
    this.#durableNames = contents.durable
    this.#nameChanges = contents.changes
    this.died = new Promise((resolve) => {
      this.#die = resolve
    })
    this.roomBytes = options.roomBytes ?? Number.POSITIVE_INFINITY
  }

  /** The disk as the next process finds it after a crash. */
  crash(policy: CrashPolicy, options: SimDiskOptions = {}): SimDisk {
    const random = policy === 'keep' ? () => 0 : policy === 'drop' ? () => 1 : randomOf(policy.seed)
    const names = new Map(this.#durableNames)
    for (const change of this.#nameChanges) if (random() < 0.5) change.apply(names)
    const after: Names = new Map()
    const inodes = new Map<Inode, Inode>()
    for (const [file, inode] of names) {
      if (!isReachable(names, file)) continue
      const left = inodes.get(inode) ?? afterCrash(inode, random)
      inodes.set(inode, left)
      after.set(file, left)
    }
    return new SimDisk(options, { names: after, durable: new Map(after), changes: [] })
  }

  /**
   * The disk as the next process finds it when this one was killed and the machine goes on: all that reached
   * the system is shown, and what was not synced still is not.
   */
  nextProcess(options: SimDiskOptions = {}): SimDisk {
    const [names, durable, changes] = [this.#names, this.#durableNames, this.#nameChanges]
    return new SimDisk(options, { names, durable, changes })
  }

  #requireAlive(): void {
    if (this.dead) throw new SimCrash('the machine is dead')
  }

  /** Counts a sync that begins. True when the machine dies at this one. */
  #countSync(): boolean {
    this.syncs++
    if (this.syncs !== this.#options.dieAtSync) return false
    this.dead = true
    this.#die()
    return true
  }

  #handle(fd: number): Handle & { file: string } {
    this.#requireAlive()
    const handle = this.#handles.get(fd)
    if (handle === undefined) throw new Error(`bad descriptor ${fd}`)
    return handle
  }

  makeDir(dir: string): void {
    this.#requireAlive()
    if (this.#names.has(dir) || path.dirname(dir) === dir) return
    this.makeDir(path.dirname(dir))
    const made = new Inode(true)
    this.#changeNames(path.dirname(dir), (names) => names.set(dir, made))
  }

  list(dir: string): string[] {
    return [...this.#names.keys()]
      .filter((f) => path.dirname(f) === dir)
      .map((f) => path.basename(f))
      .sort()
  }

  exists(file: string): boolean {
    return this.#names.has(file)
  }

  open(file: string, { create, dsync }: { create?: boolean; dsync?: boolean }): number {
    this.#requireAlive()
    this.fault?.('open', file)
    let inode = this.#names.get(file)
    if (inode === undefined) {
      if (!create) throw Object.assign(new Error(`ENOENT: ${file}`), { code: 'ENOENT' })
      inode = new Inode()
      const made = inode
      this.#changeNames(path.dirname(file), (names) => names.set(file, made))
    }
    this.#handles.set(this.#nextFd, { inode, dsync: dsync ?? false, file })
    return this.#nextFd++
  }

  #changeNames(dir: string, apply: (names: Names) => void): void {
    apply(this.#names)
    this.#nameChanges.push({ dir, apply })
  }

  close(fd: number): void {
    this.#handles.delete(fd)
  }

  get openCount(): number {
    return this.#handles.size
  }

  sizeBytes(fd: number): number {
    return this.#handle(fd).inode.size
  }

  /** Nothing copies a file of this disk. */
  identityOf(fd: number): string {
    this.#handle(fd)
    return 'original'
  }

  readSync(fd: number, into: Uint8Array, length: number, position: number): number {
    const { inode } = this.#handle(fd)
    const piece = inode.current.subarray(position, Math.min(inode.size, position + length))
    into.set(piece)
    return piece.length
  }

  read(fd: number, into: Uint8Array, length: number, position: number): Promise<number> {
    return Promise.resolve(this.readSync(fd, into, length, position))
  }

  writeSync(fd: number, parts: readonly Uint8Array[], position: number): void {
    const { inode, dsync, file } = this.#handle(fd)
    this.fault?.('write', file)
    const given = joined(parts)
    const fits = this.#reserve(inode, position + given.length)
    const taken = fits ? given : given.subarray(0, Math.max(0, inode.reserved - position))
    const bytes =
      this.#options.sabotage?.write === undefined ? taken : this.#options.sabotage.write(taken, file)
    if (bytes !== undefined && bytes.length > 0) inode.apply({ at: position, bytes })
    if (!fits) throw noRoom()
    if (dsync) this.#syncInode(inode, file)
  }

  /** Takes room for the file up to `end`: as much as there is. False when that is not enough. */
  #reserve(inode: Inode, end: number): boolean {
    const need = Math.max(0, end - inode.reserved)
    const got = Math.min(need, Math.max(0, this.roomBytes))
    inode.reserved += got
    this.roomBytes -= got
    return got === need
  }

  #free(inode: Inode | undefined, length = 0): void {
    if (inode === undefined || inode.reserved <= length) return
    this.roomBytes += inode.reserved - length
    inode.reserved = length
  }

  #syncInode(inode: Inode, file: string): void {
    try {
      this.fault?.('sync', file)
    } catch (error) {
      inode.failSync()
      throw error
    }
    if (this.#countSync()) throw new SimCrash('the machine died')
    if (this.#options.sabotage?.sync?.(file) === false) return
    inode.sync()
  }

  write(fd: number, parts: readonly Uint8Array[], position: number, done: DiskCallback): void {
    const given = joined(parts)
    const file = this.#handles.get(fd)?.file
    const look = (when: string): void => {
      if (Buffer.compare(joined(parts), given) === 0) return
      this.spoilt.push(`${given.length} bytes at ${position} of ${file} were changed before ${when}`)
    }
    const answered: DiskCallback = (error) => {
      look('their write was answered')
      done(error)
    }
    this.#later(answered, () => {
      look('they were written')
      this.writeSync(fd, parts, position)
    })
  }

  /** Runs the call now or later and answers it later. A dead machine never answers. */
  #later(done: DiskCallback, run: () => void): void {
    const { schedule } = this.#options
    if (schedule !== undefined) schedule(() => this.#runThenAnswer(done, run))
    else if (this.#options.lateWrites) setImmediate(() => this.dead || this.#runThenAnswer(done, run))
    else this.#runThenAnswer(done, run)
  }

  #runThenAnswer(done: DiskCallback, run: () => void): void {
    let error: Error | null = null
    try {
      run()
    } catch (failure) {
      if (failure instanceof SimCrash && !this.#isBurnt) {
        this.#unanswered.push(done)
        return
      }
      error = failure as Error
    }
    const answer = (): void => {
      if (!this.dead || this.#isBurnt) done(error)
      else this.#unanswered.push(done)
    }
    if (this.#options.schedule === undefined) queueMicrotask(answer)
    else this.#options.schedule(answer)
  }

  /** Answers every waiting and every later call of a dead machine with an error. */
  burn(): void {
    this.#isBurnt = true
    for (const done of this.#unanswered.splice(0)) done(new SimCrash('the machine is dead'))
  }

  syncSync(fd: number): void {
    const { inode, file } = this.#handle(fd)
    this.#syncInode(inode, file)
  }

  sync(fd: number, done: DiskCallback): void {
    this.#later(done, () => this.syncSync(fd))
  }

  truncate(fd: number, length: number): void {
    const { inode } = this.#handle(fd)
    inode.apply({ size: length })
    this.#free(inode, length)
  }

  allocate(fd: number, offset: number, length: number): boolean {
    const { inode, file } = this.#handle(fd)
    this.fault?.('allocate', file)
    if (offset + length - inode.reserved > this.roomBytes) throw noRoom()
    this.#reserve(inode, offset + length)
    inode.apply({ size: Math.max(inode.size, offset + length) })
    return this.#options.zeroAhead ?? false
  }

  isAt(fd: number, file: string): boolean {
    // A dead machine reports no loss.
    return this.dead || this.#names.get(file) === this.#handle(fd).inode
  }

  rename(from: string, to: string): void {
    this.#requireAlive()
    if (this.#names.has(from)) this.#free(this.#names.get(to))
    this.#changeNames(path.dirname(to), (names) => {
      const inode = names.get(from)
      if (inode === undefined) return
      names.delete(from)
      names.set(to, inode)
    })
  }

  remove(file: string): void {
    this.#requireAlive()
    if (!this.#names.has(file)) return
    this.#free(this.#names.get(file))
    this.#changeNames(path.dirname(file), (names) => names.delete(file))
  }

  async syncDir(dir: string): Promise<void> {
    this.#requireAlive()
    this.fault?.('syncDir', dir)
    if (this.#countSync()) {
      await new Promise((_, reject) => this.#unanswered.push(reject))
    }
    if (this.#options.sabotage?.sync?.(dir) === false) return
    for (const change of this.#nameChanges) if (change.dir === dir) change.apply(this.#durableNames)
    const rest = this.#nameChanges.filter((change) => change.dir !== dir)
    this.#nameChanges.splice(0, this.#nameChanges.length, ...rest)
  }

  /** The bytes of a file, for tests that break them. */
  bytesOf(file: string): Uint8Array {
    const inode = this.#names.get(file)
    if (inode === undefined) throw new Error(`no file ${file}`)
    return inode.current.subarray(0, inode.size)
  }

  /** The result of `make` for a file's bytes, made again only when they change. */
  memo<T>(file: string, make: (bytes: Uint8Array) => T): T {
    const bytes = this.bytesOf(file)
    const inode = this.#names.get(file) as Inode
    inode.memo ??= make(bytes)
    return inode.memo as T
  }

  /** Puts a file in place as if it had always been there, and its folders too. */
  put(file: string, bytes: Uint8Array): void {
    for (let dir = path.dirname(file); path.dirname(dir) !== dir; dir = path.dirname(dir)) {
      const folder = this.#names.get(dir) ?? new Inode(true)
      this.#names.set(dir, folder)
      this.#durableNames.set(dir, folder)
    }
    const inode = new Inode()
    inode.apply({ at: 0, bytes: Uint8Array.from(bytes) })
    inode.sync()
    this.#names.set(file, inode)
    this.#durableNames.set(file, inode)
  }

  get files(): string[] {
    return [...this.#names].flatMap(([file, { isFolder }]) => (isFolder ? [] : [file])).sort()
  }
}

const joined = (parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(Buffer.concat(parts))
const noRoom = (): Error => Object.assign(new Error('ENOSPC: no room'), { code: 'ENOSPC' })

/** Whether all the folders above it are there. */
function isReachable(names: Names, file: string): boolean {
  const dir = path.dirname(file)
  return dir === path.dirname(dir) || (names.get(dir)?.isFolder === true && isReachable(names, dir))
}
