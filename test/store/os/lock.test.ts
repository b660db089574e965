/** The lock of a data folder: who is kept out, what counts as lost, and that nothing stays open. */
import fs from 'node:fs'
import path from 'node:path'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { FOLDER_CHECK_INTERVAL_MS } from '../../../src/limits.js'
import {
  folderChange,
  identityAt,
  type LockDescriptor,
  lockFolder,
  lockForReading,
} from '../../../src/store/os/lock.js'
import { folder, openFilesIn } from '../../lib/folder.js'

const HELD: LockDescriptor = () => 0
/** EOPNOTSUPP: the file system cannot lock a folder. */
const CANNOT: LockDescriptor = () => 95
const TAKEN: LockDescriptor = () => 11

const IN_USE = { code: 'FOLDER_LOCKED', message: /in use by process \d+ on .+, since \d{4}-/ }

/** A data folder with its parts. */
function dataFolder(t: Test): string {
  const dir = path.join(folder(t), 'data')
  for (const part of ['log', 'checkpoints']) fs.mkdirSync(path.join(dir, part), { recursive: true })
  return dir
}

/** Puts an empty file in the place of another one that still exists. */
function replaceFile(file: string): void {
  fs.renameSync(file, `${file}.old`)
  fs.writeFileSync(file, '')
}

t.test('a second one is refused and names the first; after the release it may come in', async (t) => {
  for (const lockDescriptor of [undefined, HELD, CANNOT]) {
    const dir = dataFolder(t)
    const lock = lockFolder(dir, lockDescriptor)
    t.same(lock.identity, identityAt(dir))
    t.throws(() => lockFolder(dir, lockDescriptor), IN_USE)
    // SQLite itself keeps the refused one's lock.db open until the first is closed.
    t.same(
      openFilesIn(dir).filter((file) => file === dir),
      [dir],
      'what the refused one had opened is closed',
    )
    t.equal(lock.lost(), undefined)
    lock.release()
    lock.release()
    t.equal(lock.lost(), 'it is closed')
    t.same(openFilesIn(dir), [])
    lockFolder(dir, lockDescriptor).release()
    t.equal(fs.statSync(path.join(dir, 'lock.db')).mode & 0o777, 0o600)
    t.equal(fs.statSync(path.join(dir, 'holder.txt')).mode & 0o777, 0o600)
  }
})

t.test('where the folder itself is locked by another, lock.db is not touched', async (t) => {
  const dir = dataFolder(t)
  t.throws(() => lockFolder(dir, TAKEN), { code: 'FOLDER_LOCKED', message: /in use by another process/ })
  fs.writeFileSync(path.join(dir, 'holder.txt'), ' \n')
  t.throws(() => lockForReading(dir, TAKEN), { code: 'FOLDER_LOCKED', message: /in use by another process/ })
  t.same(openFilesIn(dir), [])
  t.notOk(fs.existsSync(path.join(dir, 'lock.db')))
})

t.test('what cannot be locked is refused, and nothing stays open', async (t) => {
  const dir = dataFolder(t)
  const file = path.join(dir, 'file')
  fs.writeFileSync(file, 'x')
  const refusal = { code: 'BUS_FAILED', message: /cannot be locked/ }
  t.throws(() => lockFolder(file, HELD), refusal)
  fs.mkdirSync(path.join(dir, 'lock.db'))
  t.throws(() => lockFolder(dir, HELD), refusal)
  t.throws(() => lockForReading(dir, HELD), refusal)
  t.same(openFilesIn(dir), [])
})

t.test('lock.db that was removed or replaced is locked again while the folder is locked', async (t) => {
  const dir = dataFolder(t)
  const file = path.join(dir, 'lock.db')
  const lock = lockFolder(dir, HELD)
  for (const change of [() => replaceFile(file), () => fs.rmSync(file), () => replaceFile(file)]) {
    change()
    t.equal(lock.lost(), undefined)
    const again = identityAt(file)
    t.not(again, undefined, 'there is one again')
    t.throws(() => lockFolder(dir, HELD), IN_USE, 'and it is locked')
    t.equal(lock.lost(), undefined)
    t.same(identityAt(file), again)
    t.same(
      openFilesIn(dir).filter((name) => /old|deleted/.test(name)),
      [],
      'the older one is closed',
    )
  }
  fs.rmSync(file)
  fs.mkdirSync(file)
  t.match(lock.lost(), /lock.db was removed or replaced, and it cannot be locked again: /)
  lock.release()
  t.same(openFilesIn(dir), [])
})

