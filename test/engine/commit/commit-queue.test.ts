/**
 * The queue keeps the order, its counts and its bounds, and answers everyone once. And when an epoch waits
 * for the writers of the one before, and for how long.
 */
import t from 'tap'
import type { Pending } from '../../../src/engine/commands/pending.js'
import type { Batch } from '../../../src/engine/commit/batch.js'
import { CommitQueue, queueFull } from '../../../src/engine/commit/commit-queue.js'
import { FrameRun, runSlabs } from '../../../src/engine/commit/frame-run.js'
import { GroupCommit } from '../../../src/engine/commit/group-commit.js'
import { DeviceLost } from '../../../src/ffi/library.js'
import {
  PACE_PAUSE_MAX_EPOCHS,
  PACE_WAIT_MAX_MS,
  PACE_WAIT_OF_APPEND,
  QUEUE_MAX_BYTES,
  QUEUE_MAX_TRANSACTIONS,
  STAGED_AT_ONCE_MAX,
} from '../../../src/limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import type { Slab } from '../../../src/state/slab.js'
import { turn } from '../../lib/wait.js'

/** What staging does with a transaction, and how much of the batch it takes. */
interface Plan {
  readonly name: string
  readonly bytes?: number
  readonly creates?: number
  readonly deletes?: number
  readonly redefines?: number
  readonly answer?: 'staged' | 'later' | Error
}

const planOf = new Map<Pending, Plan>()

function pendingOf(plan: Plan): Pending {
  const { bytes = 8, creates = 0, deletes = 0, redefines } = plan
  const pending = {
    frame: new Uint8Array(bytes),
    creates: new Array(creates),
    deletes: new Array(deletes),
    ...(redefines === undefined ? {} : { redefines: new Array(redefines) }),
  } as unknown as Pending
  planOf.set(pending, plan)
  return pending
}

class FakeBatch {
  readonly staged: string[] = []
  readonly asked: number[][] = []
  room = Number.POSITIVE_INFINITY

  hasRoom(frames: number, bytes: number, structure: number): boolean {
    this.asked.push([frames, bytes, structure])
    return this.staged.length < this.room
  }
  stage(pending: Pending): 'staged' | 'later' {
    if (pending instanceof FrameRun) {
      if (pending.writes.includes(13)) throw new Error('no page 13')
      this.staged.push(`run of ${pending.count}`)
      return 'staged'
    }
    const { name, answer = 'staged' } = planOf.get(pending)!
    if (answer instanceof Error) throw answer
    if (answer === 'staged') this.staged.push(name)
    return answer
  }
}

const fill = (queue: CommitQueue, batch: FakeBatch): string[] =>
  queue
    .fill(batch as unknown as Batch)
    .map(({ pending }) => planOf.get(pending)?.name ?? `run of ${pending.count}`)

/** A queue with these, and how each ended. */
function queued(...plans: Plan[]): { queue: CommitQueue; ends: string[] } {
  const queue = new CommitQueue()
  const ends: string[] = []
  for (const plan of plans) {
    queue.add(pendingOf(plan)).then(
      ({ epoch }) => ends.push(`${plan.name} in ${epoch}`),
      (error: Error) => ends.push(`${plan.name}: ${error.message}`),
    )
  }
  return { queue, ends }
}

t.test('in order, as far as the batch has room', async (t) => {
  const { queue } = queued({ name: 'a' }, { name: 'b', bytes: 16 }, { name: 'c', bytes: 24 }, { name: 'd' })
  t.same([queue.count, queue.bytes, queue.isEmpty], [4, 56, false])
  const batch = new FakeBatch()
  batch.room = 2
  t.same(fill(queue, batch), ['a', 'b'])
  t.same(
    batch.asked,
    [
      [1, 16, 0],
      [1, 24, 0],
    ],
    'the first one always fits',
  )
  t.same([queue.count, queue.bytes], [2, 32])
  const next = new FakeBatch()
  next.room = 0
  t.same(fill(queue, next), ['c'])
  t.same(fill(queue, new FakeBatch()), ['d'])
  t.same([queue.count, queue.bytes, queue.isEmpty], [0, 0, true])
  t.same(fill(queue, new FakeBatch()), [])
})

