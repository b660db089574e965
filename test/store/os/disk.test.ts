/** The real disk: every byte is written or read, errors keep their codes, and names are durable. */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { type Disk, makeDurableDirs, realDisk } from '../../../src/store/os/disk.js'
import { SimDisk } from '../../support/simdisk.js'

const bytes = (from: number, length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (from + i) % 251)

function opened(t: Test, content = bytes(0, 0)) {
  const dir = t.testdir()
  const file = path.join(dir, 'file')
  fs.writeFileSync(file, content)
  const disk = realDisk()
  const fd = disk.open(file, { write: true })
  t.teardown(() => disk.close(fd))
  return { dir, file, disk, fd, content: () => Uint8Array.from(fs.readFileSync(file)) }
}

/** Puts something in the place of functions of node:fs for the time of a test. */
function replace(t: Test, changes: Partial<Record<keyof typeof fs, unknown>>): void {
  const kept = Object.keys(changes).map((name) => [name, fs[name as keyof typeof fs]])
  Object.assign(fs, changes)
  t.teardown(() => Object.assign(fs, Object.fromEntries(kept)))
}

const write = (disk: Disk, fd: number, parts: readonly Uint8Array[], at: number): Promise<void> =>
  new Promise((resolve, reject) => disk.write(fd, parts, at, (error) => (error ? reject(error) : resolve())))

const WAYS: [string, (disk: Disk, fd: number, parts: readonly Uint8Array[], at: number) => unknown][] = [
  ['write', write],
  ['writeSync', (disk, fd, parts, at) => disk.writeSync(fd, parts, at)],
]
const PARTS: Uint8Array[][] = [
  [bytes(1, 10)],
  [bytes(1, 3), bytes(4, 5), bytes(9, 2)],
  [bytes(1, 1), bytes(2, 0), bytes(2, 9)],
]
type Callback = (error: Error | null, count: number) => void

/** Calls of node:fs that do at most this many bytes at a time. */
function short(most: number): Partial<Record<keyof typeof fs, unknown>> {
  const { writeSync, writev, readSync, read } = fs
  const firstOf = (parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts).subarray(0, most)
  return {
    writeSync: (fd: number, part: Uint8Array, from: number, length: number, at: number) =>
      writeSync(fd, part, from, Math.min(most, length), at),
    writevSync: (fd: number, parts: readonly Uint8Array[], at: number) => {
      const part = firstOf(parts)
      return writeSync(fd, part, 0, part.length, at)
    },
    write: (fd: number, part: Uint8Array, from: number, length: number, at: number, done: Callback) =>
      writev(fd, [part.subarray(from, from + Math.min(most, length))], at, done),
    writev: (fd: number, parts: readonly Uint8Array[], at: number, done: Callback) =>
      writev(fd, [firstOf(parts)], at, done),
    readSync: (fd: number, into: Uint8Array, from: number, length: number, at: number) =>
      readSync(fd, into, from, Math.min(most, length), at),
    read: (fd: number, into: Uint8Array, from: number, length: number, at: number, done: Callback) =>
      read(fd, into, from, Math.min(most, length), at, done),
  }
}

for (const [name, run] of WAYS) {
  t.test(`${name}: all bytes of all parts, also where the system takes fewer at a time`, async (t) => {
    for (const most of [undefined, 1, 3, 4, 9]) {
      await t.test(`${most ?? 'any'} at a time`, async (t) => {
        const { disk, fd, content } = opened(t, new Uint8Array(20).fill(255))
        if (most !== undefined) replace(t, short(most))
        for (const [i, parts] of PARTS.entries()) {
          const expected = Uint8Array.from([...Array(5 + i).fill(255), ...bytes(1, 10)])
          await write(disk, fd, [new Uint8Array(20).fill(255)], 0)
          await run(disk, fd, parts, 5 + i)
          t.same(content().subarray(0, 15 + i), expected, `parts ${i}`)
          t.same(content().subarray(15 + i), new Uint8Array(5 - i).fill(255))
        }
      })
    }
  })

  t.test(`${name}: no bytes are written, or the system takes none`, async (t) => {
    const { disk, fd, content } = opened(t, bytes(1, 4))
    await run(disk, fd, [new Uint8Array(0)], 2)
    t.same(content(), bytes(1, 4))
    const none = (...args: unknown[]): number => {
      const done = args.at(-1)
      if (typeof done === 'function') setImmediate(() => done(null, 0))
      return 0
    }
    replace(t, { write: none, writev: none, writeSync: none, writevSync: none })
    const failed = { code: 'EIO', errno: -5, message: 'EIO: write made no progress' }
    for (const parts of PARTS) await t.rejects(async () => run(disk, fd, parts, 0), failed)
  })

  t.test(`${name}: an error is handed on, and nothing is tried again`, async (t) => {
    const { disk, fd } = opened(t)
    let calls = 0
    const full = Object.assign(new Error('ENOSPC: full'), { code: 'ENOSPC' })
    const fail = (...args: unknown[]): never | undefined => {
      calls++
      const done = args.at(-1)
      if (typeof done !== 'function') throw full
      setImmediate(() => done(full, 0))
      return undefined
    }
    replace(t, { write: fail, writev: fail, writeSync: fail, writevSync: fail })
    for (const parts of PARTS) await t.rejects(async () => run(disk, fd, parts, 0), { code: 'ENOSPC' })
    t.equal(calls, PARTS.length)
  })
}

