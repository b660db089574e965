/** Edges of the client's codec that random inputs rarely meet. */
import t from 'tap'
import { encodeFrame } from '../../../src/client/codec/frame.js'
import { decodeText } from '../../../src/client/codec/message.js'
import { MERGES } from '../../../src/wire/page.js'

t.test('a change that states dtype and shape is not asked about; a deletion needs neither', async (t) => {
  const asked: string[] = []
  const formOf = (page: string) => {
    asked.push(page)
    return { dtype: 'u8' as const, shape: [1] }
  }
  const changes = [
    { page: 'a', kind: 'created', dtype: 'f64', shape: [2, 3], ranges: [[0, 1]], values: [0.5] },
    { page: 'b', kind: 'source', shape: [2] },
    { page: 'c', kind: 'source', dtype: 'f64' },
    { page: 'd', kind: 'deleted' },
  ]
  const message = await decodeText(
    JSON.stringify({ type: 'change', id: 's', epoch: 2, first: 1, changes }),
    formOf,
  )
  t.same(asked, ['b', 'c'])
  t.match(message, {
    change: {
      changes: [
        { page: 'a', dtype: 'f64', shape: [2, 3], ranges: [[0, 1]], values: Float64Array.of(0.5) },
        { page: 'b', dtype: 'u8', shape: [1], ranges: [] },
        { page: 'c', dtype: 'u8', shape: [1] },
        { page: 'd', kind: 'deleted' },
      ],
    },
  })
})

t.test('float pages have no merges of bits, other pages have all', async (t) => {
  for (const dtype of ['f32', 'f64', 'i32'] as const) {
    const taken = MERGES.filter((merge) => {
      try {
        return (
          encodeFrame({}, [{ page: { id: 1, dtype, elements: 1 }, delta: { values: [1], merge } }]).length > 0
        )
      } catch {
        return false
      }
    })
    t.same(taken, dtype === 'i32' ? MERGES : ['set', 'add', 'min', 'max'], dtype)
  }
})
