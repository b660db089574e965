/** Explaining why a value does not fit: the same faults as the library lists, in a time that stays short. */
import t from 'tap'
import { faultFinder } from '../../../src/http/request/faults.js'
import { compileCheck } from '../../../src/http/request/validation.js'
import { DeltaBody, TransactionBody } from '../../../src/http/schemas/data.js'
import { PageBody, PagesBody } from '../../../src/http/schemas/pages.js'
import { Compile, type TSchema, Type } from '../../../src/http/typebox.js'

const source = { dtype: 'f32', shape: [4] }
const named = (count: number): object[] =>
  Array.from({ length: count }, (_, i) => ({ name: `p${i}`, ...source }))
const messageOf = (schema: TSchema, value: unknown): string => {
  try {
    compileCheck(schema, 'body')(value)
  } catch (error) {
    return (error as Error).message
  }
  return 'fits'
}

t.test('small values have the faults that the library lists', (t) => {
  const cases: [TSchema, unknown][] = [
    [DeltaBody, { values: [1, {}, 2] }],
    [DeltaBody, { values: 1, color: 1, size: 2 }],
    [DeltaBody, 3],
    [PageBody, { dtype: 'f33', shape: [4] }],
    [PageBody, { derive: { op: 'map', inputs: { x: 1 } } }],
    [PagesBody, { pages: [{ name: 'a', dtype: 'f32' }] }],
    [
      TransactionBody,
      {
        ops: [
          { page: 'a', values: [1] },
          { page: 'b', values: [null] },
        ],
      },
    ],
  ]
  for (const [schema, value] of cases) t.strictSame(faultFinder(schema)(value), Compile(schema).Errors(value))
  t.end()
})

t.test('the path of a fault is that of the given value', (t) => {
  const values = (wrong: unknown): unknown[] => [...Array(100).fill(1), wrong, ...Array(100).fill(2)]
  t.match(messageOf(DeltaBody, { values: values({}) }), /^body\.values\.100: must be either/)
  t.match(
    messageOf(DeltaBody, { values: values(Infinity) }),
    /^body\.values\.100: the number is out of range/,
  )
  const ops = [
    ...Array.from({ length: 50 }, () => ({ page: 'a', values: [1] })),
    { page: 'b', values: values([]) },
  ]
  t.match(messageOf(TransactionBody, { ops }), /^body\.ops\.50\.values\.100: must be/)
  t.match(
    messageOf(PagesBody, { pages: [...named(20), { name: 'q', dtype: 'f33', shape: [1] }] }),
    /^body\.pages\.20\.dtype: /,
  )
  t.match(
    messageOf(PagesBody, { pages: named(65_537) }),
    /^body\.pages: must not have more than 65536 items$/,
  )
  t.match(
    messageOf(PageBody, { dtype: 'f32', shape: Array(1_000_000).fill(1) }),
    /^body\.shape: must not have more than 8 items$/,
  )
  const inputs = Object.fromEntries([...Array.from({ length: 50 }, (_, i) => [`i${i}`, 'a']), ['bad', 7]])
  t.match(messageOf(PageBody, { derive: { op: 'map', inputs } }), /^body\.derive\.inputs\.bad: /)
  t.end()
})

t.test('beside an unknown field no list is searched; beside one that only seems unknown it is', (t) => {
  const list = Type.Array(Type.Number())
  const wrong = [...Array(20).fill(1), 'x']
  const closed = faultFinder(Type.Object({ list }, { additionalProperties: false }))
  const paths = closed({ list: wrong, other: 1 }).map(({ instancePath }) => instancePath)
  t.same(paths, ['/other', ''])
  // A field that fits its own pattern, but not the other one.
  const byPattern: TSchema = {
    type: 'object',
    properties: { list },
    patternProperties: { '^n': Type.Number(), '^s': Type.String() },
    additionalProperties: false,
  }
  t.match(faultFinder(byPattern)({ list: wrong, n1: 1 }), [{ instancePath: '/list/20' }])
  t.end()
})

t.test('a field called __proto__ is an unknown field like any other', (t) => {
  const value: unknown = JSON.parse('{"values":[1],"__proto__":{"a":1}}')
  t.equal(messageOf(DeltaBody, value), 'body: unknown field "__proto__"')
  t.end()
})

t.test('long names and many unknown fields are not repeated in full', (t) => {
  const fields = Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [`x${i}`, 1]))
  const many = messageOf(DeltaBody, { values: [1], ...fields })
  t.match(many, /^body: unknown field "x0", "x1"/)
  t.ok(many.length < 1_000)
  t.ok(messageOf(DeltaBody, { values: [1], ['y'.repeat(100_000)]: 1 }).length < 1_000)
  t.end()
})

t.test('a fault beside millions of right numbers is found at once', (t) => {
  const values = Array(4_000_000).fill(1)
  const startedMs = process.cpuUsage().user / 1e3
  t.equal(messageOf(DeltaBody, { values, color: 1 }), 'body: unknown field "color"')
  values[3_999_999] = {}
  t.match(messageOf(DeltaBody, { values }), /^body\.values\.3999999: /)
  const tookMs = process.cpuUsage().user / 1e3 - startedMs
  t.comment(`${tookMs.toFixed(0)} ms`)
  t.ok(tookMs < 1_000, `${tookMs} ms`)
  t.end()
})