t.test('reads give all bytes, or those up to the end of the file', async (t) => {
  for (const most of [undefined, 1, 3, 10]) {
    await t.test(`${most ?? 'any'} at a time`, async (t) => {
      const { disk, fd } = opened(t, bytes(1, 10))
      if (most !== undefined) replace(t, short(most))
      for (const [at, length, got] of [
        [0, 10, 10],
        [0, 4, 4],
        [3, 7, 7],
        [3, 8, 7],
        [9, 50, 1],
        [10, 5, 0],
        [0, 0, 0],
      ] as const) {
        for (const run of [disk.readSync, disk.read]) {
          const into = new Uint8Array(60).fill(255)
          t.equal(await run(fd, into, length, at), got, `${length} from ${at}`)
          t.same(into.subarray(0, got), bytes(1 + at, got))
          t.ok(
            into.subarray(got).every((byte) => byte === 255),
            'nothing behind them',
          )
        }
      }
    })
  }
})

t.test('a read that fails says so, and one of no bytes asks nobody', async (t) => {
  const { disk, fd } = opened(t, bytes(1, 10))
  let calls = 0
  const fail = (...args: unknown[]): void => {
    calls++
    setImmediate(args.at(-1) as (...rest: unknown[]) => void, new Error('EIO: bad block'), 0)
  }
  replace(t, { read: fail })
  t.equal(await disk.read(fd, new Uint8Array(1), 0, 0), 0)
  t.equal(calls, 0)
  await t.rejects(disk.read(fd, new Uint8Array(4), 4, 0), /bad block/)
  t.equal(calls, 1)
  const { readSync } = fs
  let syncCalls = 0
  const counting = (...args: Parameters<typeof readSync>): number => {
    syncCalls++
    return readSync(...args)
  }
  replace(t, { readSync: counting })
  t.equal(disk.readSync(fd, new Uint8Array(4), 4, 0), 4)
  t.equal(syncCalls, 1, 'what is complete is not asked for more')
  t.equal(disk.readSync(fd, new Uint8Array(1), 0, 0), 0)
  t.equal(syncCalls, 1)
})

t.test('room is reserved by the system, or by zeros', async (t) => {
  const { disk, fd, content, file } = opened(t, bytes(1, 4))
  const most = 1024 ** 2
  t.equal(disk.allocate(fd, 4, 2 * most + 3), false, 'zeros need no conversion')
  t.same(content().subarray(0, 4), bytes(1, 4))
  t.equal(content().length, 4 + 2 * most + 3)
  t.ok(
    content()
      .subarray(4)
      .every((byte) => byte === 0),
  )
  disk.truncate(fd, 2)
  t.same(content(), bytes(1, 2))
  const asked: number[][] = []
  let answer = 0
  const native = realDisk((...args) => {
    asked.push(args)
    return answer
  })
  t.equal(native.allocate(7, 8, 9), true)
  t.same(asked, [[7, 8, 9]])
  for (const [errno, code] of [
    [28, 'ENOSPC'],
    [5, 'EIO'],
    [122, 'EDQUOT'],
    [9, 'EBADF'],
    [77, 'errno 77'],
  ] as const) {
    answer = errno
    const failed = { code, errno: -errno, message: `${code}: posix_fallocate` }
    t.throws(() => native.allocate(1, 2, 3), failed)
  }
  t.ok(fs.existsSync(file))
})

t.test('zeros that the system takes in small pieces', async (t) => {
  const { disk, fd, content } = opened(t, bytes(1, 2))
  replace(t, short(7))
  disk.allocate(fd, 2, 20)
  t.same(content(), Uint8Array.from([...bytes(1, 2), ...new Uint8Array(20)]))
})