t.test('one that must wait ends the batch and comes first in the next', async (t) => {
  const { queue } = queued({ name: 'a' }, { name: 'b', answer: 'later' }, { name: 'c' })
  t.same(fill(queue, new FakeBatch()), ['a'])
  t.same([queue.count, queue.bytes], [2, 16])
})

t.test('a refused one gets its error, and the others go on', async (t) => {
  const { queue, ends } = queued({ name: 'a', answer: new Error('no') }, { name: 'b' }, { name: 'c' })
  t.same(fill(queue, new FakeBatch()), ['b', 'c'])
  await turn()
  t.same(ends, ['a: no'])
  t.same([queue.count, queue.bytes], [0, 0])
})

t.test('where the device is lost, everything stays queued but what was refused', async (t) => {
  const lost = new DeviceLost('INTERNAL', 'gone')
  const { queue, ends } = queued(
    { name: 'a' },
    { name: 'b', answer: new Error('no'), bytes: 32 },
    { name: 'c', answer: lost },
    { name: 'd' },
  )
  t.throws(() => fill(queue, new FakeBatch()), lost)
  await turn()
  t.same(ends, ['b: no'])
  t.same([queue.count, queue.bytes], [3, 24])
})

t.test('a large one is staged alone', async (t) => {
  const half = STAGED_AT_ONCE_MAX / 2
  const { queue } = queued(
    { name: 'small', creates: half, deletes: half },
    { name: 'large', creates: half, deletes: half, redefines: 1, bytes: 40 },
    { name: 'after' },
  )
  t.equal(queue.takeLarge(), undefined, 'it is not in front')
  const batch = new FakeBatch()
  t.same(fill(queue, batch), ['small'])
  const large = queue.takeLarge()!
  t.equal(planOf.get(large.pending)?.name, 'large')
  t.same([queue.count, queue.bytes], [1, 8])
  queue.putBack(large)
  t.same([queue.count, queue.bytes], [2, 48])
  t.same(fill(queue, new FakeBatch()), [], 'nothing passes it')
  t.equal(queue.takeLarge(), large, 'it is in front again')
  t.equal(queue.takeLarge(), undefined)
  t.same(fill(queue, new FakeBatch()), ['after'])
  t.equal(queue.takeLarge(), undefined)
})

t.test('what all are refused with is an error of their own', async (t) => {
  const { queue } = queued()
  const errors: Error[] = []
  for (const name of ['a', 'b']) queue.add(pendingOf({ name })).catch((error: Error) => errors.push(error))
  queue.refuseAll(() => new Error('over'))
  t.same([queue.count, queue.bytes, queue.isEmpty], [0, 0, true])
  await turn()
  t.same(
    errors.map(({ message }) => message),
    ['over', 'over'],
  )
  t.not(errors[0], errors[1])
})

t.test('room in transactions and in bytes', async (t) => {
  const { queue } = queued()
  t.ok(queue.hasRoom(QUEUE_MAX_BYTES + 1), 'one alone is taken, however large')
  queue.add({ ...pendingOf({ name: 'a' }), frame: { byteLength: 100 } as never }).catch(() => {})
  t.ok(queue.hasRoom(QUEUE_MAX_BYTES - 100))
  t.notOk(queue.hasRoom(QUEUE_MAX_BYTES - 99))
  for (let i = 1; i < QUEUE_MAX_TRANSACTIONS; i++) {
    if (i === QUEUE_MAX_TRANSACTIONS - 1) t.ok(queue.hasRoom(1))
    queue.add(pendingOf({ name: 'x', bytes: 0 })).catch(() => {})
  }
  t.notOk(queue.hasRoom(0))
  t.match(queueFull(), {
    code: 'OVERLOADED',
    message: 'Too many transactions are waiting.',
    extra: { retryAfterS: 1 },
  })
  queue.refuseAll(() => new Error('over'))
})

