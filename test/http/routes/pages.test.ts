/** Creating, listing, describing and deleting pages over HTTP. */
import t from 'tap'
import { isProblem, SOURCE, serve } from '../helpers.js'

t.test('a source page: 201, 200 for the same, 409 for another', async (t) => {
  const { call } = await serve(t)
  const body = { dtype: 'f32', shape: [4, 3], location: 'auto', fill: 1.5 }
  const made = await call('PUT', '/v1/pages/prices', body)
  t.equal(made.status, 201)
  t.match(made.headers['content-type'], /^application\/json/)
  t.same(
    { ...made.body, id: 0, digest: '' },
    {
      name: 'prices',
      id: 0,
      kind: 'source',
      dtype: 'f32',
      shape: [4, 3],
      bytes: 48,
      location: 'cpu',
      version: 1,
      createdEpoch: 1,
      inputs: [],
      dependents: [],
      digest: '',
    },
  )
  t.match(made.body.digest, /^[0-9a-f]{32}$/)
  const again = await call('PUT', '/v1/pages/prices', body)
  t.equal(again.status, 200)
  t.same(again.body, made.body)
  t.same((await call('PUT', '/v1/pages/prices', { ...body, location: made.body.location })).body, made.body)
  for (const [change, difference] of [
    [{ fill: 2 }, 'its fill is different'],
    [{ dtype: 'f64' }, 'its dtype is f32'],
    [{ shape: [12] }, 'its shape is [4, 3]'],
  ] as const) {
    const other = await call('PUT', '/v1/pages/prices', { ...body, ...change })
    isProblem(t, other, 'PAGE_EXISTS')
    t.ok(String(other.body.detail).includes(difference), String(other.body.detail))
  }
  const derive = { op: 'copy', inputs: { x: 'prices' } }
  isProblem(t, await call('PUT', '/v1/pages/prices', { derive }), 'GRAPH_CYCLE')
  await call('PUT', '/v1/pages/copy', { derive })
  t.match((await call('PUT', '/v1/pages/copy', body)).body, { code: 'PAGE_EXISTS', detail: /it is derived/ })
})

t.test(
  'the same derivation with its members in another order is the same, unless the op goes by it',
  async (t) => {
    const { call } = await serve(t)
    for (const name of ['a', 'b']) await call('PUT', `/v1/pages/${name}`, { dtype: 'f32', shape: [2] })
    const put = async (name: string, derive: object) =>
      (await call('PUT', `/v1/pages/${name}`, { derive })).status
    t.equal(await put('sum', { op: 'map', inputs: { x: 'a', y: 'b' }, expr: 'x + y' }), 201)
    t.equal(await put('sum', { expr: 'x + y', inputs: { y: 'b', x: 'a' }, op: 'map' }), 200)
    t.equal(await put('sum', { op: 'map', inputs: { y: 'a', x: 'b' }, expr: 'x + y' }), 409)
    t.equal(await put('both', { op: 'concat', inputs: { x: 'a', y: 'b' } }), 201)
    t.equal(await put('both', { op: 'concat', inputs: { x: 'a', y: 'b' }, axis: -1 }), 200)
    t.equal(await put('both', { op: 'concat', inputs: { y: 'b', x: 'a' } }), 409)
  },
)

t.test('a derived page: its dtype and shape follow, a dtype asks for a cast', async (t) => {
  const { call } = await serve(t)
  await call('PUT', '/v1/pages/prices', { dtype: 'f32', shape: [2] })
  await call('PUT', '/v1/pages/qty', { dtype: 'i32', shape: [3, 2] })
  const derive = { op: 'map', inputs: { a: 'prices', b: 'qty' }, expr: 'a*b' }
  const made = await call('PUT', '/v1/pages/worth', { derive, location: 'auto' })
  t.equal(made.status, 201)
  t.match(made.body, { kind: 'derived', shape: [3, 2], inputs: ['prices', 'qty'], derive })
  t.equal((await call('PUT', '/v1/pages/worth', { derive })).status, 200)
  const cast = await call('PUT', '/v1/pages/cast', { derive, dtype: 'f64' })
  t.match(cast.body, { dtype: 'f64' })
  t.match((await call('GET', '/v1/pages/prices')).body, { dependents: ['cast', 'worth'] })
  const sum = { op: 'reduce', inputs: { x: 'worth' }, fn: 'sum', axes: [1], keepdims: false }
  t.match((await call('PUT', '/v1/pages/sum', { derive: sum })).body, { shape: [3], derive: sum })
})

t.test('names: every character that is allowed, up to 200', async (t) => {
  const { call } = await serve(t)
  for (const name of ['A', '_x', '0', 'a.b:c-d_E9', 'x'.repeat(200)]) {
    t.equal((await call('PUT', `/v1/pages/${name}`, SOURCE)).status, 201, name)
    t.equal((await call('GET', `/v1/pages/${encodeURIComponent(name)}`)).status, 200, name)
  }
  for (const name of [
    '.a',
    '-a',
    ':a',
    'a b',
    'a%2Fb',
    'é',
    'x'.repeat(201),
    'x'.repeat(5000),
    'a%00',
    'a*',
    '%20',
  ]) {
    isProblem(t, await call('PUT', `/v1/pages/${encodeURI(name)}`, SOURCE), 'INVALID_REQUEST', name)
  }
})

