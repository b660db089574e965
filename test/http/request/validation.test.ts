/** Checks of requests: what fits, what is converted, which nulls are dropped, and what an error says. */
import t from 'tap'
import { nullDropper, withNulls } from '../../../src/http/request/optional-nulls.js'
import { compileCheck, presentBody, validatorCompiler } from '../../../src/http/request/validation.js'
import { type TSchema, Type } from '../../../src/http/typebox.js'

const INVALID = { code: 'INVALID_REQUEST' }

/** What a part of a request becomes, or what the refusal says. */
function checked(schema: TSchema, httpPart: string, value: unknown): unknown {
  const check = validatorCompiler({ schema, httpPart, method: 'GET', url: '/' })
  const result = check(value) as true | { value?: unknown; error?: Error }
  if (result === true) return 'not checked'
  return result.error === undefined ? result.value : result.error.message
}

const messageOf = (schema: TSchema, value: unknown): string => {
  try {
    return `fits: ${JSON.stringify(compileCheck(schema, 'body')(value))}`
  } catch (error) {
    return (error as Error).message
  }
}

const strict = { additionalProperties: false }

// ---- texts of path and query ------------------------------------------------------------------------------

t.test('texts of path and query become what their schema asks for, if they are exactly that', async (t) => {
  const schema = Type.Object({
    n: Type.Optional(Type.Integer()),
    x: Type.Optional(Type.Number()),
    b: Type.Optional(Type.Boolean()),
    s: Type.Optional(Type.String()),
  })
  for (const part of ['querystring', 'params']) {
    const given = { n: '-12', x: '0.5', b: 'true', s: '7' }
    t.strictSame(checked(schema, part, given), { n: -12, x: 0.5, b: true, s: '7' })
    t.strictSame(given.n, '-12', 'what is given is not changed')
  }
  const value = (field: string, text: string): unknown => {
    const got = checked(schema, 'querystring', { [field]: text })
    return typeof got === 'string' ? 'refused' : (got as Record<string, unknown>)[field]
  }
  for (const [field, text, wanted] of [
    ['n', '0', 0],
    ['n', '10', 10],
    ['n', '007', 'refused'],
    ['n', '-0', 'refused'],
    ['n', '1.0', 'refused'],
    ['n', '1e3', 'refused'],
    ['n', ' 1', 'refused'],
    ['n', '', 'refused'],
    ['x', '-3', -3],
    ['x', '-0.25', -0.25],
    ['x', '01.5', 'refused'],
    ['x', '.5', 'refused'],
    ['x', '1.', 'refused'],
    ['x', 'NaN', 'refused'],
    ['x', `1${'0'.repeat(400)}`, Number.MAX_VALUE],
    ['x', `-1${'0'.repeat(400)}`, -Number.MAX_VALUE],
    ['b', 'false', false],
    ['b', 'TRUE', 'refused'],
    ['b', '1', 'refused'],
  ] as const)
    t.strictSame(value(field, text), wanted, `${field}=${text}`)
  t.strictSame(checked(schema, 'querystring', {}), {})
  t.match(checked(schema, 'querystring', { n: 'x' }), /^query\.n: must be integer/)
  t.match(checked(schema, 'params', { n: 'x' }), /^path\.n: must be integer/)
  t.match(checked(schema, 'querystring', { n: ['1', '2'] }), /^query\.n: /)
  t.strictSame(checked(Type.String(), 'querystring', 'x'), 'x')
})

t.test(
  'a body is not converted; headers and bytes are not checked; a body that is absent is said',
  async (t) => {
    const schema = Type.Object({ n: Type.Integer() })
    t.strictSame(checked(schema, 'body', { n: 1 }), { n: 1 })
    t.match(checked(schema, 'body', { n: '1' }), /^body\.n: must be integer/)
    t.equal(checked(schema, 'headers', {}), 'not checked')
    t.equal(checked(Type.Unsafe({ type: 'string', format: 'binary' }), 'body', 3), 'not checked')
    for (const absent of [undefined, null]) {
      t.match(checked(schema, 'body', absent), /^body: is missing, or null; must be object/)
      t.throws(() => presentBody(absent), { ...INVALID, message: 'body: is missing' })
    }
    t.match(checked(schema, 'querystring', { n: null }), /^query/)
    t.strictSame([presentBody(0), presentBody('')], [0, ''])
  },
)

// ---- what an error says -----------------------------------------------------------------------------------

