/**
 * The state is read for a checkpoint in pieces of one chunk, and between the pieces transactions overwrite
 * what is read next. Each page of the checkpoint must have the bytes that it had when the checkpoint began.
 */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import { type ExecutionHost, REAL_HOST } from '../../../src/engine/host.js'
import { CHECKPOINT_CHUNK_BYTES } from '../../../src/limits.js'
import { openCheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import { checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { CheckpointTasks } from '../../../src/store/checkpoint/tasks.js'
import type { CheckpointThread } from '../../../src/store/checkpoint/thread.js'
import { Draw } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'
import { turn } from '../../lib/wait.js'

const CHUNK = CHECKPOINT_CHUNK_BYTES
const ELEMENTS = (6 * CHUNK) / 4 + 3
const SEEDS = 6

/** Calls back when the checkpoint begins and before each piece is written: bytes that were read so far. */
function watchedThread(place: string, between: (readBytes: number) => Promise<void>): CheckpointThread {
  const tasks = new CheckpointTasks(checkpointFolder(place))
  let readBytes = 0
  let last: Promise<unknown> = Promise.resolve()
  return {
    ask(request) {
      if (request.type === 'begin') readBytes = 0
      if (request.type === 'piece') readBytes += request.bytes.length
      const soFar = readBytes
      const done = last.then(async () => {
        if (request.type === 'begin' || request.type === 'piece') await between(soFar)
        return tasks.handle(request)
      })
      last = done.catch(() => {})
      return done
    },
    end: async () => {},
  }
}

async function define(bus: EngineBus): Promise<void> {
  await bus.create('large', { dtype: 'f32', shape: [ELEMENTS] })
  await bus.derive('twice', { op: 'map', inputs: { x: 'large' }, expr: 'x * 2 + 1' })
  await bus.create('small', { dtype: 'i32', shape: [10] })
  await bus.derive('was', { op: 'map', inputs: { x: 'large' }, expr: 'x - prev(x)' })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'small' }, fn: 'sum' })
  const values = Float32Array.from({ length: ELEMENTS }, (_, i) => Math.fround(Math.sin(i)))
  await bus.write('large', values)
  await bus.write('small', [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
}

/** A few commits, most of them about the place that is read next. */
async function disturb(
  bus: EngineBus,
  draw: Draw,
  readBytes: number,
  going: Promise<unknown>[],
): Promise<void> {
  for (let commits = draw.int(0, 3); commits > 0; commits--) {
    const position = Math.floor((readBytes % (ELEMENTS * 4)) / 4)
    const ops = Array.from({ length: draw.int(1, 3) }, () => {
      const count = draw.chance(0.8) ? draw.int(1, 4) : draw.int(5, 30_000)
      const about = position + draw.pick([0, -1, 1, -count, CHUNK / 4, CHUNK / 4 - 1, 3 * CHUNK])
      const offset = Math.max(0, Math.min(ELEMENTS - count, about))
      return { page: 'large', offset, values: Array.from({ length: count }, () => draw.int(1, 1e6)) }
    })
    const first = draw.int(0, 8)
    const few = { page: 'small', offset: first, values: [draw.int(1, 1e6), draw.int(1, 1e6)] }
    const committed = bus.transact({ ops: [...ops, few] })
    if (draw.chance(0.4)) {
      // Ends what executes on another thread, and publishes it.
      for (let turns = draw.int(1, 3); turns > 0; turns--) await turn()
      bus.read('sum')
    }
    // Else it goes on while the next piece is read.
    if (draw.chance(0.5)) await committed
    else going.push(committed)
    if (draw.chance(0.1)) await bus.whatIf({ ops: [few], read: ['sum'] })
    if (draw.chance(0.05) && bus.hasPage('was')) await bus.delete('was')
    if (draw.chance(0.1)) await bus.create(`extra${bus.epoch}`, { dtype: 'u8', shape: [draw.int(1, 90_000)] })
  }
}

async function checkOne(t: Test, seed: number): Promise<void> {
  const draw = new Draw(seed)
  const dataDir = folder(t)
  const place = join(dataDir, 'checkpoints')
  let opened: EngineBus | undefined
  const going: Promise<unknown>[] = []
  const thread = watchedThread(place, (readBytes) => disturb(opened as EngineBus, draw, readBytes, going))
  const store = { checkpointThread: () => thread, checkpointPieceBytes: CHUNK }
  const executions: ExecutionHost = {
    goesToThread: () => draw.chance(0.4),
    async ended(execution) {
      const result = await execution
      // Until its end is noticed, nobody knows what it has overwritten.
      for (let turns = draw.int(0, 4); turns > 0; turns--) await turn()
      return result
    },
  }
  const bus = await EngineBus.open(
    { dataDir, backend: 'cpu', threads: 1 + (seed % 2), fsync: 'off' },
    { ...REAL_HOST, store, executions },
  )
  opened = bus
  await define(bus)
  for (let i = 0; i < 2; i++) {
    const then = new Map(bus.pageNames().map((name) => [bus.page(name).id, Buffer.from(bytesOf(bus, name))]))
    const { epoch, digest } = bus.status()
    t.equal((await bus.checkpoint()).epoch, epoch)
    await Promise.all(going.splice(0))
    t.ok(bus.epoch > epoch + 5, `seed ${seed}: ${bus.epoch - epoch} commits meanwhile`)
    const file = openCheckpointFile(checkpointFolder(place), epoch, undefined)
    if (typeof file === 'string') throw new Error(file)
    const found = new Map(file.pages.map((page) => [page.id, Buffer.alloc(page.bytes)]))
    file.load((id, offset, chunk) => found.get(id)?.set(chunk, offset))
    t.equal(Buffer.from(file.header.digest).toString('hex'), digest)
    file.close()
    const wrong = [...then].filter(([id, bytes]) => found.get(id as number)?.equals(bytes) !== true)
    t.same(
      wrong.map(([id]) => id),
      [],
      `seed ${seed}, epoch ${epoch}`,
    )
  }
  const { epoch, digest } = bus.status()
  await bus.close()
  const again = await EngineBus.open({ dataDir, backend: 'cpu', threads: 1 })
  t.match(again.status(), { epoch, digest }, `seed ${seed}: recovered`)
  await again.close()
}

function bytesOf(bus: EngineBus, name: string): Uint8Array {
  const values = bus.read(name)
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

for (let seed = 1; seed <= SEEDS; seed++)
  t.test(`whatever is committed between the pieces, seed ${seed}`, (t) => checkOne(t, seed))
