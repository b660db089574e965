/** What a frame of our own log says, read in slices: names of pages that it makes itself, and pauses. */
import t from 'tap'
import { type LoggedFrameDeps, readingLoggedFrame } from '../../../src/engine/commands/transactions.js'
import { decodeFrame, splitFrames } from '../../../src/state/frame/reader.js'
import { pastOf } from '../../lib/past.js'

type Frame = ReturnType<typeof decodeFrame>

const COMMANDS_PER_PAUSE = 128
const DEPS: LoggedFrameDeps = { nameOf: (id) => `#${id}`, elementsOf: () => 2, worldAge: 0 }

/** What was read, and after how many pauses. */
function read(frame: Frame) {
  const reading = readingLoggedFrame(frame, DEPS)
  let pauses = 0
  let next = reading.next()
  for (; next.done !== true; next = reading.next()) pauses++
  return { pending: next.value, pauses }
}

t.test('a page may read the past of a page that comes after it', async (t) => {
  const { reader } = await pastOf(t, async (bus) => {
    await bus.create('known', { dtype: 'f64', shape: [2] }) // 1
    const derive = { op: 'map' as const, inputs: { x: 'known', y: { prev: 'later' } }, expr: 'x + y' }
    await bus.createMany([
      { name: 'first', definition: { derive, dtype: 'f64', shape: [2] } },
      {
        name: 'later',
        definition: {
          derive: { op: 'map' as const, inputs: { x: 'first' }, expr: 'x * 2' },
          dtype: 'f64',
          shape: [2],
        },
      },
    ]) // 2
  })
  const [record] = [...reader.records(2, 2)].map(({ frames }) => splitFrames(frames))
  const { creates } = read(decodeFrame(record![0]!)).pending
  t.strictSame(
    creates.map(({ name, derived }) => [name, derived!.derive.inputs]),
    [
      ['first', { x: '#1', y: { prev: 'later' } }],
      ['later', { x: 'first' }],
    ],
  )
})

for (const count of [COMMANDS_PER_PAUSE - 1, COMMANDS_PER_PAUSE, 3 * COMMANDS_PER_PAUSE]) {
  t.test(`${count} commands`, async (t) => {
    const names = Array.from({ length: count }, (_, i) => `p${i}`)
    const { reader } = await pastOf(t, async (bus) => {
      await bus.createMany(names.map((name) => ({ name, definition: { dtype: 'u8', shape: [1] } })))
      await bus.transact({ ops: names.map((page) => ({ page, offset: 0, values: [1] })) })
    })
    const wanted = Math.floor(count / COMMANDS_PER_PAUSE)
    const frameOf = (epoch: number): Frame => {
      for (const { frames } of reader.records(epoch, epoch)) return decodeFrame(splitFrames(frames)[0]!)
      throw new Error(`no record ${epoch}`)
    }
    const created = read(frameOf(1))
    t.equal(created.pauses, 2 * wanted, 'their names are gathered first')
    t.strictSame(
      created.pending.creates.map(({ name }) => name),
      names,
    )
    const written = read(frameOf(2))
    t.equal(written.pauses, wanted)
    t.equal(written.pending.writes.length, count)
  })
}