t.test('an error names the field that explains most', async (t) => {
  const inner = Type.Object({ a: Type.Integer(), b: Type.Optional(Type.String()) }, strict)
  const outer = Type.Object({ list: Type.Array(inner), kind: Type.Optional(Type.Enum(['x', 'y'])) }, strict)
  for (const [value, message] of [
    [{ list: [{ a: 1 }] }, 'fits: {"list":[{"a":1}]}'],
    [{ list: [{ a: 'x' }] }, 'body.list.0.a: must be integer'],
    [{ list: [{ a: 1 }, {}] }, 'body.list.1: missing "a"'],
    [{ list: [], color: 1 }, 'body: unknown field "color"'],
    [{ list: [{ a: 1.5, b: 'x' }], color: 1 }, 'body.list.0.a: must be integer'],
    [{ list: [], kind: 'z' }, 'body.kind: must be one of "x", "y"'],
    [{}, 'body: missing "list"'],
    [3, 'body: must be object'],
  ] as const)
    t.equal(messageOf(outer, value), message)
  const long = messageOf(outer, { list: [], ['y'.repeat(5_000)]: 1 })
  t.ok(long.length < 500, 'a name from the client is cut')
})

t.test(
  'of the kinds that a field may have, all that fail are said; of those of a body, the one meant',
  async (t) => {
    const field = Type.Object({
      v: Type.Union([Type.Integer(), Type.Boolean()]),
      w: Type.Optional(Type.Integer()),
    })
    t.equal(messageOf(field, { v: 'x' }), 'body.v: must be integer; or must be boolean')
    t.equal(messageOf(field, { v: true }), 'fits: {"v":true}')
    const body = Type.Union([
      Type.Object({ a: Type.Integer(), b: Type.Integer(), c: Type.Integer() }, strict),
      Type.Object({ d: Type.Integer() }, strict),
    ])
    t.equal(messageOf(body, { d: 'x' }), 'body.d: must be integer')
    t.equal(messageOf(body, { a: 1, b: 2, c: 'x' }), 'body.c: must be integer')
  },
)

t.test('a number out of range of a double is said where pages are written, and nowhere else', async (t) => {
  const numbers = Type.Array(Type.Unsafe<number>({ type: 'number', maximum: 1e300, minimum: -1e300 }))
  const schema = Type.Object({
    values: Type.Optional(numbers),
    offset: Type.Optional(Type.Integer()),
    other: Type.Optional(numbers),
  })
  for (const text of ['{"values":[1,1e999]}', '{"values":[0,-1e999]}']) {
    t.throws(() => compileCheck(schema, 'body')(JSON.parse(text)), {
      code: 'INVALID_DELTA',
      message: /^body\.values\.1: the number is out of range of every dtype; /,
    })
  }
  t.throws(() => compileCheck(schema, 'body')(JSON.parse('{"offset":1e999}')), { code: 'INVALID_DELTA' })
  t.throws(() => compileCheck(schema, 'body')(JSON.parse('{"other":[1e999]}')), INVALID)
  t.throws(() => compileCheck(schema, 'body')({ values: [1e301] }), INVALID)
})

t.test('of long lists the wrong items are named, by their own places', async (t) => {
  const schema = Type.Object({
    v: Type.Array(Type.Union([Type.Integer(), Type.String()]), { maxItems: 30 }),
    p: Type.Optional(Type.Record(Type.String({ pattern: '^k' }), Type.Integer())),
    q: Type.Optional(Type.Array(Type.Object({ r: Type.Array(Type.Integer()) }))),
  })
  const ones = (count: number): unknown[] => Array(count).fill(1)
  for (const count of [8, 9, 30]) {
    t.match(messageOf(schema, { v: ones(count) }), /^fits/)
    for (const at of [0, count - 1])
      t.match(
        messageOf(schema, { v: ones(count).with(at, {}) }),
        new RegExp(`^body\\.v\\.${at}: must be integer`),
      )
  }
  t.equal(messageOf(schema, { v: ones(31) }), 'body.v: must not have more than 30 items')
  const closed = Type.Object({ v: Type.Array(Type.Integer(), { maxItems: 30 }) }, strict)
  t.equal(messageOf(closed, { v: ones(30), color: 1 }), 'body: unknown field "color"')
  const rows = Array.from({ length: 12 }, () => ({ r: ones(20) }))
  rows[10] = { r: ones(20).with(17, 'x') }
  t.equal(messageOf(schema, { v: [], q: rows }), 'body.q.10.r.17: must be integer')
  const fields = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, i]))
  t.equal(messageOf(schema, { v: [], p: { ...fields, k7: 'x' } }), 'body.p.k7: must be integer')
})

// ---- nulls ------------------------------------------------------------------------------------------------

