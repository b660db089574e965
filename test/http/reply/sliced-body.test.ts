/** Bodies that are made while they are sent: in pieces, in order, only as fast as they are read. */
import t from 'tap'
import { joined, listed, partsOf, slicedBody } from '../../../src/http/reply/sliced-body.js'
import { OCTETS_PIECE_BYTES } from '../../../src/limits.js'
import { turn } from '../../lib/wait.js'

async function read(body: AsyncIterable<Buffer>): Promise<string> {
  const pieces: Buffer[] = []
  for await (const piece of body) pieces.push(piece)
  return Buffer.concat(pieces).toString()
}

t.test('the pieces, one after another, to the end', async (t) => {
  t.equal(await read(slicedBody(['a', Buffer.from('b'), '', 'c'])), 'abc')
  t.equal(await read(slicedBody([])), '')
  const many = Array.from({ length: 5_000 }, (_, i) => `${i},`)
  t.equal(await read(slicedBody(many)), many.join(''))
})

t.test('a piece that cannot be made ends the body with its error', async (t) => {
  const pieces = function* (): Generator<string> {
    yield 'a'
    throw new Error('no more')
  }
  await t.rejects(read(slicedBody(pieces())), { message: 'no more' })
})

t.test('nothing is made before it is asked for, nor while nobody reads', async (t) => {
  let made = 0
  const pieces = function* (): Generator<Buffer> {
    while (made < 1_000) {
      made++
      yield Buffer.alloc(16 * 1024)
    }
  }
  const body = slicedBody(pieces())
  body.read(0)
  t.equal(made, 0, 'in a later turn')
  for (let i = 0; i < 20; i++) await turn()
  t.ok(made > 0 && made < 100, `${made} pieces wait to be read`)
  const before = made
  body.read()
  body.destroy()
  for (let i = 0; i < 20; i++) await turn()
  t.equal(made, before, 'nor when it is not wanted any more')
})

t.test('a body gives way: another turn comes before it is made', async (t) => {
  let hasTurn = false
  let turns = 0
  const pieces = function* (): Generator<string> {
    for (let i = 0; i < 5; i++) {
      const startMs = performance.now()
      while (performance.now() - startMs < 6) {}
      if (hasTurn) turns++
      hasTurn = false
      setImmediate(() => {
        hasTurn = true
      })
      yield `${i}`
    }
  }
  t.equal(await read(slicedBody(pieces())), '01234')
  t.equal(turns, 4, 'between any two pieces that take long')
})

t.test('entries of a list, short texts and long bytes become pieces', async (t) => {
  for (const entries of [[], [{ a: 1 }], [{ a: 1 }, { b: [2] }, {}]])
    t.same(JSON.parse(`[${[...listed(entries)].join('')}]`), entries)
  t.same([...joined([])], [''])
  t.same([...joined(['a', 'b'])], ['ab'])
  const half = 'x'.repeat(8 * 1024)
  t.same(
    [...joined([half, half, half])].map(({ length }) => length),
    [16 * 1024, 8 * 1024],
  )
  t.same(
    [...joined([half, half.slice(1), 'yy'])].map(({ length }) => length),
    [16 * 1024 + 1, 0],
  )
  t.same([...partsOf(new Uint8Array(0))], [])
  const bytes = Uint8Array.from({ length: 2 * OCTETS_PIECE_BYTES + 1 }, (_, i) => i % 251)
  const parts = [...partsOf(bytes)]
  t.same(
    parts.map(({ length }) => length),
    [OCTETS_PIECE_BYTES, OCTETS_PIECE_BYTES, 1],
  )
  t.ok(Buffer.concat(parts).equals(bytes))
  t.same([...partsOf(bytes.subarray(0, OCTETS_PIECE_BYTES))].length, 1)
})
