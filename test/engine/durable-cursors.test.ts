/** Cursors of durable readers: what is on disk is what was promised, also where a write fails. */
import t from 'tap'
import { type CursorDeps, Cursors } from '../../src/engine/durable-cursors.js'
import { DURABLE_READERS_MAX, DURABLE_SEEN_MS } from '../../src/limits.js'
import type { CursorRow } from '../../src/store/cursors/cursors.js'
import { turn } from '../lib/wait.js'

const HISTORY = 'h1'

/** A disk that fails when it is told to, and answers when it is asked to. */
class FakeDisk {
  readonly rows = new Map<string, CursorRow>()
  problems: string[] = []
  error: Error | undefined
  isSlow = false
  isClosed = false
  #waiting: (() => void)[] = []

  async load() {
    return { rows: [...this.rows.values()], problems: this.problems }
  }
  async put(row: CursorRow): Promise<void> {
    await this.#write()
    this.rows.set(row.name, row)
  }
  async remove(name: string): Promise<void> {
    await this.#write()
    this.rows.delete(name)
  }
  async close(): Promise<void> {
    this.isClosed = true
  }
  async #write(): Promise<void> {
    const { error } = this
    if (this.isSlow) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    if (error !== undefined) throw error
  }
  /** Ends the oldest write that waits. */
  async step(): Promise<void> {
    this.#waiting.shift()?.()
    await turn()
  }
}

function bench(options: Partial<CursorDeps> = {}) {
  const disk = new FakeDisk()
  const clock = { nowMs: 1_000 }
  const notices: string[] = []
  const deps: CursorDeps = {
    store: disk as unknown as CursorDeps['store'],
    nowMs: () => clock.nowMs,
    newestEpoch: () => 50,
    history: HISTORY,
    bytesSince: (epoch) => 100 - epoch,
    holdMs: 400_000,
    holdBytes: 1_000,
    onNotice: (message) => notices.push(message),
    ...options,
  }
  return { disk, clock, notices, deps, cursors: new Cursors(deps) }
}

/** What the next process finds. */
const again = async ({ deps }: ReturnType<typeof bench>) => (await Cursors.open(deps)).list()

t.test('a reader that is defined, moved, defined again and removed', async (t) => {
  const b = bench()
  const { cursors, clock, disk } = b
  await cursors.define('b', ['x'], 7)
  clock.nowMs = 2_000
  await cursors.define('a', ['y', 'z'], null)
  const a = { name: 'a', pages: ['y', 'z'], history: HISTORY, epoch: null, createdMs: 2_000, seenMs: 2_000 }
  const first = { name: 'b', pages: ['x'], history: HISTORY, epoch: 7, createdMs: 1_000, seenMs: 1_000 }
  t.strictSame(cursors.list(), [a, first], 'sorted by name')
  t.strictSame(await again(b), [a, first])
  t.equal(cursors.get('c'), undefined)
  t.throws(() => cursors.require('c'), { code: 'NOT_FOUND' })
  clock.nowMs = 3_000
  t.equal(await cursors.commit('b', 9), 9)
  t.equal(await cursors.commit('b', 8), 9, 'it only moves forward')
  t.equal(await cursors.commit('a', 4), 4)
  t.match(cursors.require('b'), { epoch: 9, createdMs: 1_000, seenMs: 3_000 })
  clock.nowMs = 4_000
  await cursors.define('b', ['w'], 2)
  t.strictSame(cursors.get('b'), { ...first, pages: ['w'], epoch: 2, seenMs: 4_000 })
  t.strictSame(await again(b), cursors.list())
  await cursors.remove('b')
  t.strictSame(
    cursors.list().map(({ name }) => name),
    ['a'],
  )
  t.notOk(disk.rows.has('b'))
  await t.rejects(cursors.remove('b'), { code: 'NOT_FOUND' })
  await t.rejects(cursors.commit('b', 1), { code: 'NOT_FOUND' })
  await cursors.close()
  t.ok(disk.isClosed)
})

t.test('so many readers, and no more', async (t) => {
  const { cursors } = bench()
  for (let i = 0; i < DURABLE_READERS_MAX; i++) await cursors.define(`r${i}`, ['x'], 1)
  await t.rejects(cursors.define('one more', ['x'], 1), { code: 'OVERLOADED' })
  await cursors.define('r0', ['y'], 1)
  await cursors.remove('r1')
  await cursors.define('one more', ['x'], 1)
})

t.test('what the disk has is loaded', async (t) => {
  const b = bench()
  b.disk.problems = ['row 3 is damaged']
  const row = { createdMs: 5, seenMs: 6 }
  b.disk.rows.set('old', { ...row, name: 'old', definition: '{"pages":["x"]}', epoch: 60 })
  b.disk.rows.set('new', { ...row, name: 'new', definition: '{"pages":["y"],"history":"h0"}', epoch: null })
  t.strictSame(await again(b), [
    { ...row, name: 'new', pages: ['y'], history: 'h0', epoch: null },
    { ...row, name: 'old', pages: ['x'], history: HISTORY, epoch: 50 },
  ])
  t.same(b.notices, ['durable subscriptions: row 3 is damaged'])
})

