/** Frames that others wrote: what does not fit its page is refused whole, and changes nothing. */
import t from 'tap'
import { Bus } from '../../../src/index.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import type { DeltaInput } from '../../../src/state/types.js'
import type { Dtype } from '../../../src/wire/dtype.js'

t.test('a delta that does not fit its page is refused with its whole frame', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  for (const dtype of ['u8', 'bool'] as const) await bus.create(dtype, { dtype, shape: [4] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'u8' }, fn: 'sum' })
  const { epoch, digest } = bus.status()
  /** Written for a page of this dtype and size, for another page than it names. */
  const frame = (page: string, dtype: Dtype, elements: number, delta: DeltaInput): Uint8Array => {
    const writer = new FrameWriter({})
    writer.delta(bus.page('u8').id, 'u8', 4, { offset: 0, values: [1] })
    writer.delta(bus.page(page).id, dtype, elements, delta)
    return writer.finish()
  }
  const cases: [what: string, frame: Uint8Array, code: string][] = [
    ['past the end', frame('u8', 'u8', 5, { offset: 4, values: [1] }), 'INVALID_DELTA'],
    ['up to past the end', frame('u8', 'u8', 5, { offset: 3, values: [1, 2] }), 'INVALID_DELTA'],
    ['an index past the end', frame('u8', 'u8', 5, { indices: [0, 4], values: [1, 2] }), 'INVALID_DELTA'],
    [
      'a mask past the end',
      frame('u8', 'u8', 5, { mask: Uint8Array.of(17), values: [1, 2] }),
      'INVALID_DELTA',
    ],
    ['another dtype', frame('u8', 'i8', 4, { offset: 0, values: [1] }), 'INVALID_DELTA'],
    ['2 into bool', frame('bool', 'u8', 4, { offset: 0, values: [2] }), 'INVALID_DELTA'],
    ['a derived page', frame('sum', 'u64', 1, { offset: 0, values: [1] }), 'PAGE_READ_ONLY'],
  ]
  for (const [what, bytes, code] of cases) {
    await t.rejects(bus.submit(bytes), { code }, what)
    t.match(bus.status(), { epoch, digest }, `${what}: nothing changed`)
  }
  await bus.submit(frame('u8', 'u8', 4, { offset: 3, values: [2] }))
  t.same([...bus.read('u8')], [1, 0, 0, 2], 'what fits is applied')
})
