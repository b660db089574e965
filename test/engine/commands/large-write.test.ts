/** Pages larger than a frame are written by one call. */
import t from 'tap'
import { Bus } from '../../../src/index.js'
import { WRITE_PIECE_BYTES } from '../../../src/limits.js'
import { turn } from '../../lib/wait.js'

const bytesOf = ({ buffer }: { buffer: ArrayBufferLike }): Buffer => Buffer.from(buffer)

t.test(
  'a page larger than a frame is written in pieces, in order, and not over another writer',
  async (t) => {
    const bus = await Bus.open({ backend: 'cpu', threads: 1 })
    t.teardown(() => bus.close())
    const elements = (WRITE_PIECE_BYTES / 4) * 2 + 5
    await bus.create('big', { dtype: 'u32', shape: [elements] })
    const values = Uint32Array.from({ length: elements }, (_, i) => i)
    const first = await bus.write('big', values, { key: 'k', expectVersion: 1 })
    t.equal(first.epoch, 4, 'three pieces, three epochs')
    t.equal(Buffer.compare(bytesOf(bus.read('big')), bytesOf(values)), 0)
    t.same(await bus.write('big', values, { key: 'k' }), first, 'a repeat gets the first answer')
    t.equal(bus.epoch, 4)
    await t.rejects(bus.write('big', values, { expectVersion: 1 }), { code: 'PRECONDITION_FAILED' })
    await t.rejects(bus.write('big', values.subarray(1)), { code: 'INVALID_DELTA' })
    t.equal(bus.epoch, 4)

    const write = bus.write('big', values.fill(7))
    await turn()
    await bus.patch('big', { offset: 0, values: [9] })
    await t.rejects(write, { code: 'PRECONDITION_FAILED' }, 'another writer came between')
  },
)
