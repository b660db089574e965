/** Functions, pages that read the past, pages created together and ticks, over HTTP. */
import t from 'tap'
import { isProblem, serve } from '../helpers.js'

const LOGISTIC = { params: ['x', 'k'], expr: '1/(1+exp(-k*x))' }

t.test('define, use, redefine, describe, delete', async (t) => {
  const { call } = await serve(t)
  await call('PUT', '/v1/pages/x', { dtype: 'f32', shape: [2] })
  const made = await call('PUT', '/v1/functions/logistic', LOGISTIC)
  t.match(made, { status: 200, body: { epoch: 2, worldAge: 1 } })
  t.same((await call('PUT', '/v1/functions/logistic', LOGISTIC)).body, made.body, 'the same again')
  const derive = { op: 'map', inputs: { x: 'x' }, expr: 'logistic(x, 2)' }
  t.match(await call('PUT', '/v1/pages/y', { derive }), { status: 201, body: { dtype: 'f32', derive } })
  const values = async (): Promise<unknown> =>
    (await call('GET', '/v1/pages/y/data', undefined, { accept: 'application/json' })).body.values
  t.same(await values(), [0.5, 0.5])
  const again = await call('PUT', '/v1/functions/logistic', { params: ['x', 'k'], expr: 'x + k' })
  t.match(again, { status: 200, body: { epoch: 4, worldAge: 2 } })
  t.same(await values(), [2, 2])
  const view = { name: 'logistic', params: ['x', 'k'], expr: 'x + k', worldAge: 2, epoch: 4, pages: ['y'] }
  t.same((await call('GET', '/v1/functions/logistic')).body, view)
  t.same((await call('GET', '/v1/functions')).body, { worldAge: 2, functions: [view] })
  isProblem(t, await call('DELETE', '/v1/functions/logistic'), 'PAGE_IN_USE')
  await call('DELETE', '/v1/pages/y')
  t.match(await call('DELETE', '/v1/functions/logistic'), { status: 200, body: { epoch: 6, worldAge: 3 } })
  isProblem(t, await call('GET', '/v1/functions/logistic'), 'NOT_FOUND')
  isProblem(t, await call('DELETE', '/v1/functions/logistic'), 'NOT_FOUND')
})

t.test('bad functions change nothing', async (t) => {
  const { call, bus } = await serve(t)
  await call('PUT', '/v1/functions/f', { params: ['a'], expr: 'a + 1' })
  await call('PUT', '/v1/pages/x', { dtype: 'i32', shape: [2] })
  await call('PUT', '/v1/pages/y', { derive: { op: 'map', inputs: { x: 'x' }, expr: 'f(x)' } })
  const before = bus.status()
  const cases: [string, object, Parameters<typeof isProblem>[2]][] = [
    ['g', {}, 'INVALID_REQUEST'],
    ['g', { params: ['a'] }, 'INVALID_REQUEST'],
    ['g', { params: ['a'], expr: 'a', colour: 1 }, 'INVALID_REQUEST'],
    ['g', { params: 'a', expr: 'a' }, 'INVALID_REQUEST'],
    ['g', { params: ['a', 'a'], expr: 'a' }, 'INVALID_REQUEST'],
    ['g', { params: ['1'], expr: '1' }, 'INVALID_REQUEST'],
    ['g', { params: Array.from({ length: 65 }, (_, i) => `a${i}`), expr: '1' }, 'INVALID_REQUEST'],
    ['g.h', { params: ['a'], expr: 'a' }, 'INVALID_REQUEST'],
    ['exp', { params: ['a'], expr: 'a' }, 'INVALID_EXPRESSION'],
    ['g', { params: ['a'], expr: 'b' }, 'INVALID_EXPRESSION'],
    ['g', { params: ['a'], expr: 'g(a)' }, 'INVALID_EXPRESSION'],
    ['g', { params: ['a'], expr: '('.repeat(10_000) }, 'INVALID_EXPRESSION'],
    ['g', { params: ['a'], expr: `a${'+a'.repeat(40_000)}` }, 'INVALID_REQUEST'],
    ['f', { params: ['a'], expr: 'a / 2' }, 'SHAPE_MISMATCH'],
    ['f', { params: ['a', 'b'], expr: 'a' }, 'INVALID_EXPRESSION'],
  ]
  for (const [name, body, code] of cases) {
    isProblem(t, await call('PUT', `/v1/functions/${name}`, body), code, JSON.stringify(body).slice(0, 60))
  }
  const { uptimeMs: _, ...same } = before
  t.match(bus.status(), same)
})

t.test('pages created together, a page that reads its own past, ticks', async (t) => {
  const { call } = await serve(t)
  const pages = [
    { name: 'price', dtype: 'f64', shape: [1], fill: 8 },
    {
      name: 'ema',
      derive: { op: 'map', inputs: { x: 'price', self: 'ema' }, expr: '0.5*x + 0.5*prev(self)' },
    },
    { name: 'next', derive: { op: 'map', inputs: { n: { prev: 'count' } }, expr: 'n + 1' } },
    { name: 'count', derive: { op: 'copy', inputs: { x: 'next' } }, dtype: 'u32', shape: [] },
  ]
  const made = await call('POST', '/v1/pages', { pages })
  t.match(made, {
    status: 201,
    body: { epoch: 1, pages: pages.map(({ name }) => ({ name, createdEpoch: 1 })) },
  })
  t.match((await call('GET', '/v1/pages/next')).body, {
    derive: { inputs: { n: { prev: 'count' } } },
    inputs: ['count'],
    dependents: ['count'],
  })
  t.match(await call('POST', '/v1/transactions', { ops: [] }), { status: 200, body: { epoch: 2, pages: {} } })
  const { body } = await call('GET', '/v1/read?pages=ema,count')
  t.match(body, { epoch: 2, pages: { ema: { values: [6] }, count: { values: [2] } } })
  const { edges } = (await call('GET', '/v1/graph')).body
  t.ok((edges as { prev?: boolean; to: string }[]).some((edge) => edge.prev === true && edge.to === 'next'))
  const ema = pages[1]!
  t.equal((await call('PUT', '/v1/pages/ema', { derive: ema.derive })).status, 200, 'the same definition')
  const bad: [object, Parameters<typeof isProblem>[2]][] = [
    [{ pages: [] }, 'INVALID_REQUEST'],
    [{ pages: [{ dtype: 'u8', shape: [1] }] }, 'INVALID_REQUEST'],
    [{ pages: [{ name: 'a', dtype: 'u8', shape: [1], colour: 1 }] }, 'INVALID_REQUEST'],
    [{ pages: [{ name: 'a', dtype: 'u8', shape: [1] }, pages[0]] }, 'PAGE_EXISTS'],
    [
      {
        pages: [
          { name: 'a', derive: { op: 'copy', inputs: { x: 'b' } } },
          { name: 'b', dtype: 'u8', shape: [1] },
        ],
      },
      'INVALID_REQUEST',
    ],
    [{ pages: [{ name: 'a', derive: { op: 'copy', inputs: { x: 'a' } } }] }, 'GRAPH_CYCLE'],
    [{ pages: [{ name: 'a', derive: { op: 'copy', inputs: { x: { prev: 'a' } } } }] }, 'INVALID_REQUEST'],
    [{ pages: [{ name: 'a', derive: { op: 'copy', inputs: { x: { before: 'a' } } } }] }, 'INVALID_REQUEST'],
  ]
  for (const [request, code] of bad)
    isProblem(t, await call('POST', '/v1/pages', request), code, JSON.stringify(request))
  t.equal((await call('GET', '/v1/status')).body.epoch, 2)
})
