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

t.test('a NaN of a list is always the same one; bytes of bools are 0 or 1', async (t) => {
  for (const [dtype, odd, one] of [
    ['f32', new Float32Array(Uint32Array.of(0xffc1_2345).buffer), new Float32Array([Number.NaN])],
    ['f64', new Float64Array(BigUint64Array.of(0xfff8_0000_0001_2345n).buffer), [Number.NaN]],
  ] as const) {
    const page = { id: 1, dtype, elements: 1 }
    const bytes = (values: ArrayLike<number>) =>
      encodeFrame({}, [{ page, delta: { values: values as never } }])
    const plain = new Uint8Array(bytes(one))
    t.same(bytes([...odd]), plain, dtype)
    t.same(bytes(['NaN'] as never), plain)
    t.notSame(bytes(odd), plain, 'an array keeps its bits')
  }
  const bools = { id: 1, dtype: 'bool', elements: 3 } as const
  const frame = (...values: number[]) =>
    encodeFrame({}, [{ page: bools, delta: { values: Uint8Array.from(values) } }])
  t.ok(frame(0, 1, 1).length > 0)
  t.throws(() => frame(0, 1, 2), { code: 'INVALID_DELTA', detail: /^values\[2\]: 2 is not/ } as never)
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
