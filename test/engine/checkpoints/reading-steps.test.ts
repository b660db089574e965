/** When a piece of a checkpoint may be read: at once, when nothing executes, or when commits are held. */
import t, { type Test } from 'tap'
import { CheckpointReading } from '../../../src/engine/checkpoints/reading.js'
import { Snapshot } from '../../../src/engine/checkpoints/snapshot.js'
import type { Committer } from '../../../src/engine/commit/committer.js'
import { MmsbError } from '../../../src/errors.js'
import { CHECKPOINT_SAVED_MAX_BYTES } from '../../../src/limits.js'
import { stateWith } from '../../lib/engine-state.js'
import { Gate } from '../../lib/gate.js'
import { turns } from '../../lib/wait.js'

/** A committer that does what the test says. */
class FakeCommitter {
  isQuiet = true
  readonly observers: unknown[] = []
  readonly waits: Gate[] = []
  readonly holds: (() => Promise<void>)[] = []
  holding = new Gate()
  failure: Error | undefined
  readonly lifecycle = {
    refuseWhenFailed: (): void => {
      if (this.failure !== undefined) throw this.failure
    },
  }
  observe(observer: unknown): void {
    this.observers.push(observer)
  }
  quiet(): Promise<void> {
    const gate = new Gate()
    this.waits.push(gate)
    return gate.promise
  }
  hold(work: () => Promise<void>): Promise<void> {
    this.holds.push(work)
    return this.holding.promise
  }
}

async function bench(t: Test, open?: (reading: CheckpointReading) => void) {
  const state = await stateWith(t, { x: { dtype: 'u8', shape: [8], fill: 3 } })
  const { id, bytes } = state.registry.require('x')
  const committer = new FakeCommitter()
  const reading = new CheckpointReading(state.context, committer as unknown as Committer)
  if (open === undefined) reading.open([{ id, bytes }])
  else open(reading)
  const read = (): number[] => {
    const into = new Uint8Array(8)
    reading.read(id, 0, into)
    return [...into]
  }
  return { state, id, committer, reading, read }
}

t.test('from a snapshot: at once, or when nothing executes any more', async (t) => {
  const { committer, reading, read } = await bench(t)
  t.ok(committer.observers[0] instanceof Snapshot)
  t.equal(reading.ready(), undefined, 'nothing executes')
  t.same(read(), [3, 3, 3, 3, 3, 3, 3, 3])
  committer.isQuiet = false
  let isReady = false
  const ready = reading.ready()!.then(() => {
    isReady = true
  })
  await turns()
  t.notOk(isReady)
  committer.waits[0]!.open()
  await ready
  committer.failure = new MmsbError('BUS_FAILED', 'stopped')
  t.throws(() => read(), { code: 'BUS_FAILED' })
  committer.failure = undefined
  reading.onRead()
  reading.onRead()
  t.equal(committer.waits.length, 2, 'it ends once')
  t.equal(committer.observers.length, 1, 'not while something executes')
  committer.waits[1]!.open()
  await turns()
  t.same(committer.observers.slice(1), [undefined], 'nobody watches any more')
  t.same(committer.holds, [], 'commits were never held')
})

t.test('commits are held once too much was saved, and until everything is read', async (t) => {
  const { committer, reading } = await bench(t)
  const snapshot = committer.observers[0] as Snapshot
  let savedBytes = CHECKPOINT_SAVED_MAX_BYTES
  Object.defineProperty(snapshot, 'savedBytes', { get: () => savedBytes })
  t.equal(reading.ready(), undefined)
  savedBytes++
  const ready = reading.ready()
  t.ok(ready !== undefined)
  t.equal(reading.ready(), ready, 'the same hold for every piece')
  savedBytes = 0
  t.equal(reading.ready(), ready, 'although there is room again')
  t.equal(committer.holds.length, 1)
  let isReady = false
  void ready!.then(() => {
    isReady = true
  })
  await turns()
  t.notOk(isReady, 'not before commits have stopped')
  let isReleased = false
  void committer.holds[0]!().then(() => {
    isReleased = true
  })
  await turns()
  t.same([isReady, isReleased], [true, false])
  reading.onRead()
  await turns()
  t.ok(isReleased)
})

t.test('a hold that fails, and one that begins after everything was read', async (t) => {
  const large = { get: () => CHECKPOINT_SAVED_MAX_BYTES + 1 }
  const failing = await bench(t)
  Object.defineProperty(failing.committer.observers[0], 'savedBytes', large)
  const ready = failing.reading.ready()
  failing.committer.holding.fail(new MmsbError('BUS_FAILED', 'stopped'))
  await t.rejects(ready!, { code: 'BUS_FAILED' })
  const late = await bench(t)
  Object.defineProperty(late.committer.observers[0], 'savedBytes', large)
  late.reading.ready()
  late.reading.onRead()
  let isReleased = false
  void late.committer.holds[0]!().then(() => {
    isReleased = true
  })
  await turns()
  t.ok(isReleased, 'it ends at once')
})
