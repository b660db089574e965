/** Blocks of the log index: when one is complete, what it says, and when it says "any page". */
import t from 'tap'
import { INDEX_BLOCK_BYTES, INDEX_BLOCK_PAGES_MAX } from '../../../src/limits.js'
import { IndexBlockBuilder, packPages } from '../../../src/store/log/index-blocks.js'

const pages = (count: number, first = 0): Uint32Array =>
  Uint32Array.from({ length: count }, (_, i) => first + i)

t.test('ids are packed as gaps, seven bits a byte', async (t) => {
  const cases: [number[], number[]][] = [
    [[], []],
    [[0], [0]],
    [[127], [127]],
    [[128], [128, 1]],
    [
      [5, 132],
      [5, 127],
    ],
    [
      [5, 133],
      [5, 128, 1],
    ],
    [[16_383], [255, 127]],
    [[16_384], [128, 128, 1]],
    [[2 ** 32 - 1], [255, 255, 255, 255, 15]],
    [
      [1, 2, 2 ** 32 - 1],
      [1, 1, 253, 255, 255, 255, 15],
    ],
  ]
  for (const [ids, bytes] of cases) {
    t.same([...packPages(ids)], bytes, `${ids}`)
  }
  t.same([...packPages(new Set([133, 3, 2 ** 31, 5]))], [3, 2, 128, 1, 251, 254, 255, 255, 7], 'in order')
})

t.test('a block is complete when its records reach the size, not before', async (t) => {
  const builder = new IndexBlockBuilder()
  const half = INDEX_BLOCK_BYTES / 2
  t.equal(builder.peek(), undefined)
  t.equal(builder.flush(), undefined)
  t.equal(builder.add(7, 4096, half, 11, Uint32Array.of(9, 3)), undefined)
  const open = { segment: 7, offset: 4096, end: 4096 + half, firstEpoch: 11, lastEpoch: 11, pages: undefined }
  t.strictSame(builder.peek(), open)
  t.equal(builder.add(7, 4096 + half, half - 1, 12, Uint32Array.of(3, 5)), undefined)
  const end = 4096 + INDEX_BLOCK_BYTES
  t.strictSame(builder.add(7, end - 1, 1, 13, Uint32Array.of(1)), {
    ...{ segment: 7, offset: 4096, end, firstEpoch: 11, lastEpoch: 13 },
    pages: packPages([1, 3, 5, 9]),
  })
  t.equal(builder.peek(), undefined, 'the next record begins a block')
  t.equal(builder.add(8, 4096, 80, 14, Uint32Array.of(2)), undefined)
  t.strictSame(builder.flush(), {
    ...{ segment: 8, offset: 4096, end: 4176, firstEpoch: 14, lastEpoch: 14 },
    pages: packPages([2]),
  })
  t.equal(builder.flush(), undefined, 'a block is handed out once')
})

t.test('a block with too many pages says: any page', async (t) => {
  const most = INDEX_BLOCK_PAGES_MAX
  /** Ids that follow one another take a byte each. */
  const flushed = (...records: Uint32Array[]): Uint8Array | undefined => {
    const builder = new IndexBlockBuilder()
    for (const [i, touched] of records.entries()) builder.add(1, 4096 + i * 64, 64, i + 1, touched)
    return builder.flush()?.pages
  }
  t.equal(flushed(pages(most))?.length, most, 'as many as there may be')
  t.equal(flushed(pages(most + 1)), undefined, 'one more, in one record')
  t.equal(flushed(pages(most - 1), Uint32Array.of(0, 1, 9))?.length, most - 1, 'the same ones again')
  t.equal(flushed(pages(most - 1), pages(2, most))?.length, undefined, 'one more, in two records')
  t.equal(flushed(pages(most + 1), Uint32Array.of(1)), undefined, 'fewer behind do not make them known')
  // An id that is repeated in one record counts each time: the record is not looked through.
  t.equal(flushed(new Uint32Array(most + 1)), undefined)
})

t.test('the block behind one of any page knows its pages again', async (t) => {
  const builder = new IndexBlockBuilder()
  builder.add(1, 4096, 64, 1, pages(INDEX_BLOCK_PAGES_MAX + 1))
  t.equal(builder.flush()?.pages, undefined)
  builder.add(1, 4160, 64, 2, Uint32Array.of(6))
  t.same(builder.flush()?.pages, packPages([6]))
})
