/** Past epochs, differences, verification and what-if over HTTP, in the public format. */
import t, { type Test } from 'tap'
import { DiffAnswer } from '../../../src/http/schemas/time.js'
import { Compile } from '../../../src/http/typebox.js'
import { folder } from '../../lib/folder.js'
import { isProblem, listen, type Served, serve, tagsOf } from '../helpers.js'

async function durable(t: Test): Promise<Served> {
  const dataDir = folder(t)
  return serve(t, { dataDir, fsync: 'off' })
}

/** Epochs: 1 makes a, 2 makes b, 3 to 5 write, 6 ends b. */
async function withHistory(t: Test): Promise<Served> {
  const served = await durable(t)
  const { call } = served
  await call('PUT', '/v1/pages/a', { dtype: 'i32', shape: [4] })
  await call('PUT', '/v1/pages/b', { derive: { op: 'map', inputs: { a: 'a' }, expr: 'a*10' } })
  await call('PATCH', '/v1/pages/a/data', { offset: 1, values: [1, 2] })
  await call('POST', '/v1/transactions', {
    ops: [{ page: 'a', indices: [3], values: [7], merge: 'add' }],
    source: 'ann',
    intent: { why: 'test' },
  })
  await call('PATCH', '/v1/pages/a/data', { offset: 1, values: [5] })
  await call('DELETE', '/v1/pages/b')
  return served
}

t.test('data as of an epoch, in every form', async (t) => {
  const served = await withHistory(t)
  const { call } = served
  const tag = tagsOf(served)
  const json = { accept: 'application/json' }
  const b = await call('GET', '/v1/pages/b/data?epoch=4', undefined, json)
  t.same(b.body, { name: 'b', dtype: 'i32', shape: [4], epoch: 4, version: 4, values: [0, 10, 20, 70] })
  t.match(b.headers, { etag: tag(4), 'mmsb-epoch': '4' })
  t.match((await call('GET', '/v1/pages/b/data?epoch=5&offset=1&count=2', undefined, json)).body, {
    epoch: 5,
    values: [50, 20],
  })
  const octets = await call('GET', '/v1/pages/a/data?epoch=3')
  t.same([...new Int32Array(new Uint8Array(octets.raw).buffer)], [0, 1, 2, 0])
  t.equal(octets.headers.etag, tag(3))
  const part = await call('GET', '/v1/pages/a/data?epoch=4', undefined, { range: 'bytes=12-' })
  t.equal(part.status, 206)
  t.same([...part.raw], [7, 0, 0, 0])
  t.equal(part.headers['content-range'], 'bytes 12-15/16')
  const same = await call('GET', '/v1/pages/a/data?epoch=3', undefined, { 'if-none-match': tag(3) })
  t.equal(same.status, 304)
  t.equal(same.headers['mmsb-epoch'], '3')
  t.same((await call('GET', '/v1/read?pages=b,a&epoch=2')).body, {
    epoch: 2,
    pages: {
      b: { dtype: 'i32', shape: [4], version: 2, values: [0, 0, 0, 0] },
      a: { dtype: 'i32', shape: [4], version: 1, values: [0, 0, 0, 0] },
    },
  })
  t.same((await call('GET', '/v1/status')).body.minEpoch, 0)
  isProblem(t, await call('GET', '/v1/pages/b/data'), 'PAGE_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/pages/b/data?epoch=6'), 'PAGE_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/pages/a/data?epoch=0'), 'PAGE_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/pages/a/data?epoch=7'), 'EPOCH_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/read?pages=a&epoch=7'), 'EPOCH_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/pages/a/data?epoch=x'), 'INVALID_REQUEST')
  isProblem(t, await call('GET', '/v1/pages/a/data?epoch=2&offset=9'), 'RANGE_NOT_SATISFIABLE')
})