// ---- runs -------------------------------------------------------------------------------------------------

/** What a sender hears. */
function listener() {
  const heard: string[] = []
  const sender = {
    committed: (first: number, count: number, bytes: number, epoch: number) =>
      heard.push(`${first}+${count} (${bytes}) in ${epoch}`),
    failed: (first: number, count: number, bytes: number, error: unknown) =>
      heard.push(`${first}+${count} (${bytes}): ${(error as Error).message}`),
    refused: () => {},
  }
  return { sender, heard }
}

/** Puts a frame that writes these pages into a slab; returns its place and length. */
function put(slab: Slab, ...pages: number[]): { at: number; length: number } {
  const writer = new FrameWriter({})
  for (const page of pages) writer.delta(page, 'u8', 8, { offset: 0, values: [1] })
  const frame = writer.finish()
  const at = slab.used
  slab.bytes.set(frame, at)
  slab.used += frame.length
  return { at, length: frame.length }
}

t.test('frames that follow one another join a run, others begin one', async (t) => {
  const queue = new CommitQueue()
  const { sender, heard } = listener()
  const slab = runSlabs.withRoom(4_096)
  const before = slab.holders
  const add = (number: number, who = sender): boolean => {
    const { at, length } = put(slab, 1)
    return queue.addPlain(who, number, slab, at, length)
  }
  t.same([add(5), add(6), add(7)], [true, false, false])
  t.equal(queue.count, 3)
  t.equal(slab.holders, before + 1)
  t.ok(add(9), 'a number is missing')
  t.ok(add(10, listener().sender), 'another sender')
  slab.used += 8
  t.ok(add(11), 'not behind the one before')
  queue.add(pendingOf({ name: 'a' })).catch(() => {})
  t.ok(add(12), 'another transaction between')
  t.equal(slab.holders, before + 5)
  const [run] = queue.fill(new FakeBatch() as unknown as Batch)
  const { length } = run!.pending.frame
  run!.resolve({ epoch: 4, pages: {} })
  t.same(heard, [`5+3 (${length}) in 4`])
  t.equal(slab.holders, before + 4, 'its memory is free')
  t.same([queue.count, queue.bytes], [0, 0])
  run!.reject(new Error('late'))
})

t.test('of a run that is refused, only the frames that must be', async (t) => {
  const queue = new CommitQueue()
  const { sender, heard } = listener()
  const slab = runSlabs.withRoom(4_096)
  let bytes = 0
  for (const [i, page] of [1, 13, 2].entries()) {
    const { at, length } = put(slab, page)
    queue.addPlain(sender, i + 1, slab, at, length)
    bytes = length
  }
  const batch = new FakeBatch()
  const taken = queue.fill(batch as unknown as Batch)
  t.same(batch.staged, ['run of 1', 'run of 1'])
  t.same([queue.count, queue.bytes, queue.isEmpty], [0, 0, true])
  t.same(heard, [`2+1 (${bytes}): no page 13`])
  for (const submission of taken) submission.resolve({ epoch: 3, pages: {} })
  t.same(heard.slice(1), [`1+1 (${bytes}) in 3`, `3+1 (${bytes}) in 3`])
})

t.test('after an error that is not of a transaction, those that were not refused are counted', async (t) => {
  const { queue, ends } = queued({ name: 'refused', bytes: 16, answer: new Error('no') })
  queue
    .add(pendingOf({ name: 'lost', bytes: 24, answer: new DeviceLost('BUS_FAILED', 'gone') }))
    .catch(() => {})
  const { sender } = listener()
  const slab = runSlabs.withRoom(4_096)
  let bytes = 24
  for (let i = 1; i <= 3; i++) {
    const { at, length } = put(slab, 1)
    queue.addPlain(sender, i, slab, at, length)
    bytes += length
  }
  t.throws(() => queue.fill(new FakeBatch() as unknown as Batch), { message: 'gone' })
  t.same([queue.count, queue.bytes], [1 + 3, bytes])
  await turn()
  t.same(ends, ['refused: no'])
  queue.refuseAll(() => new Error('over'))
})

