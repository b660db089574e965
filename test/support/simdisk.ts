/**
 * A disk in memory that forgets what was not synced. Writes, truncations and names that no sync covered are kept, dropped
 * or torn into sectors when it crashes; it can die at the n-th sync, run full, or fail a call.
 */
import path from 'node:path'
import type { Disk, DiskCallback } from '../../src/store/os/disk.js'

const SECTOR_BYTES = 512

/** What happens to unsynced changes in a crash: all kept, all lost, or each sector by itself under a seed. */
export type CrashPolicy = 'keep' | 'drop' | { readonly seed: number }

export class SimCrash extends Error {}

type Change = { readonly at: number; readonly bytes: Uint8Array } | { readonly size: number }

class Inode {
  durable = new Uint8Array(0)
  durableSize = 0
  current = new Uint8Array(0)
  size = 0
  pending: Change[] = []
  /** What was made of the bytes as they are. */
  memo: unknown
  /** Without pending changes, what the system shows is what is durable. */
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

  /** A sync that failed: the system goes on showing the bytes, and holds them for clean. */
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
  /** Die when this many syncs have begun: the one that is the n-th does not happen. */
  readonly dieAtSync?: number
  /** Bytes that can be allocated in all. */
  readonly roomBytes?: number
  readonly zeroAhead?: boolean
  /** Asynchronous writes land a while after they are asked for, not at once. */
  readonly lateWrites?: boolean
  /** When asynchronous calls are done, and when they are answered: each after its own turn. */
  readonly schedule?: (task: () => void) => void
  /** What a broken disk makes of a write or a sync; for tests that must notice. */
  readonly sabotage?: Sabotage
}

export interface Sabotage {
  /** The bytes that are written instead, or null: none. */
  write?(bytes: Uint8Array, file: string): Uint8Array | null
  /** False: the sync is answered and does nothing. */
  sync?(file: string): boolean
}

type Names = Map<string, Inode>

export class SimDisk implements Disk {
  syncs = 0
  dead = false
  /** Settles when the disk dies. */
  readonly died: Promise<void>
  /** Called before every operation; throws what the operation shall fail with. */
  fault: ((call: 'write' | 'sync' | 'allocate' | 'open' | 'syncDir', file: string) => void) | null = null
  private readonly dirs = new Set<string>()
  private readonly handles = new Map<number, Handle & { file: string }>()
  private nextFd = 3
  private die!: () => void
  private burnt = false
  private readonly unanswered: ((error: Error) => void)[] = []
  roomBytes: number

  constructor(
    private readonly options: SimDiskOptions = {},
    private names: Names = new Map(),
    /** Names as they were at the last sync of their folder, and the changes since. */
    private durableNames: Names = new Map(names),
    private nameChanges: { readonly dir: string; readonly apply: (names: Names) => void }[] = [],
  ) {
    this.died = new Promise((resolve) => {
      this.die = resolve
    })
    this.roomBytes = options.roomBytes ?? Number.POSITIVE_INFINITY
  }

  /** The disk as the next process finds it. */
  crash(policy: CrashPolicy, options: SimDiskOptions = {}): SimDisk {
    const random = policy === 'keep' ? () => 0 : policy === 'drop' ? () => 1 : randomOf(policy.seed)
    const names = new Map(this.durableNames)
    const kept =
      policy === 'keep' ? this.nameChanges.length : Math.floor((1 - random()) * (this.nameChanges.length + 1))
    for (const change of this.nameChanges.slice(0, policy === 'drop' ? 0 : kept)) change.apply(names)
    const after: Names = new Map()
    for (const [file, inode] of names) after.set(file, afterCrash(inode, random))
    return new SimDisk(options, after)
  }

  private alive(): void {
    if (this.dead) throw new SimCrash('the machine is off')
  }

  /** A sync begins; true when it is the one at which the machine goes off. */
  private countSync(): boolean {
    this.syncs++
    if (this.syncs !== this.options.dieAtSync) return false
    this.dead = true
    this.die()
    return true
  }

  private handle(fd: number): Handle & { file: string } {
    this.alive()
    const handle = this.handles.get(fd)
    if (handle === undefined) throw new Error(`bad descriptor ${fd}`)
    return handle
  }

  makeDir(dir: string): void {
    this.dirs.add(dir)
  }

  list(dir: string): string[] {
    return [...this.names.keys()]
      .filter((f) => path.dirname(f) === dir)
      .map((f) => path.basename(f))
      .sort()
  }

  exists(file: string): boolean {
    return this.names.has(file) || this.dirs.has(file)
  }

  open(file: string, { create, dsync }: { create?: boolean; dsync?: boolean }): number {
    this.alive()
    this.fault?.('open', file)
    let inode = this.names.get(file)
    if (inode === undefined) {
      if (!create) throw Object.assign(new Error(`ENOENT: ${file}`), { code: 'ENOENT' })
      inode = new Inode()
      const made = inode
      this.rename2(path.dirname(file), (names) => names.set(file, made))
    }
    this.handles.set(this.nextFd, { inode, dsync: dsync ?? false, file })
    return this.nextFd++
  }

  private rename2(dir: string, apply: (names: Names) => void): void {
    apply(this.names)
    this.nameChanges.push({ dir, apply })
  }

  close(fd: number): void {
    this.handles.delete(fd)
  }

