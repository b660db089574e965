/** Several deltas in one transaction over HTTP. */
import t from 'tap'
import { isProblem, type Served, serve } from '../helpers.js'

async function withPages(t: Parameters<typeof serve>[0]): Promise<Served> {
  const served = await serve(t)
  await served.call('PUT', '/v1/pages/a', { dtype: 'i32', shape: [4] })
  await served.call('PUT', '/v1/pages/b', { dtype: 'f64', shape: [2] })
  await served.call('PUT', '/v1/pages/sum', { derive: { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' } })
  return served
}

const URL = '/v1/transactions'

t.test('all of it, in one epoch', async (t) => {
  const { call, bus } = await withPages(t)
  const { status, body } = await call('POST', URL, {
    ops: [
      { page: 'a', offset: 1, values: [1, 2] },
      { page: 'a', indices: [0], values: [5], merge: 'add' },
      { page: 'b', mask: Buffer.from([2]).toString('base64'), values: [0.5] },
    ],
    expect: [{ page: 'a', version: 1 }],
    source: 'test',
    intent: { why: ['because'] },
  })
  t.same([status, body], [200, { epoch: 4, pages: { a: 4, b: 4 } }])
  t.same(bus.read('a'), Int32Array.of(5, 1, 2, 0))
  t.same(bus.read('b'), Float64Array.of(0, 0.5))
})

t.test('or nothing', async (t) => {
  const { call, bus } = await withPages(t)
  const { epoch, digest } = bus.status()
  const good = { page: 'a', values: [1] }
  const cases: [object, Parameters<typeof isProblem>[2]][] = [
    [{ ops: [good, { page: 'none', values: [1] }] }, 'PAGE_NOT_FOUND'],
    [{ ops: [good, { page: 'b', values: ['x'] }] }, 'INVALID_DELTA'],
    [{ ops: [good, { page: 'a', offset: 4, values: [1] }] }, 'INVALID_DELTA'],
    [{ ops: [good, { page: 'sum', values: [1] }] }, 'PAGE_READ_ONLY'],
    [{ ops: [good], expect: [{ page: 'b', version: 9 }] }, 'PRECONDITION_FAILED'],
    [{ ops: [good], expect: [{ page: 'none', version: 9 }] }, 'PAGE_NOT_FOUND'],
    [{}, 'INVALID_REQUEST'],
    [{ ops: [good], colour: 'red' }, 'INVALID_REQUEST'],
    [{ ops: [{ ...good, colour: 'red' }] }, 'INVALID_REQUEST'],
    [{ ops: [good], expect: [{ page: 'a' }] }, 'INVALID_REQUEST'],
    [{ ops: [good], expect: [{ page: 'a', version: '1' }] }, 'INVALID_REQUEST'],
    [{ ops: [{ page: 'a b', values: [1] }] }, 'INVALID_REQUEST'],
    [{ ops: [good], source: 5 }, 'INVALID_REQUEST'],
    [{ ops: [good], source: 'x'.repeat(257) }, 'PAYLOAD_TOO_LARGE'],
    [{ ops: [good], source: 'é'.repeat(200) }, 'PAYLOAD_TOO_LARGE'],
    [{ ops: [good], key: 'x'.repeat(257) }, 'PAYLOAD_TOO_LARGE'],
    [{ ops: [good], intent: 'x'.repeat(20_000) }, 'PAYLOAD_TOO_LARGE'],
  ]
  for (const [body, code] of cases) {
    isProblem(t, await call('POST', URL, body), code, JSON.stringify(body).slice(0, 100))
  }
  isProblem(t, await call('POST', `${URL}?dry=true`, { ops: [good] }), 'INVALID_REQUEST')
  t.match(bus.status(), { epoch, digest })
})

t.test('a key, in the header or in the body, gives the first answer again', async (t) => {
  const { call, bus } = await withPages(t)
  const body = { ops: [{ page: 'a', values: [1], merge: 'add' }] }
  const first = await call('POST', URL, body, { 'idempotency-key': 'k' })
  t.same((await call('POST', URL, body, { 'idempotency-key': 'k' })).body, first.body)
  t.same((await call('POST', URL, { ...body, key: 'k' })).body, first.body)
  t.same(bus.read('a'), Int32Array.of(1, 0, 0, 0))
  isProblem(t, await call('POST', URL, { ...body, key: 'k' }, { 'idempotency-key': 'k' }), 'INVALID_REQUEST')
  isProblem(t, await call('POST', URL, { ...body, key: '' }), 'INVALID_REQUEST')
})

t.test('many at once share epochs and lose nothing', async (t) => {
  const { call, bus } = await withPages(t)
  const body = { ops: [{ page: 'a', values: [1], merge: 'add' }] }
  const answers = await Promise.all(Array.from({ length: 200 }, () => call('POST', URL, body)))
  t.ok(answers.every(({ status }) => status === 200))
  t.same(bus.read('a'), Int32Array.of(200, 0, 0, 0))
  t.same(bus.read('sum'), BigInt64Array.of(200n))
})