t.test('a run knows its pages, once each, its deltas and its bytes', async (t) => {
  const { sender } = listener()
  const slab = runSlabs.withRoom(4_096)
  const first = put(slab, 4, 4, 7)
  const run = new FrameRun(sender, 1, slab, first.at)
  run.add(first.length)
  const second = put(slab, 7, 4, 9, 9)
  t.ok(run.isNext(sender, 2, slab, second.at))
  t.notOk(run.isNext(sender, 2, slab, second.at + 8))
  t.notOk(run.isNext(sender, 2, { ...slab }, second.at))
  run.add(second.length)
  t.same(run.writes, [4, 7, 9])
  t.same(run.deltas, { dense: 7, sparse: 0, masked: 0 })
  t.same([run.count, run.bytes], [2, first.length + second.length])
  t.same(run.frame, slab.bytes.subarray(first.at, second.at + second.length))
  const holders = slab.holders
  const parts = run.split()
  t.same(
    parts.map(({ writes, count }) => [writes, count]),
    [
      [[4, 7], 1],
      [[7, 4, 9], 1],
    ],
  )
  t.same(
    parts.map(({ frame }) => frame.length),
    [first.length, second.length],
  )
  t.equal(slab.holders, holders + 1)
  for (const part of parts) part.failed(new Error('over'))
  t.equal(slab.holders, holders - 1)
})

// ---- group commit -----------------------------------------------------------------------------------------

t.test('who writes alone never waits', async (t) => {
  const pace = new GroupCommit()
  for (let epoch = 0; epoch < 100; epoch++) {
    t.notOk(pace.shouldWait(1, epoch))
    pace.published(1, 1, 0, epoch)
    t.notOk(pace.shouldWait(1, epoch))
  }
})

t.test(
  'those who take turns are waited for, until they are all there or most of a sync has gone by',
  async (t) => {
    const pace = new GroupCommit()
    pace.published(1, 5, 5, 100)
    t.ok(pace.shouldWait(5, 100))
    t.ok(pace.shouldWait(9, 100 + PACE_WAIT_OF_APPEND - 0.01))
    t.notOk(pace.shouldWait(10, 100.1), 'all are there')
    t.notOk(pace.shouldWait(3, 100.2), 'decided once an epoch')
    pace.published(1, 10, 0, 102)
    t.ok(pace.shouldWait(1, 102.5))
    t.notOk(pace.shouldWait(9, 102 + PACE_WAIT_OF_APPEND), 'not all came in time')
    const slow = new GroupCommit()
    slow.published(1000, 2, 0, 0)
    t.ok(slow.shouldWait(1, PACE_WAIT_MAX_MS - 0.01))
    t.notOk(slow.shouldWait(1, PACE_WAIT_MAX_MS), 'however slow the disk is')
  },
)

t.test('waiting in vain is tried less and less often, and again when it helps', async (t) => {
  const pace = new GroupCommit()
  const waits: number[] = []
  let atMs = 0
  for (let epoch = 0; epoch < 4 * PACE_PAUSE_MAX_EPOCHS; epoch++) {
    atMs += 10
    pace.published(1, 4, 4, atMs)
    if (pace.shouldWait(4, atMs)) waits.push(epoch)
    t.notOk(pace.shouldWait(4, atMs + 5))
  }
  const gaps = waits.slice(1).map((epoch, i) => epoch - waits[i]!)
  t.same(gaps.slice(0, 5), [2, 3, 5, 9, 17])
  t.equal(Math.max(...gaps), PACE_PAUSE_MAX_EPOCHS + 1)
  for (let epoch = 0; epoch <= PACE_PAUSE_MAX_EPOCHS; epoch++) {
    atMs += 10
    pace.published(1, 4, 4, atMs)
    t.notOk(pace.shouldWait(8, atMs))
  }
  atMs += 10
  pace.published(1, 4, 4, atMs)
  t.ok(pace.shouldWait(4, atMs), 'the last try found all of them')
})