t.test('the list: sorted, by prefix, in pieces', async (t) => {
  const { call } = await serve(t)
  t.same((await call('GET', '/v1/pages')).body, { pages: [], next: null })
  for (const name of ['b.2', 'a.1', 'b.1', 'c', 'b.3']) await call('PUT', `/v1/pages/${name}`, SOURCE)
  const names = async (query: string): Promise<unknown> => {
    const { body } = await call('GET', `/v1/pages${query}`)
    return [(body.pages as { name: string }[]).map(({ name }) => name), body.next]
  }
  t.same(await names(''), [['a.1', 'b.1', 'b.2', 'b.3', 'c'], null])
  t.same(await names('?prefix=b.'), [['b.1', 'b.2', 'b.3'], null])
  t.same(await names('?limit=2'), [['a.1', 'b.1'], 'b.1'])
  t.same(await names('?limit=2&cursor=b.1'), [['b.2', 'b.3'], 'b.3'])
  t.same(await names('?limit=2&cursor=b.3'), [['c'], null])
  t.same(await names('?prefix=b.&limit=2&cursor=b.2'), [['b.3'], null])
  for (const bad of [
    '?limit=0',
    '?limit=-1',
    '?limit=1.5',
    '?limit=x',
    '?limit=',
    '?limit=1&limit=2',
    '?colour=red',
    '?limit=0x10',
    '?limit=1e2',
  ]) {
    isProblem(t, await call('GET', `/v1/pages${bad}`), 'INVALID_REQUEST', bad)
  }
})

t.test('delete: 409 while others derive from it, unless the cascade is asked for', async (t) => {
  const { call, bus } = await serve(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  await call('PUT', '/v1/pages/b', { derive: { op: 'copy', inputs: { x: 'a' } } })
  await call('PUT', '/v1/pages/c', { derive: { op: 'copy', inputs: { x: 'b' } } })
  isProblem(t, await call('DELETE', '/v1/pages/a'), 'PAGE_IN_USE')
  isProblem(t, await call('DELETE', '/v1/pages/a?cascade=false'), 'PAGE_IN_USE')
  isProblem(t, await call('DELETE', '/v1/pages/a?cascade=yes'), 'INVALID_REQUEST')
  t.same((await call('DELETE', '/v1/pages/c')).body, { epoch: 4 })
  t.match(await call('DELETE', '/v1/pages/a?cascade=true'), { status: 200, body: { epoch: 5 } })
  t.equal(bus.status().pages, 0)
  isProblem(t, await call('DELETE', '/v1/pages/a'), 'PAGE_NOT_FOUND')
})

t.test('a definition that is wrong is refused by name of the field', async (t) => {
  const { call, bus } = await serve(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  const { epoch, digest } = bus.status()
  const cases: [unknown, RegExp][] = [
    [{}, /missing "dtype"/],
    [{ dtype: 'f32' }, /missing "shape"/],
    [{ dtype: 'f33', shape: [1] }, /dtype: must be one of/],
    [{ dtype: 'f32', shape: [1], colour: 'red' }, /unknown field "colour"/],
    [{ dtype: 'f32', shape: ['1'] }, /shape\.0: must be integer/],
    [{ dtype: 'f32', shape: [-1] }, /shape\.0/],
    [{ dtype: 'f32', shape: [1.5] }, /shape\.0/],
    [{ dtype: 'f32', shape: 4 }, /shape/],
    [{ dtype: 'f32', shape: Array(9).fill(1) }, /shape/],
    [{ dtype: 'f32', shape: [65536, 65536] }, /shape|elements|bytes/],
    [{ dtype: 'f32', shape: [1], location: 'moon' }, /location/],
    [{ dtype: 'f32', shape: [1], fill: [0] }, /fill/],
    [{ dtype: 'f32', shape: [1], fill: [1] }, /fill/],
    [{ derive: { op: 'map', inputs: { a: 'a' }, expr: 'a' }, fill: 1 }, /unknown field "fill"/],
    [{ derive: { op: 'map', inputs: { a: 'a' }, expr: 'a' }, dtype: 'x' }, /dtype/],
    [{ derive: { op: 1, inputs: { a: 'a' } } }, /derive\.op/],
    [{ derive: { op: 'map', inputs: { a: 1 } } }, /derive\.inputs\.a/],
    [{ derive: { op: 'map', inputs: ['a'] } }, /derive\.inputs/],
    [{ derive: { op: 'map' } }, /missing "inputs"/],
    [{ derive: { op: 'fly', inputs: { a: 'a' } } }, /fly/],
    [{ derive: { op: 'map', inputs: { a: 'a' }, expr: 'a', colour: 1 } }, /colour/],
    [{ derive: 'a*b' }, /derive/],
    [[], /must be object/],
    [null, /must be object/],
    ['"text"', /must be object/],
    ['{"dtype":"f32"', /JSON|body/],
    ['', /body|JSON/i],
  ]
  for (const [body, detail] of cases) {
    const answer = await call('PUT', '/v1/pages/new', body)
    isProblem(t, answer, 'INVALID_REQUEST', JSON.stringify(body))
    t.match(answer.body.detail, detail)
  }
  isProblem(t, await call('PUT', '/v1/pages/new'), 'INVALID_REQUEST', 'no body')
  isProblem(t, await call('PUT', '/v1/pages/new', { dtype: 'u8', shape: [1], fill: 300 }), 'INVALID_DELTA')
  t.match(bus.status(), { epoch, digest, pages: 1 })
  t.equal((await call('PUT', '/v1/pages/new', SOURCE)).status, 201, 'and the server goes on')
})
