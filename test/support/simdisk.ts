/**
 * A disk in memory that can lose what was not synced. In a crash it keeps, drops or tears into sectors the
 * writes, truncations and names that no sync covered. It can also die at the n-th sync, run full, or fail a
 * call.
 */
import path from 'node:path'
import type { Disk, DiskCallback } from '../../src/store/os/disk.js'
import type { FolderLock } from '../../src/store/os/lock.js'

const SECTOR_BYTES = 512

/** What a crash does to unsynced changes: keeps all, drops all, or decides for each sector under a seed. */
export type CrashPolicy = 'keep' | 'drop' | { readonly seed: number }

export class SimCrash extends Error {}

type Change = { readonly at: number; readonly bytes: Uint8Array } | { readonly size: number }

class Inode {
  durable = new Uint8Array(0)
  durableSize = 0
  current = new Uint8Array(0)
  size = 0
  pending: Change[] = []
  /** Cached result of SimDisk.memo for the current bytes. */
  memo: unknown
  /** The bytes that the system shows are durable, apart from pending changes. */
  isTrue = true

  apply(change: Change): void {
    this.memo = undefined
    this.pending.push(change)
    const grown = applyTo(this.current, this.size, change)
    this.current = grown.bytes
    this.size = grown.size
  }

  sync(): void {
    let state = { bytes: this.durable, size: this.durableSize }
    for (const change of this.pending) state = applyTo(state.bytes, state.size, change)
    this.durable = state.bytes
    this.durableSize = state.size
    this.pending = []
  }

  /** A failed sync: the system still shows the bytes and considers them clean. */
  failSync(): void {
    this.pending = []
    this.isTrue = false
  }
}

function applyTo(
  bytes: Uint8Array<ArrayBuffer>,
  size: number,
  change: Change,
): { bytes: Uint8Array<ArrayBuffer>; size: number } {
  const end = 'size' in change ? change.size : change.at + change.bytes.length
  if (end > bytes.length) {
    const grown = new Uint8Array(Math.max(end, bytes.length * 2))
    grown.set(bytes.subarray(0, size))
    bytes = grown
  }
  if ('size' in change) {
    if (change.size < size) bytes.fill(0, change.size, size)
    return { bytes, size: change.size }
  }
  bytes.set(change.bytes, change.at)
  return { bytes, size: Math.max(size, end) }
}

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
  /** Bytes that can be allocated in total. */
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

export class SimDisk implements Disk {
  syncs = 0
  dead = false
  /** Settles when the disk dies. */
  readonly died: Promise<void>
  /** Called before every operation; throws the error that the operation shall fail with. */
  fault: ((call: 'write' | 'sync' | 'allocate' | 'open' | 'syncDir', file: string) => void) | undefined
  roomBytes: number
  readonly #options: SimDiskOptions
  #names: Names
  /** Names as they were at the last sync of their folder, and the changes since. */
  readonly #durableNames: Names
  #nameChanges: { readonly dir: string; readonly apply: (names: Names) => void }[] = []
  readonly #dirs = new Set<string>()
  readonly #handles = new Map<number, Handle & { file: string }>()
  #nextFd = 3
  #die!: () => void
  #isBurnt = false
  readonly #unanswered: ((error: Error) => void)[] = []

  /** `names`: the files that the disk begins with. */
  constructor(options: SimDiskOptions = {}, names: Names = new Map()) {
    this.#options = options
    this.#names = names
    this.#durableNames = new Map(names)
    this.died = new Promise((resolve) => {
      this.#die = resolve
    })
    this.roomBytes = options.roomBytes ?? Number.POSITIVE_INFINITY
  }

  /** The disk as the next process finds it after a crash. */
  crash(policy: CrashPolicy, options: SimDiskOptions = {}): SimDisk {
    const random = policy === 'keep' ? () => 0 : policy === 'drop' ? () => 1 : randomOf(policy.seed)
    const names = new Map(this.#durableNames)
    const kept =
      policy === 'keep'
        ? this.#nameChanges.length
        : Math.floor((1 - random()) * (this.#nameChanges.length + 1))
    for (const change of this.#nameChanges.slice(0, policy === 'drop' ? 0 : kept)) change.apply(names)
    const after: Names = new Map()
    for (const [file, inode] of names) after.set(file, afterCrash(inode, random))
    return new SimDisk(options, after)
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
    this.#dirs.add(dir)
  }

  list(dir: string): string[] {
    return [...this.#names.keys()]
      .filter((f) => path.dirname(f) === dir)
      .map((f) => path.basename(f))
      .sort()
  }

  exists(file: string): boolean {
    return this.#names.has(file) || this.#dirs.has(file)
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
    const given = Uint8Array.from(Buffer.concat(parts))
    const bytes =
      this.#options.sabotage?.write === undefined ? given : this.#options.sabotage.write(given, file)
    if (bytes !== undefined) inode.apply({ at: position, bytes })
    if (dsync) this.#syncInode(inode, file)
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
    this.#later(done, () => this.writeSync(fd, parts, position))
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
    this.#handle(fd).inode.apply({ size: length })
  }

  allocate(fd: number, offset: number, length: number): boolean {
    const { inode, file } = this.#handle(fd)
    this.fault?.('allocate', file)
    if (length > this.roomBytes) throw Object.assign(new Error('ENOSPC: no room'), { code: 'ENOSPC' })
    this.roomBytes -= length
    inode.apply({ size: Math.max(inode.size, offset + length) })
    return this.#options.zeroAhead ?? false
  }

  isAt(fd: number, file: string): boolean {
    // A dead machine reports no loss.
    return this.dead || this.#names.get(file) === this.#handle(fd).inode
  }

  rename(from: string, to: string): void {
    this.#requireAlive()
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
    this.#nameChanges = this.#nameChanges.filter((change) => change.dir !== dir)
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

  /** Puts a file in place as if it had always been there. */
  put(file: string, bytes: Uint8Array): void {
    const inode = new Inode()
    inode.apply({ at: 0, bytes: Uint8Array.from(bytes) })
    inode.sync()
    this.#names.set(file, inode)
    this.#durableNames.set(file, inode)
  }

  get files(): string[] {
    return [...this.#names.keys()].sort()
  }
}

/** The file after a crash: its synced bytes, and of the changes since those sectors that chance keeps. */
function afterCrash(inode: Inode, random: () => number): Inode {
  const left = new Inode()
  let state = { bytes: inode.durable.slice(), size: inode.durableSize }
  for (const change of inode.pending) {
    for (const part of partsOf(change)) {
      if (random() < 0.5) state = applyTo(state.bytes, state.size, part)
    }
  }
  left.current = state.bytes
  left.durable = state.bytes.slice()
  left.size = left.durableSize = state.size
  if (inode.pending.length === 0 && inode.isTrue) left.memo = inode.memo
  return left
}

function partsOf(change: Change): Change[] {
  if ('size' in change) return [change]
  const parts: Change[] = []
  for (let at = 0; at < change.bytes.length; ) {
    const length = Math.min(SECTOR_BYTES - ((change.at + at) % SECTOR_BYTES), change.bytes.length - at)
    parts.push({ at: change.at + at, bytes: change.bytes.subarray(at, at + length) })
    at += length
  }
  return parts
}