t.test('epochs and histories', async (t) => {
  const { call } = await withHistory(t)
  const digest = String((await call('GET', '/v1/status')).body.digest)
  const four = await call('GET', '/v1/epochs/4')
  t.match(four.body, { epoch: 4, timestamp: /^\d{4}-\d\d-\d\dT.*Z$/, digest: /^[0-9a-f]{32}$/ })
  t.same(four.body.changed, ['a', 'b'])
  t.same(four.body.transactions, [
    {
      source: 'ann',
      intent: { why: 'test' },
      ops: [{ page: 'a', indices: [3], values: [7], merge: 'add' }],
    },
  ])
  const six = await call('GET', '/v1/epochs/6')
  t.equal(six.body.digest, digest)
  t.same(six.body.transactions, [{ source: null, intent: null, ops: [{ op: 'delete', page: 'b' }] }])
  const list = await call('GET', '/v1/epochs?from=4&to=6')
  t.equal(list.body.next, null)
  t.same((list.body.epochs as unknown[])[0], four.body)
  t.same((list.body.epochs as unknown[])[2], six.body)
  const epochsOf = (body: Record<string, unknown>): number[] =>
    (body.epochs as { epoch: number }[]).map(({ epoch }) => epoch)
  t.same(epochsOf((await call('GET', '/v1/epochs?source=ann')).body), [4])
  t.same(epochsOf((await call('GET', '/v1/epochs?page=b')).body), [2, 3, 4, 5, 6])
  const first = await call('GET', '/v1/epochs?limit=2')
  t.same([epochsOf(first.body), first.body.next], [[1, 2], 3])
  const history = await call('GET', '/v1/pages/a/history')
  t.match(history.body, { name: 'a', next: null })
  const versions = history.body.versions as { epoch: number; source: string | null; intent: unknown }[]
  t.same(
    versions.map(({ epoch, source, intent }) => [epoch, source, intent]),
    [
      [1, null, null],
      [3, null, null],
      [4, 'ann', { why: 'test' }],
      [5, null, null],
    ],
  )
  t.equal(
    ((await call('GET', '/v1/pages/b/history')).body.versions as unknown[]).length,
    5,
    'of a page that is gone',
  )
  isProblem(t, await call('GET', '/v1/pages/z/history'), 'PAGE_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/epochs/7'), 'EPOCH_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/epochs/x'), 'INVALID_REQUEST')
  isProblem(t, await call('GET', '/v1/epochs?limit=0'), 'INVALID_REQUEST')
})

t.test('-0 keeps its sign in every answer', async (t) => {
  const { call } = await durable(t)
  const json = { accept: 'application/json' }
  await call('PUT', '/v1/pages/z', { dtype: 'f64', shape: [8], fill: -0.1 })
  await call('DELETE', '/v1/pages/z')
  // JSON.stringify would write 0 for -0, so these bodies are text.
  const send = (method: 'PUT' | 'PATCH', url: string, text: string) =>
    call(method, url, Buffer.from(text), { 'content-type': 'application/json' })
  await send('PUT', '/v1/pages/z', '{"dtype":"f64","shape":[8],"fill":-0.0}')
  await send('PATCH', '/v1/pages/z/data', '{"offset":1,"values":[1,-0.0]}')
  await send('PATCH', '/v1/pages/z/data', '{"indices":[4],"values":[-0.0]}')
  await send('PATCH', '/v1/pages/z/data', '{"mask":"AQ==","values":[-0.0]}')
  const raw = async (url: string, headers = {}) =>
    Buffer.from((await call('GET', url, undefined, headers)).raw).toString()
  const data = '"values":[-0.0,1,-0.0,-0.0,-0.0,-0.0,-0.0,-0.0]'
  t.match(await raw('/v1/pages/z/data', json), data, 'data')
  t.match(await raw('/v1/pages/z/data?epoch=6', json), data, 'past data')
  t.match(await raw('/v1/read?pages=z'), data, 'read')
  const epochs = await raw('/v1/epochs?from=1')
  for (const text of ['"fill":-0.0', '"values":[1,-0.0]', '"indices":[4]', '"mask":"AQ=="'])
    t.match(epochs, text)
  t.equal(epochs.split('[-0.0]').length, 3, 'sparse and masked')
  t.match(await raw('/v1/epochs/3'), '"fill":-0.0')
  t.match(await raw('/v1/epochs/5'), '"values":[-0.0]')
  const { epochs: parsed } = JSON.parse(epochs)
  t.ok(Object.is(parsed[3].transactions[0].ops[0].values[1], -0), 'JSON.parse has it')
  t.same(Object.keys(parsed[3].transactions[0].ops[0]).sort(), ['merge', 'offset', 'page', 'values'])
})

t.test('what differs between two epochs', async (t) => {
  const { call } = await withHistory(t)
  t.same((await call('GET', '/v1/diff?from=2&to=4')).body, {
    from: 2,
    to: 4,
    pages: { a: { ranges: [[1, 3]] }, b: { ranges: [[1, 3]] } },
  })
  t.same((await call('GET', '/v1/diff?from=4&pages=a')).body, {
    from: 4,
    to: 6,
    pages: { a: { ranges: [[1, 1]] } },
  })
  for (const [range, of] of [
    ['from=1&to=4', { created: true }],
    ['from=4&to=6', { deleted: true }],
  ] as const) {
    const { body } = await call('GET', `/v1/diff?${range}&pages=b`)
    t.match(body, { pages: { b: of } })
    t.ok(Compile(DiffAnswer).Check(body), `${range}: as the schema says`)
  }
  isProblem(t, await call('GET', '/v1/diff?from=4&pages=z'), 'PAGE_NOT_FOUND')
  isProblem(t, await call('GET', '/v1/diff?from=4&to=2'), 'INVALID_REQUEST')
  isProblem(t, await call('GET', '/v1/diff'), 'INVALID_REQUEST')
  isProblem(t, await call('GET', '/v1/diff?from=9'), 'EPOCH_NOT_FOUND')
})