t.test('files are opened as asked, and are private', async (t) => {
  const { disk, dir, file } = opened(t, bytes(1, 4))
  t.throws(() => disk.open(path.join(dir, 'none'), {}), { code: 'ENOENT' })
  t.throws(() => disk.open(path.join(dir, 'none'), { write: true }), { code: 'ENOENT' })
  const reader = disk.open(file, {})
  t.throws(() => disk.writeSync(reader, [bytes(1, 1)], 0), { code: 'EBADF' })
  disk.close(reader)
  t.throws(() => disk.sizeBytes(reader), { code: 'EBADF' })
  const made = disk.open(path.join(dir, 'made'), { create: true, write: true })
  t.equal(disk.sizeBytes(made), 0)
  t.equal(fs.statSync(path.join(dir, 'made')).mode & 0o777, 0o600)
  disk.writeSync(made, [bytes(1, 3)], 0)
  t.equal(disk.sizeBytes(made), 3)
  disk.close(made)
  const flagsOf = (fd: number): number =>
    Number.parseInt(/flags:\s*(\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8)
  for (const dsync of [false, true]) {
    const fd = disk.open(file, { write: true, dsync })
    t.equal((flagsOf(fd) & fs.constants.O_DSYNC) !== 0, dsync)
    disk.close(fd)
  }
})

t.test('which file is where', async (t) => {
  const { disk, dir, file, fd } = opened(t, bytes(1, 4))
  const other = path.join(dir, 'another')
  t.ok(disk.isAt(fd, file))
  t.notOk(disk.isAt(fd, other), 'there is none')
  fs.copyFileSync(file, other)
  t.notOk(disk.isAt(fd, other), 'a copy')
  const identity = disk.identityOf(fd)
  const copy = disk.open(other, {})
  t.not(disk.identityOf(copy), identity)
  disk.close(copy)
  t.same(disk.list(dir), ['another', 'file'])
  disk.rename(file, other)
  t.ok(disk.isAt(fd, other))
  t.notOk(disk.isAt(fd, file))
  t.equal(disk.identityOf(fd), identity)
  const again = disk.open(other, {})
  t.equal(disk.identityOf(again), identity)
  disk.close(again)
  t.ok(disk.exists(other))
  t.notOk(disk.exists(file))
  disk.remove(other)
  disk.remove(other)
  t.same(disk.list(dir), [])
})

t.test('syncs reach the system', async (t) => {
  const { disk, dir, fd } = opened(t)
  const calls: string[] = []
  const { fdatasyncSync, fdatasync } = fs
  replace(t, {
    fdatasyncSync: (at: number) => {
      calls.push(`sync ${at === fd}`)
      fdatasyncSync(at)
    },
    fdatasync: (at: number, done: Callback) => {
      calls.push(`async ${at === fd}`)
      fdatasync(at, done as () => void)
    },
  })
  disk.syncSync(fd)
  await new Promise<void>((resolve) => disk.sync(fd, () => resolve()))
  t.same(calls, ['sync true', 'async true'])
  await t.rejects(disk.syncDir(path.join(dir, 'none')), { code: 'ENOENT' })
  const { open } = fs.promises
  const folder: string[] = []
  let failure: Error | undefined
  t.teardown(() => Object.assign(fs.promises, { open }))
  Object.assign(fs.promises, {
    open: async (name: string, flags: number) => {
      const handle = await open(name, flags)
      const { sync, close } = handle
      handle.sync = async () => {
        await sync.call(handle)
        folder.push('sync')
        if (failure !== undefined) throw failure
      }
      handle.close = async () => {
        folder.push('close')
        await close.call(handle)
      }
      return handle
    },
  })
  await disk.syncDir(dir)
  t.same(folder.splice(0), ['sync', 'close'])
  failure = new Error('EIO')
  await t.rejects(disk.syncDir(dir), /EIO/)
  t.same(folder, ['sync', 'close'], 'it is closed after a failure too')
})

t.test('missing folders are made, private ones', async (t) => {
  const dir = t.testdir()
  const deep = path.join(dir, 'a', 'b', 'c')
  realDisk().makeDir(deep)
  for (const made of [deep, path.dirname(deep)]) t.equal(fs.statSync(made).mode & 0o777, 0o700)
  realDisk().makeDir(deep)
  t.same(fs.readdirSync(deep), [])
  fs.writeFileSync(path.join(deep, 'file'), '')
  t.throws(() => realDisk().makeDir(path.join(deep, 'file', 'x')), { code: 'ENOTDIR' })
})

t.test('the names of new folders are durable, from the outermost on', async (t) => {
  class Noted extends SimDisk {
    readonly calls: string[] = []
    override makeDir(dir: string): void {
      const isNew = !this.exists(dir)
      super.makeDir(dir)
      if (isNew) this.calls.push(`make ${dir}`)
    }
    override async syncDir(dir: string): Promise<void> {
      await super.syncDir(dir)
      this.calls.push(`sync ${dir}`)
    }
  }
  const disk = new Noted()
  disk.put('/there/file', bytes(0, 1))
  await makeDurableDirs(disk, '/there/a/b', ['log', 'x'])
  t.same(disk.calls.splice(0), [
    ...['sync /', 'make /there/a', 'sync /there', 'make /there/a/b', 'sync /there/a'],
    ...['make /there/a/b/log', 'make /there/a/b/x', 'sync /there/a/b'],
  ])
  t.ok(disk.crash('drop').exists('/there/a/b/x'))
  await makeDurableDirs(disk, '/there/a/b', ['log'])
  t.same(disk.calls.splice(0), ['sync /there/a', 'sync /there/a/b'])
  disk.fault = (call, dir) => {
    if (call === 'syncDir' && dir === '/there/a') throw new Error('not ours')
  }
  await makeDurableDirs(disk, '/there/a/b', ['log'])
  t.equal(disk.calls.at(-1), 'sync /there/a/b', 'an older folder above need not be open to us')
  await t.rejects(makeDurableDirs(disk, '/there/a/c', []), /not ours/, 'one with a new name must')
})