t.test('without that lock it is lost', async (t) => {
  for (const lockDescriptor of [undefined, CANNOT]) {
    for (const change of [replaceFile, fs.rmSync]) {
      const dir = dataFolder(t)
      const lock = lockFolder(dir, lockDescriptor)
      t.equal(lock.lost(), undefined)
      change(path.join(dir, 'lock.db'))
      t.match(lock.lost(), /lock.db was removed or replaced, so another process may be writing/)
      lock.release()
    }
  }
})

t.test('a folder, or a part of it, that was renamed or replaced is lost', async (t) => {
  for (const part of ['', 'log', 'checkpoints']) {
    const dir = dataFolder(t)
    const lock = lockFolder(dir, HELD)
    const place = path.join(dir, part)
    fs.renameSync(place, `${dir}.moved`)
    t.match(lock.lost(), /was removed or renamed while it was open$/, part)
    t.match(lock.lost(), `the folder ${path.resolve(place)} `)
    fs.mkdirSync(place)
    t.match(lock.lost(), /^another folder was put in the place of .+ while it was open$/, part)
    fs.rmdirSync(place)
    fs.renameSync(`${dir}.moved`, place)
    t.equal(lock.lost(), undefined, part)
    lock.release()
  }
  const bare = folder(t)
  const lock = lockFolder(bare, HELD)
  fs.mkdirSync(path.join(bare, 'log'))
  t.equal(lock.lost(), undefined, 'a part that came later')
  lock.release()
})

t.test('a path that cannot be followed any more is lost', async (t) => {
  const dir = dataFolder(t)
  const opened = identityAt(dir)
  t.equal(folderChange(dir, opened), undefined)
  t.match(folderChange(dir, undefined), /^another folder/)
  t.match(folderChange(dir, { ...opened!, dev: opened!.dev + 1n }), /^another folder/)
  t.match(folderChange(dir, { ...opened!, ino: opened!.ino + 1n }), /^another folder/)
  fs.rmSync(dir, { recursive: true })
  fs.symlinkSync(dir, dir)
  t.match(folderChange(dir, opened), /cannot be reached any more: ELOOP/)
})

t.test('the holder is asked to look from time to time, until the release', async (t) => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  const lock = lockFolder(dataFolder(t), HELD)
  let checks = 0
  const listener = { checkHeld: () => void checks++ }
  lock.watch(listener)
  t.equal(checks, 0)
  mock.timers.tick(FOLDER_CHECK_INTERVAL_MS)
  t.equal(checks, 1)
  mock.timers.tick(FOLDER_CHECK_INTERVAL_MS)
  t.equal(checks, 2)
  lock.release()
  mock.timers.tick(FOLDER_CHECK_INTERVAL_MS)
  t.equal(checks, 2)
})

t.test('looking from time to time does not keep the process alive', async (t) => {
  const timeouts = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const before = timeouts()
  const lock = lockFolder(dataFolder(t), HELD)
  lock.watch({ checkHeld: () => {} })
  t.equal(timeouts(), before)
  lock.release()
})

t.test('readers: of a folder that is locked itself there may be several', async (t) => {
  const dir = dataFolder(t)
  lockFolder(dir, HELD).release()
  const asked: (boolean | undefined)[] = []
  const shared: LockDescriptor = (_, isShared) => {
    asked.push(isShared)
    return 0
  }
  const readers = [lockForReading(dir, shared), lockForReading(dir, shared)]
  t.same(asked, [true, true])
  t.same(readers[0]!.identity, identityAt(dir))
  t.equal(openFilesIn(dir).length, 2, 'lock.db is not held')
  for (const reader of readers) reader.release()
  t.same(openFilesIn(dir), [])
  lockFolder(dir, (_, isShared) => (isShared ? 11 : 0)).release()
})

t.test('readers: otherwise there is one, and it keeps writers out', async (t) => {
  const dir = dataFolder(t)
  lockFolder(dir).release()
  for (const lockDescriptor of [undefined, CANNOT]) {
    const reader = lockForReading(dir, lockDescriptor)
    t.throws(() => lockFolder(dir, lockDescriptor), IN_USE)
    reader.release()
    t.same(openFilesIn(dir), [])
    lockFolder(dir, lockDescriptor).release()
  }
})

t.test('a reader waits for a writer no longer than a second, and is refused', async (t) => {
  const dir = dataFolder(t)
  const lock = lockFolder(dir)
  t.throws(() => lockForReading(dir), IN_USE)
  lock.release()
})

t.test('a reader makes no lock.db where there is none', async (t) => {
  const dir = dataFolder(t)
  const reader = lockForReading(dir)
  t.same(fs.readdirSync(dir).sort(), ['checkpoints', 'log'])
  reader.release()
  t.same(openFilesIn(dir), [])
})