t.test('the log is verified', async (t) => {
  const { call } = await withHistory(t)
  const all = await call('POST', '/v1/verify')
  t.same(all.body, { ok: true, from: 0, to: 6, epochs: 6, divergence: null, problems: [] })
  await call('POST', '/v1/checkpoints')
  t.match((await call('POST', '/v1/verify', { from: 2, to: 4 })).body, {
    ok: true,
    from: 2,
    to: 4,
    epochs: 2,
  })
  isProblem(t, await call('POST', '/v1/verify', { to: 99 }), 'EPOCH_NOT_FOUND')
  isProblem(t, await call('POST', '/v1/verify', { until: 3 }), 'INVALID_REQUEST')
})

t.test('what if', async (t) => {
  const { call } = await withHistory(t)
  await call('PUT', '/v1/pages/c', { derive: { op: 'map', inputs: { a: 'a' }, expr: 'a+1' } })
  const before = (await call('GET', '/v1/status')).body
  const events: unknown[] = []
  const answer = await call('POST', '/v1/whatif', {
    ops: [{ page: 'a', offset: 0, values: [9] }],
    read: ['a', 'c'],
  })
  t.same(answer.body, {
    epoch: 8,
    pages: {
      a: { dtype: 'i32', shape: [4], version: 8, values: [9, 5, 2, 7] },
      c: { dtype: 'i32', shape: [4], version: 8, values: [10, 6, 3, 8] },
    },
  })
  t.same(events, [])
  const after = (await call('GET', '/v1/status')).body
  t.same([after.epoch, after.digest], [before.epoch, before.digest])
  t.same((await call('GET', '/v1/read?pages=a')).body, {
    epoch: 7,
    pages: { a: { dtype: 'i32', shape: [4], version: 5, values: [0, 5, 2, 7] } },
  })
  const set = { page: 'a', values: [1] }
  isProblem(t, await call('POST', '/v1/whatif', { ops: [set], read: [] }), 'INVALID_REQUEST')
  t.match((await call('POST', '/v1/whatif', { ops: [], read: ['a'] })).body, {
    epoch: 8,
    pages: { a: { version: 5 } },
  })
  isProblem(t, await call('POST', '/v1/whatif', { ops: [set] }), 'INVALID_REQUEST')
  isProblem(t, await call('POST', '/v1/whatif', { ops: [set], read: ['z'] }), 'PAGE_NOT_FOUND')
  isProblem(
    t,
    await call('POST', '/v1/whatif', { ops: [{ page: 'c', values: [1] }], read: ['a'] }),
    'PAGE_READ_ONLY',
  )
  isProblem(
    t,
    await call('POST', '/v1/whatif', { ops: [{ page: 'a', values: ['x'] }], read: ['a'] }),
    'INVALID_DELTA',
  )
})

t.test('a client that goes away ends its question, and the next is answered', async (t) => {
  const served = await withHistory(t)
  const { bus } = served
  const pending = Array.from({ length: 4_000 }, (_, i) => bus.patch('a', { offset: 0, values: [i] }))
  await Promise.all(pending)
  const { url } = await listen(served)
  const controller = new AbortController()
  const gone = fetch(`${url}/v1/verify`, { method: 'POST', signal: controller.signal })
  const past = fetch(`${url}/v1/pages/a/data?epoch=3`, { signal: controller.signal })
  setTimeout(() => controller.abort(), 5)
  await Promise.allSettled([gone, past])
  const next = await fetch(`${url}/v1/pages/a/data?epoch=4`)
  t.same([...new Int32Array(await next.arrayBuffer())], [0, 1, 2, 7])
})

t.test('functions that an epoch defined and ended', async (t) => {
  const { call } = await durable(t)
  const body = { params: ['x'], expr: 'x + 1' }
  await call('PUT', '/v1/functions/next', body)
  await call('DELETE', '/v1/functions/next')
  const opsOf = async (epoch: number): Promise<unknown> =>
    (await call('GET', `/v1/epochs/${epoch}`)).body.transactions
  t.match(await opsOf(1), [{ ops: [{ op: 'define', function: 'next', ...body }] }])
  t.match(await opsOf(2), [{ ops: [{ op: 'undefine', function: 'next' }] }])
})
