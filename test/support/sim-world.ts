/**
 * A simulated world for one seed: scheduler, clocks, randomness, disk, catalog, checkpoints, and executions
 * on another thread. The next event is drawn from all that are ready, so each seed gives another order of
 * events, and the same seed always gives the same order. What real threads compute meanwhile is awaited in
 * the event that notices its end, so it does not matter how long it takes.
 */
import Database from 'better-sqlite3'
import type { ExecutionHost, Host } from '../../src/engine/host.js'
import { CHECKPOINT_CHUNK_BYTES } from '../../src/limits.js'
import type { CheckpointFolder } from '../../src/store/checkpoint/folder.js'
import { CheckpointTasks } from '../../src/store/checkpoint/tasks.js'
import type { CheckpointThread } from '../../src/store/checkpoint/thread.js'
import type { Catalog, CheckpointInfo, IndexBlock } from '../../src/store/types.js'
import type { Draw } from '../lib/draw.js'
import { turn } from '../lib/wait.js'
import { NO_LOCK, type SimDisk } from './simdisk.js'

export const SIM_DIR = '/sim'
const CHECKPOINT_DIR = `${SIM_DIR}/checkpoints`

/** The events that are ready. */
export class Scheduler {
  #tasks: (() => unknown)[] = []
  /** The clock of the machine, which may jump. */
  nowMs = 1_700_000_000_000
  /** A clock that never goes back. */
  ticksMs = 0

  readonly #draw: Draw

  constructor(draw: Draw) {
    this.#draw = draw
  }

  /** Where a task returns a promise, no other event happens until it settles. */
  readonly add = (task: () => unknown): void => {
    this.#tasks.push(task)
  }

  /** Runs tasks in the order in which they are added, each as an event of its own. */
  inOrder(): <T>(task: () => Promise<T>) => Promise<T> {
    let last: Promise<unknown> = Promise.resolve()
    return (task) => {
      const next = (): ReturnType<typeof task> =>
        new Promise((resolve, reject) => {
          this.add(() => void task().then(resolve, reject))
        })
      const done = last.then(next)
      last = done.catch(() => {})
      return done
    }
  }