  get openCount(): number {
    return this.handles.size
  }

  sizeBytes(fd: number): number {
    return this.handle(fd).inode.size
  }

  readSync(fd: number, into: Uint8Array, length: number, position: number): number {
    const { inode } = this.handle(fd)
    const piece = inode.current.subarray(position, Math.min(inode.size, position + length))
    into.set(piece)
    return piece.length
  }

  read(fd: number, into: Uint8Array, length: number, position: number): Promise<number> {
    return Promise.resolve(this.readSync(fd, into, length, position))
  }

  writeSync(fd: number, parts: readonly Uint8Array[], position: number): void {
    const { inode, dsync, file } = this.handle(fd)
    this.fault?.('write', file)
    const given = Uint8Array.from(Buffer.concat(parts))
    const bytes =
      this.options.sabotage?.write === undefined ? given : this.options.sabotage.write(given, file)
    if (bytes !== null) inode.apply({ at: position, bytes })
    if (dsync) this.syncInode(inode, file)
  }

  private syncInode(inode: Inode, file: string): void {
    try {
      this.fault?.('sync', file)
    } catch (error) {
      inode.failSync()
      throw error
    }
    if (this.countSync()) throw new SimCrash('the machine went off')
    if (this.options.sabotage?.sync?.(file) === false) return
    inode.sync()
  }

  write(fd: number, parts: readonly Uint8Array[], position: number, done: DiskCallback): void {
    this.later(done, () => this.writeSync(fd, parts, position))
  }

  /** Runs at once or late, answers later; a machine that is off never answers. */
  private later(done: DiskCallback, run: () => void): void {
    const { schedule } = this.options
    if (schedule !== undefined) schedule(() => this.runThenAnswer(done, run))
    else if (this.options.lateWrites) setImmediate(() => this.dead || this.runThenAnswer(done, run))
    else this.runThenAnswer(done, run)
  }

  private runThenAnswer(done: DiskCallback, run: () => void): void {
    let error: Error | null = null
    try {
      run()
    } catch (failure) {
      if (failure instanceof SimCrash && !this.burnt) {
        this.unanswered.push(done)
        return
      }
      error = failure as Error
    }
    const answer = (): void => {
      if (!this.dead || this.burnt) done(error)
      else this.unanswered.push(done)
    }
    if (this.options.schedule === undefined) queueMicrotask(answer)
    else this.options.schedule(answer)
  }

  /** Of a machine that is off: everything that waits, and everything from now on, is answered with an error. */
  burn(): void {
    this.burnt = true
    for (const done of this.unanswered.splice(0)) done(new SimCrash('the machine is off'))
  }

  syncSync(fd: number): void {
    const { inode, file } = this.handle(fd)
    this.syncInode(inode, file)
  }

  sync(fd: number, done: DiskCallback): void {
    this.later(done, () => this.syncSync(fd))
  }

  truncate(fd: number, length: number): void {
    this.handle(fd).inode.apply({ size: length })
  }

  allocate(fd: number, offset: number, length: number): boolean {
    const { inode, file } = this.handle(fd)
    this.fault?.('allocate', file)
    if (length > this.roomBytes) throw Object.assign(new Error('ENOSPC: no room'), { code: 'ENOSPC' })
    this.roomBytes -= length
    inode.apply({ size: Math.max(inode.size, offset + length) })
    return this.options.zeroAhead ?? false
  }

  rename(from: string, to: string): void {
    this.alive()
    this.rename2(path.dirname(to), (names) => {
      const inode = names.get(from)
      if (inode === undefined) return
      names.delete(from)
      names.set(to, inode)
    })
  }

  remove(file: string): void {
    this.alive()
    if (!this.names.has(file)) return
    this.rename2(path.dirname(file), (names) => names.delete(file))
  }

  async syncDir(dir: string): Promise<void> {
    this.alive()
    this.fault?.('syncDir', dir)
    if (this.countSync()) {
      await new Promise((_, reject) => this.unanswered.push(reject))
    }
    if (this.options.sabotage?.sync?.(dir) === false) return
    for (const change of this.nameChanges) if (change.dir === dir) change.apply(this.durableNames)
    this.nameChanges = this.nameChanges.filter((change) => change.dir !== dir)
  }

  /** The bytes of a file, for tests that break them. */
  bytesOf(file: string): Uint8Array {
    const inode = this.names.get(file)
    if (inode === undefined) throw new Error(`no file ${file}`)
    return inode.current.subarray(0, inode.size)
  }

  /** What `make` makes of a file's bytes: made once for as long as they do not change. */
  memo<T>(file: string, make: (bytes: Uint8Array) => T): T {
    const bytes = this.bytesOf(file)
    const inode = this.names.get(file) as Inode
    inode.memo ??= make(bytes)
    return inode.memo as T
  }

  /** Puts a file in place as if it had always been there. */
  put(file: string, bytes: Uint8Array): void {
    const inode = new Inode()
    inode.apply({ at: 0, bytes: Uint8Array.from(bytes) })
    inode.sync()
    this.names.set(file, inode)
    this.durableNames.set(file, inode)
  }

  get files(): string[] {
    return [...this.names.keys()].sort()
  }
}

/** What of a file survives: the synced bytes, and of the changes since each sector by its own luck. */
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