t.test('a write that fails leaves what is on disk', async (t) => {
  const b = bench()
  const { cursors, disk } = b
  await cursors.define('a', ['x'], 5)
  const before = cursors.list()
  disk.error = new Error('full')
  await t.rejects(cursors.define('b', ['x'], 1), { message: 'full' })
  await t.rejects(cursors.commit('a', 9), { message: 'full' })
  await t.rejects(cursors.define('a', ['y'], 9), { message: 'full' })
  await t.rejects(cursors.remove('a'), { message: 'full' })
  t.strictSame(cursors.list(), before)
  disk.error = undefined
  t.equal(await cursors.commit('a', 6), 6)
  await cursors.remove('a')
  disk.error = new Error('full')
  await t.rejects(cursors.define('a', ['x'], 1), { message: 'full' })
  t.strictSame(cursors.list(), [], 'what was removed does not come back')
})

t.test('a write that fails while a later one waits does not undo that one', async (t) => {
  const { cursors, disk } = bench()
  await cursors.define('a', ['x'], 5)
  disk.isSlow = true
  disk.error = new Error('full')
  const failing = cursors.commit('a', 8)
  const removing = cursors.remove('a')
  disk.error = undefined
  const defining = cursors.define('a', ['y'], 10)
  failing.catch(() => {})
  removing.catch(() => {})
  await disk.step()
  await t.rejects(failing)
  t.equal(cursors.get('a')?.epoch, 10)
  await disk.step()
  await t.rejects(removing)
  t.equal(cursors.get('a')?.epoch, 10, 'nor does a removal')
  await disk.step()
  await defining
  t.match(cursors.list(), [{ epoch: 10, pages: ['y'] }])
})

t.test('a connected reader is noted once in a while, and moves over what holds nothing for it', async (t) => {
  const b = bench({ holdMs: 4 * DURABLE_SEEN_MS })
  const { cursors, clock, disk } = b
  await cursors.define('a', ['x'], 5)
  await cursors.define('null', ['x'], null)
  const start = clock.nowMs
  clock.nowMs = start + DURABLE_SEEN_MS - 1
  cursors.touch('a', { after: 5, upTo: 9 })
  t.match(cursors.get('a'), { epoch: 5, seenMs: start }, 'not yet')
  clock.nowMs = start + DURABLE_SEEN_MS
  cursors.touch('a', { after: 6, upTo: 9 })
  t.match(cursors.get('a'), { epoch: 5, seenMs: clock.nowMs }, 'it has not processed epoch 6')
  clock.nowMs += DURABLE_SEEN_MS
  cursors.touch('a', { after: 5, upTo: 9 })
  t.match(cursors.get('a'), { epoch: 9, seenMs: clock.nowMs })
  clock.nowMs += DURABLE_SEEN_MS
  cursors.touch('a', { after: 5, upTo: 8 })
  t.equal(cursors.get('a')?.epoch, 9, 'never back')
  cursors.touch('null', { after: 0, upTo: 9 })
  t.match(cursors.get('null'), { epoch: null, seenMs: clock.nowMs })
  clock.nowMs += DURABLE_SEEN_MS
  cursors.touch('a')
  t.match(cursors.get('a'), { epoch: 9, seenMs: clock.nowMs })
  cursors.touch('nobody')
  disk.error = new Error('full')
  clock.nowMs += DURABLE_SEEN_MS
  cursors.touch('a', { after: 9, upTo: 12 })
  await turn()
  t.match(cursors.get('a'), { epoch: 9 }, 'a failure is not told, and moves nothing')
  const short = bench({ holdMs: 400 })
  await short.cursors.define('a', ['x'], 5)
  short.clock.nowMs += 99
  short.cursors.touch('a')
  t.equal(short.cursors.get('a')?.seenMs, 1_000)
  short.clock.nowMs += 1
  short.cursors.touch('a')
  t.equal(short.cursors.get('a')?.seenMs, 1_100, 'in a quarter of the time that history is kept')
})

t.test('whose history is kept', async (t) => {
  const b = bench({ holdMs: 100, holdBytes: 70 })
  const { cursors, clock, disk } = b
  t.equal(cursors.lowestNeeded(), undefined)
  await cursors.define('far', ['x'], 29)
  t.notOk(cursors.holds(cursors.require('far')), '71 bytes are too many')
  t.equal(cursors.lowestNeeded(), undefined)
  await cursors.define('a', ['x'], 40)
  await cursors.define('b', ['x'], 30)
  await cursors.define('null', ['x'], null)
  t.ok(cursors.holds(cursors.require('b')))
  t.notOk(cursors.holds(cursors.require('null')))
  t.equal(cursors.lowestNeeded(), 30)
  clock.nowMs += 100
  await cursors.commit('a', 41)
  t.equal(cursors.lowestNeeded(), 30)
  clock.nowMs += 1
  t.equal(cursors.lowestNeeded(), 41, 'the other one was not seen for too long')
  disk.rows.set('other', {
    name: 'other',
    createdMs: 1,
    seenMs: clock.nowMs,
    epoch: 45,
    definition: '{"pages":[],"history":"h0"}',
  })
  const other = await Cursors.open(b.deps)
  t.notOk(other.holds(other.require('other')), 'of another history there is nothing to keep')
})
