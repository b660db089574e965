/** Pages larger than a frame are written by one call. */
import t from 'tap'
import { commitPieces, piecesOf } from '../../../src/engine/commands/large-write.js'
import type { WriteOptions } from '../../../src/engine/types.js'
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

t.test('pieces: the first expects the version, the last has the key', async (t) => {
  const options: WriteOptions = { key: 'k', expectVersion: 5, source: 'ann' }
  t.strictSame(piecesOf([1, 2, 3, 4, 5], 2, options), [
    { offset: 0, values: [1, 2], options: { source: 'ann', key: 'k#0', expectVersion: 5 } },
    { offset: 2, values: [3, 4], options: { source: 'ann', key: 'k#2' } },
    { offset: 4, values: [5], options: { source: 'ann', key: 'k' } },
  ])
  t.strictSame(piecesOf([1, 2], 2, { key: 'k' }), [{ offset: 0, values: [1, 2], options: { key: 'k' } }])
  const values = Uint16Array.of(1, 2, 3)
  const views = piecesOf(values, 2, {})
  t.strictSame(views, [
    { offset: 0, values: Uint16Array.of(1, 2), options: {} },
    { offset: 2, values: Uint16Array.of(3), options: {} },
  ])
  t.equal((views[1]!.values as Uint16Array).buffer, values.buffer, 'no copy')
  const asked: unknown[] = []
  const answer = await commitPieces(
    'p',
    piecesOf([1, 2, 3], 1, { expectVersion: 5 }),
    async (piece, given) => {
      asked.push([piece.offset, given.expectVersion])
      // The first piece changes nothing.
      return { epoch: 10 + piece.offset, pages: piece.offset === 0 ? {} : { p: 10 + piece.offset } }
    },
  )
  t.strictSame(asked, [
    [0, 5],
    [1, undefined],
    [2, 11],
  ])
  t.strictSame(answer, { epoch: 12, pages: { p: 12 } }, 'that of the last one')
})
