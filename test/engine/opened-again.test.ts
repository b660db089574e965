/**
 * A folder whose opening was refused leaves nothing open in the process, and is opened again by the same
 * process as soon as the reason is gone, with everything that it held.
 */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { REAL_HOST } from '../../src/engine/host.js'
import type { BusOptions } from '../../src/engine/types.js'
import { type Disk, realDisk } from '../../src/store/os/disk.js'
import { folder } from '../lib/folder.js'
import { inlineCatalog } from '../store/helpers.js'
import { forgeRecord } from '../support/forge.js'

const OPTIONS: BusOptions = { backend: 'cpu', threads: 1, segmentBytes: 16 * 1024 }

interface Held {
  readonly epoch: number
  readonly digest: string
}

/**
 * What the process has open in the folder, each file once: SQLite keeps some until all their locks are free.
 */
function openFiles(dir: string): string[] {
  const files = fs.readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const file = fs.readlinkSync(`/proc/self/fd/${fd}`)
      return file.startsWith(dir) ? [file] : []
    } catch {
      // The descriptor of the listing itself.
      return []
    }
  })
  return [...new Set(files)].sort()
}

/** A folder with several segments, and a checkpoint of an epoch before the last of them. */
async function filled(dataDir: string): Promise<Held> {
  const bus = await EngineBus.open({ ...OPTIONS, dataDir })
  await bus.create('a', { dtype: 'f64', shape: [100] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a + 1' })
  for (let i = 0; i < 30; i++) {
    await bus.write('a', new Float64Array(100).fill(i))
    if (i === 9) await bus.checkpoint()
  }
  for (let i = 0; i < 10; i++) await bus.patch('a', { offset: i, values: [-i] }, { key: `k${i}` })
  const { epoch, digest } = bus.status()
  await bus.close()
  return { epoch, digest }
}

async function opens(t: Test, dataDir: string, held: Held): Promise<void> {
  t.same(openFiles(dataDir), [], 'nothing is open before')
  const bus = await EngineBus.open({ ...OPTIONS, dataDir })
  t.match(bus.status(), held)
  await bus.patch('a', { offset: 3, values: [-3] }, { key: 'k3' })
  t.equal(bus.epoch, held.epoch, 'a repeat is known')
  await bus.close()
  t.same(openFiles(dataDir), [], 'nor after')
}

const segments = (dataDir: string): string[] =>
  fs
    .readdirSync(path.join(dataDir, 'log'))
    .filter((name) => name.endsWith('.seg'))
    .map((name) => path.join(dataDir, 'log', name))

/** Changes a file until the returned function is called. */
function changed(file: string, change: (bytes: Buffer) => void): () => void {
  const before = fs.readFileSync(file)
  const bytes = Buffer.from(before)
  change(bytes)
  fs.writeFileSync(file, bytes)
  return () => fs.writeFileSync(file, before)
}

interface Refusal {
  readonly what: string
  readonly error: { readonly code?: string; readonly message?: RegExp }
  readonly options?: BusOptions
  /** Makes the folder one that is refused; returns what takes that back. */
  make(dataDir: string): () => void
}

const flip = (at: number) => (bytes: Buffer) => {
  bytes[at] = (bytes[at] as number) ^ 0xff
}

const REFUSALS: readonly Refusal[] = [
  {
    what: 'a damaged record',
    error: { code: 'BUS_FAILED', message: /not safe to open/ },
    make: (dataDir) => changed(segments(dataDir).at(-1) as string, flip(4096 + 100)),
  },
  {
    what: 'a damaged header of a segment',
    error: { code: 'BUS_FAILED', message: /not safe to open/ },
    make: (dataDir) => changed(segments(dataDir)[0] as string, flip(20)),
  },
  {
    what: 'a log that lacks epochs that a checkpoint has',
    error: { code: 'BUS_FAILED', message: /but a checkpoint shows|but the index shows/ },
    make(dataDir) {
      const names = fs.readdirSync(path.join(dataDir, 'checkpoints'))
      const [old, ahead] = [names[0] as string, `${'9'.padStart(20, '0')}9.db`.slice(1)].map((name) =>
        path.join(dataDir, 'checkpoints', name),
      ) as [string, string]
      fs.copyFileSync(old, ahead)
      return () => fs.rmSync(ahead)
    },
  },
  {
    // The newest checkpoint is sound, and open when this is noticed.
    what: 'a log that lacks epochs that the index has',
    error: { code: 'BUS_FAILED', message: /but the index shows/ },
    make: (dataDir) => {
      const last = segments(dataDir).at(-1) as string
      fs.renameSync(last, `${last}.aside`)
      return () => fs.renameSync(`${last}.aside`, last)
    },
  },
  {
    what: 'a history that cannot be read or replaced',
    error: { code: 'BUS_FAILED', message: /history\.json cannot be written/ },
    make(dataDir) {
      const file = path.join(dataDir, 'history.json')
      fs.renameSync(file, `${file}.aside`)
      fs.mkdirSync(file)
      return () => {
        fs.rmdirSync(file)
        fs.renameSync(`${file}.aside`, file)
      }
    },
  },
  {
    what: 'a decision to cut that cannot be read',
    error: { code: 'BUS_FAILED', message: /cut\.json/ },
    make(dataDir) {
      const file = path.join(dataDir, 'cut.json')
      fs.writeFileSync(file, '{')
      return () => fs.rmSync(file)
    },
  },
  {
    what: 'a file where the log should be',
    error: { code: 'BUS_FAILED', message: /cannot be used|cannot be opened/ },
    make(dataDir) {
      const log = path.join(dataDir, 'log')
      fs.renameSync(log, `${log}.aside`)
      fs.writeFileSync(log, '')
      return () => {
        fs.rmSync(log)
        fs.renameSync(`${log}.aside`, log)
      }
    },
  },
  {
    what: 'an interrupted restore',
    error: { code: 'BUS_FAILED', message: /interrupted restore/ },
    make(dataDir) {
      const log = path.join(dataDir, 'log')
      const draft = path.join(dataDir, 'restore.tmp')
      fs.mkdirSync(draft)
      fs.renameSync(log, path.join(draft, 'log'))
      return () => {
        fs.renameSync(path.join(draft, 'log'), log)
        fs.rmdirSync(draft)
      }
    },
  },
  {
    what: 'cursors that cannot be opened',
    error: { code: 'BUS_FAILED', message: /cursors/ },
    make(dataDir) {
      const file = path.join(dataDir, 'cursors.db')
      fs.mkdirSync(file)
      return () => fs.rmdirSync(file)
    },
  },
  {
    what: 'a state that is not the one of the log',
    error: { message: /epoch 41/ },
    make: (dataDir) => {
      const file = segments(dataDir).at(-1) as string
      const before = fs.readFileSync(file)
      forgeRecord(file, 41, (record) => flip(32)(record as Buffer))
      return () => fs.writeFileSync(file, before)
    },
  },
  {
    what: 'a lock that another program holds',
    error: { code: 'FOLDER_LOCKED' },
    make(dataDir) {
      const db = new Database(path.join(dataDir, 'lock.db'))
      db.exec('BEGIN IMMEDIATE')
      return () => db.close()
    },
  },
  {
    what: 'a signal that ends the opening',
    error: { message: /no longer wanted/ },
    options: { signal: AbortSignal.abort(new Error('no longer wanted')) },
    make: () => () => {},
  },
  {
    what: 'another backend than there is',
    error: { code: 'UNSUPPORTED_LOCATION' },
    options: { backend: 'cuda' },
    make: () => () => {},
  },
]

t.test('refused, then opened', async (t) => {
  const dataDir = path.join(folder(t), 'data')
  const held = await filled(dataDir)
  for (const { what, error, options = {}, make } of REFUSALS) {
    await t.test(what, async (t) => {
      const unmake = make(dataDir)
      const before = openFiles(dataDir)
      const opening = EngineBus.open({ ...OPTIONS, dataDir, ...options })
      const refused = await opening.then(
        () => 'opened',
        (reason: unknown) => reason,
      )
      t.match(refused, error)
      t.same(openFiles(dataDir), before, 'nothing stays open')
      unmake()
      await opens(t, dataDir, held)
    })
  }
})

t.test('given up while the state is recovered: the reason comes as it is', async (t) => {
  const dataDir = path.join(folder(t), 'data')
  const held = await filled(dataDir)
  const given = new AbortController()
  const reason = new Error('no longer wanted')
  let ms = 0
  const opening = EngineBus.open(
    { ...OPTIONS, dataDir, signal: given.signal, onProgress: () => given.abort(reason) },
    { ...REAL_HOST, ticksMs: () => (ms += 1000) },
  )
  const refused = await opening.then(
    (bus) => bus.close().then(() => 'opened'),
    (error: unknown) => error,
  )
  t.equal(refused, reason)
  await opens(t, dataDir, held)
})

/** The real disk, whose n-th call from now on fails; without n, it counts. */
function failingDisk(nth: number): Disk & { calls: number } {
  const real = realDisk()
  const disk = { calls: 0 } as Record<string, unknown> & { calls: number }
  for (const [name, call] of Object.entries(real) as [keyof Disk, (...args: unknown[]) => unknown][]) {
    disk[name] = (...args: unknown[]) => {
      // The question whether a file exists has no errors, and nobody could act upon those of closing one.
      if (name === 'close' || name === 'exists' || disk.calls++ !== nth) return call(...args)
      const error = Object.assign(new Error(`EIO: ${name}`), { code: 'EIO' })
      const done = args.at(-1)
      if (typeof done === 'function') return queueMicrotask(() => done(error))
      if (name === 'syncDir' || name === 'read') return Promise.reject(error)
      throw error
    }
  }
  return disk as unknown as Disk & { calls: number }
}

t.test('whatever call of the disk fails while a folder is opened', async (t) => {
  const dataDir = path.join(folder(t), 'data')
  const held = await filled(dataDir)
  const openOn = (disk: Disk): Promise<EngineBus> =>
    EngineBus.open(
      { ...OPTIONS, dataDir },
      { ...REAL_HOST, store: { disk, catalog: inlineCatalog(dataDir) } },
    )
  let refused = 0
  let isWhole = false
  for (let nth = 0; !isWhole; nth++) {
    const disk = failingDisk(nth)
    const bus = await openOn(disk).catch((error: unknown) => {
      t.match(error, { code: 'BUS_FAILED', message: /EIO/ }, `call ${nth}`)
      return undefined
    })
    isWhole = disk.calls <= nth
    if (bus === undefined) refused++
    else {
      t.match(bus.status(), held, `call ${nth}: it was not needed`)
      await bus.close().catch(() => {})
    }
    t.same(openFiles(dataDir), [], `call ${nth}: nothing stays open`)
    const next = await openOn(realDisk())
    t.match(next.status(), held, `call ${nth}: opened again`)
    await next.close()
  }
  t.ok(refused >= 20, `${refused} calls refused the opening`)
})