  /** Lets the event loop run, then runs one event drawn at random. */
  async step(): Promise<void> {
    await turn()
    const passed = this.#draw.int(0, 20)
    this.ticksMs += passed
    this.nowMs += this.#draw.chance(0.003) ? this.#draw.int(-1e8, 1e8) : passed
    if (this.#tasks.length === 0) return
    const [task] = this.#tasks.splice(this.#draw.int(0, this.#tasks.length - 1), 1)
    const running = task?.()
    if (running instanceof Promise) await running
  }

  /** Steps until the promise settles. Throws when it does not. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let isSettled = false
    const settle = (): void => {
      isSettled = true
    }
    promise.then(settle, settle)
    for (let steps = 0; !isSettled; steps++) {
      if (steps > 20_000)
        throw new Error(`the promise does not settle, with ${this.#tasks.length} events ready`)
      await this.step()
    }
    return promise
  }
}

/** A catalog in memory. Each change is durable at once, as with SQLite. */
export class SimCatalog implements Catalog {
  #busId: string | undefined
  #blocks: IndexBlock[] = []
  readonly #checkpoints = new Map<number, CheckpointInfo>()

  /** An independent copy. */
  copy(): SimCatalog {
    const other = new SimCatalog()
    other.#busId = this.#busId
    other.#blocks = [...this.#blocks]
    for (const [epoch, info] of this.#checkpoints) other.#checkpoints.set(epoch, info)
    return other
  }

  async open(): ReturnType<Catalog['open']> {
    if (this.#busId === undefined) return { state: 'lost', why: 'it is missing' }
    return {
      state: 'read',
      busId: this.#busId,
      lastEpoch: this.#blocks.at(-1)?.lastEpoch ?? 0,
      checkpoints: [...this.#checkpoints.values()].sort((a, b) => a.epoch - b.epoch),
    }
  }

  async begin(busId: string, anew: boolean): Promise<void> {
    this.#busId = busId
    if (!anew) return
    this.#blocks = []
    this.#checkpoints.clear()
  }

  async addBlocks(blocks: readonly IndexBlock[]): Promise<void> {
    this.#blocks.push(...blocks)
  }

  async clearBlocks(): Promise<void> {
    this.#blocks = []
  }

  async dropBlocksBefore(epoch: number): Promise<void> {
    this.#blocks = this.#blocks.filter((block) => block.lastEpoch >= epoch)
  }

  async blockOf(epoch: number): Promise<IndexBlock | undefined> {
    return this.#blocks.find((block) => block.firstEpoch <= epoch && epoch <= block.lastEpoch)
  }

  async addCheckpoint(info: CheckpointInfo): Promise<void> {
    this.#checkpoints.set(info.epoch, info)
  }

  async removeCheckpoint(epoch: number): Promise<void> {
    this.#checkpoints.delete(epoch)
  }

  async close(): Promise<void> {}
}

/**
 * Opens a database from its bytes. It stays open, and its statements stay prepared, for those who open the
 * bytes again.
 */
function openBytes(bytes: Uint8Array): Database.Database {
  const db = new Database(Buffer.from(bytes), { readonly: true })
  const statements = new Map<string, Database.Statement>()
  const prepare = (source: string): Database.Statement => {
    const known = statements.get(source) ?? db.prepare(source)
    statements.set(source, known)
    return known
  }
  return Object.create(db, { prepare: { value: prepare }, close: { value: () => db } }) as Database.Database
}

/** A checkpoint folder on the simulated disk: SQLite in memory, its bytes on the disk. */
export function simFolder(disk: SimDisk): CheckpointFolder {
  const at = (name: string): string => `${CHECKPOINT_DIR}/${name}`
  return {
    list: () => disk.list(CHECKPOINT_DIR),
    open: (name) => disk.memo(at(name), openBytes),
    sizeBytes: (name) => disk.bytesOf(at(name)).length,
    create() {
      const db = new Database(':memory:')
      // Fixes a small page size before the writer asks for large pages: files of some kilobytes instead of
      // half a megabyte.
      db.pragma('page_size = 1024')
      db.pragma('application_id = 1')
      let named = at('next.tmp')
      return {
        db,
        startSync() {},
        async finish(name) {
          const bytes = db.serialize()
          db.close()
          const fd = disk.open(at('next.tmp'), { create: true })
          disk.truncate(fd, 0)
          disk.writeSync(fd, [bytes], 0)
          disk.syncSync(fd)
          disk.close(fd)
          disk.rename(at('next.tmp'), at(name))
          named = at(name)
          await disk.syncDir(CHECKPOINT_DIR)
        },
        abandon() {
          db.close()
          if (!disk.dead) disk.remove(named)
        },
      }
    },
    rename: (from, to) => disk.rename(at(from), at(to)),
    remove: (name) => disk.remove(at(name)),
    syncDir: () => disk.syncDir(CHECKPOINT_DIR),
  }
}

/** The work of the checkpoint's thread, as events of the scheduler. */
function simThread(folder: CheckpointFolder, scheduler: Scheduler): CheckpointThread {
  const tasks = new CheckpointTasks(folder)
  const inOrder = scheduler.inOrder()
  return { ask: (request) => inOrder(() => tasks.handle(request)), end: async () => {} }
}

/** The catalog as if it had a thread of its own. */
function lateCatalog(catalog: SimCatalog, scheduler: Scheduler): Catalog {
  const inOrder = scheduler.inOrder()
  return {
    open: () => inOrder(() => catalog.open()),
    begin: (busId, anew) => inOrder(() => catalog.begin(busId, anew)),
    addBlocks: (blocks) => inOrder(() => catalog.addBlocks(blocks)),
    clearBlocks: () => inOrder(() => catalog.clearBlocks()),
    dropBlocksBefore: (epoch) => inOrder(() => catalog.dropBlocksBefore(epoch)),
    blockOf: (epoch) => inOrder(() => catalog.blockOf(epoch)),
    addCheckpoint: (info) => inOrder(() => catalog.addCheckpoint(info)),
    removeCheckpoint: (epoch) => inOrder(() => catalog.removeCheckpoint(epoch)),
    close: () => inOrder(() => catalog.close()),
  }
}

/** Executions of which chance decides whether they go to another thread, and when their end is noticed. */
function simExecutions(scheduler: Scheduler, draw: Draw): ExecutionHost {
  return {
    goesToThread: () => draw.chance(0.4),
    ended: (execution) =>
      new Promise((resolve, reject) => {
        scheduler.add(() => execution.then(resolve, reject))
      }),
  }
}

export function simWorld(disk: SimDisk, catalog: SimCatalog, scheduler: Scheduler, draw: Draw): Host {
  const folder = simFolder(disk)
  return {
    nowMs: () => scheduler.nowMs,
    ticksMs: () => scheduler.ticksMs,
    soon: scheduler.add,
    hasThreads: true,
    executions: simExecutions(scheduler, draw),
    store: {
      disk,
      catalog: lateCatalog(catalog, scheduler),
      checkpointPieceBytes: CHECKPOINT_CHUNK_BYTES,
      checkpointFolder: folder,
      checkpointThread: () => simThread(folder, scheduler),
      clock: () => scheduler.nowMs,
      random: (length) => Uint8Array.from({ length }, () => draw.int(0, 255)),
      setTimer: (callback) => {
        let isOn = true
        scheduler.add(() => isOn && callback())
        return () => {
          isOn = false
        }
      },
      lock: () => NO_LOCK,
    },
  }
}