const NULLS = Type.Object({
  a: Type.Optional(Type.Integer()),
  n: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
  o: Type.Optional(Type.Object({ b: Type.Optional(Type.Integer()) })),
  l: Type.Optional(Type.Array(Type.Object({ c: Type.Optional(Type.Integer()) }))),
  i: Type.Optional(Type.Array(Type.Integer())),
})

t.test('a null in an optional field is as if it were absent', async (t) => {
  const drop = nullDropper(NULLS)
  for (const [given, wanted] of [
    [{ a: null }, {}],
    [
      { a: 1, n: null },
      { a: 1, n: null },
    ],
    [{ o: { b: null, z: null } }, { o: { z: null } }],
    [{ l: [{ c: null }, { c: 1 }, null] }, { l: [{}, { c: 1 }, null] }],
    [{ i: [null, 1] }, { i: [null, 1] }],
    [{ z: null }, { z: null }],
    [{ o: null, l: null }, {}],
    [
      { o: 3, l: 'x' },
      { o: 3, l: 'x' },
    ],
    [[{ a: null }], [{ a: null }]],
    [null, null],
    ['x', 'x'],
  ] as const) {
    const text = JSON.stringify(given)
    t.strictSame(drop(given), wanted)
    t.equal(JSON.stringify(given), text, 'what is given is not changed')
  }
  const same = { a: 1, o: { b: 2 } }
  t.equal(drop(same), same, 'nothing is copied where nothing is dropped')
  const part = { a: null, o: { b: 2 } }
  t.equal((drop(part) as typeof part).o, part.o)
  t.equal(messageOf(NULLS, { a: null, o: { b: null } }), 'fits: {"o":{}}')
  const plain = nullDropper(Type.Array(Type.Integer()))
  const list = [null]
  t.equal(plain(list), list)
})

t.test('in a union the nulls of every kind are dropped that none of them takes', async (t) => {
  const left = Type.Object({
    a: Type.Optional(Type.Integer()),
    b: Type.Optional(Type.Null()),
    o: Type.Optional(Type.Object({ x: Type.Optional(Type.Integer()) })),
    l: Type.Optional(Type.Array(Type.Object({ p: Type.Optional(Type.Integer()) }))),
  })
  const right = Type.Object({
    b: Type.Optional(Type.Integer()),
    c: Type.Optional(Type.Integer()),
    o: Type.Optional(Type.Object({ y: Type.Optional(Type.Integer()) })),
    l: Type.Optional(Type.Array(Type.Object({ q: Type.Optional(Type.Integer()) }))),
  })
  for (const union of [
    Type.Union([left, right]),
    Type.Union([right, left]),
    Type.Union([left, right, Type.Integer()]),
  ]) {
    const drop = nullDropper(union)
    t.strictSame(drop({ a: null, b: null, c: null }), { b: null })
    t.strictSame(drop({ o: { x: null, y: null, z: null } }), { o: { z: null } })
    t.strictSame(drop({ l: [{ p: null, q: null, r: null }] }), { l: [{ r: null }] })
  }
  const lists = nullDropper(Type.Union([Type.Integer(), Type.Array(left)]))
  t.strictSame(lists([{ a: null }]), [{}])
})

t.test('the documents say that an optional field may be null', async (t) => {
  const schema = Type.Object({
    r: Type.Integer(),
    o: Type.Optional(Type.Integer()),
    e: Type.Optional(Type.Enum(['x'])),
    n: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
    l: Type.Array(Type.Object({ a: Type.Optional(Type.String()) })),
    u: Type.Union([Type.Object({ b: Type.Optional(Type.Boolean()) }), Type.Integer()]),
  })
  const text = JSON.parse(JSON.stringify(withNulls(schema))) as { properties: Record<string, object> }
  const { properties } = text
  t.same(properties.r, { type: 'integer' })
  t.same(properties.o, { type: ['integer', 'null'] })
  t.match(properties.e, { anyOf: [{ enum: ['x'] }, { type: 'null' }] })
  t.same(properties.n, { anyOf: [{ type: 'integer' }, { type: 'null' }] })
  t.match(properties.l, { type: 'array', items: { properties: { a: { type: ['string', 'null'] } } } })
  t.match(properties.u, {
    anyOf: [{ properties: { b: { type: ['boolean', 'null'] } } }, { type: 'integer' }],
  })
  t.same(JSON.parse(JSON.stringify(withNulls(Type.Integer()))), { type: 'integer' })
  t.same(
    JSON.parse(JSON.stringify(withNulls(Type.Tuple([Type.Integer()])))),
    JSON.parse(JSON.stringify(Type.Tuple([Type.Integer()]))),
  )
})
