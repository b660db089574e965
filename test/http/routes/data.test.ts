/** Reading and writing the elements of pages over HTTP. */
import t from 'tap'
import { DTYPE_INFO, DTYPES } from '../../../src/wire/dtype.js'
import { isProblem, type Served, SOURCE, serve, tagsOf } from '../helpers.js'

const OCTETS = { accept: 'application/octet-stream' }
const JSON_TYPE = { accept: 'application/json' }

async function withPage(t: Parameters<typeof serve>[0]): Promise<Served> {
  const served = await serve(t)
  await served.call('PUT', '/v1/pages/a', { dtype: 'u16', shape: [4, 2] })
  await served.call('PUT', '/v1/pages/a/data', { values: [1, 2, 3, 4, 5, 6, 7, 8] })
  return served
}

t.test('bytes by default, JSON for those who like it better', async (t) => {
  const served = await withPage(t)
  const { call } = served
  const tag = tagsOf(served)
  const bytes = await call('GET', '/v1/pages/a/data')
  t.equal(bytes.status, 200)
  t.match(bytes.headers, {
    'content-type': 'application/octet-stream',
    etag: tag(2),
    'mmsb-epoch': '2',
    'content-length': '16',
  })
  t.same(bytes.raw, Buffer.from(Uint16Array.of(1, 2, 3, 4, 5, 6, 7, 8).buffer))
  const json = await call('GET', '/v1/pages/a/data', undefined, JSON_TYPE)
  t.match(json.headers, {
    'content-type': /^application\/json/,
    etag: tag(2),
    'mmsb-epoch': '2',
    vary: 'accept',
  })
  t.same(json.body, {
    name: 'a',
    dtype: 'u16',
    shape: [4, 2],
    epoch: 2,
    version: 2,
    values: [1, 2, 3, 4, 5, 6, 7, 8],
  })
  for (const accept of ['application/json;q=0.2, */*;q=0.1', 'text/html, application/json;q=0.1']) {
    t.match(
      (await call('GET', '/v1/pages/a/data', undefined, { accept })).headers,
      { 'content-type': /json/ },
      accept,
    )
  }
  isProblem(t, await call('GET', '/v1/pages/a/data', undefined, { accept: 'text/html' }), 'NOT_ACCEPTABLE')
  isProblem(t, await call('GET', '/v1/pages/none/data'), 'PAGE_NOT_FOUND')
  const head = await call('HEAD', '/v1/pages/a/data')
  t.match(head, { status: 200, headers: { etag: tag(2), 'content-length': '16' } })
  t.equal(head.raw.length, 0)
})

t.test('a part: offset and count, or a range of bytes: 206', async (t) => {
  const served = await withPage(t)
  const { call } = served
  const tag = tagsOf(served)
  const part = async (query: string, headers: Record<string, string> = {}) => {
    const { status, raw, headers: got } = await call('GET', `/v1/pages/a/data${query}`, undefined, headers)
    return [status, [...raw], got['content-range']]
  }
  t.same(await part('?offset=2&count=2'), [206, [3, 0, 4, 0], 'bytes 4-7/16'])
  t.same(await part('?offset=6'), [206, [7, 0, 8, 0], 'bytes 12-15/16'])
  t.same(await part('?count=1'), [206, [1, 0], 'bytes 0-1/16'])
  t.same(await part('?offset=8&count=0'), [206, [], undefined])
  t.same(await part('', { range: 'bytes=0-0' }), [206, [1], 'bytes 0-0/16'])
  t.same(await part('', { range: 'bytes=1-2' }), [206, [0, 2], 'bytes 1-2/16'], 'across elements')
  t.same(await part('', { range: 'bytes=-3' }), [206, [0, 8, 0], 'bytes 13-15/16'])
  t.same(await part('', { range: 'bytes=14-' }), [206, [8, 0], 'bytes 14-15/16'])
  t.same(await part('', { range: 'bytes=14-99' }), [206, [8, 0], 'bytes 14-15/16'])
  t.equal((await part('', { range: 'bytes=0-1,4-5' }))[0], 200, 'several ranges: the whole')
  t.equal((await part('', { range: 'items=0-1' }))[0], 200, 'another unit: the whole')
  t.equal((await part('', { range: 'bytes=0-1', 'if-range': tag(1) }))[0], 200, 'If-Range of another version')
  t.equal((await part('', { range: 'bytes=0-1', 'if-range': tag(2) }))[0], 206)
  t.equal((await part('', { range: 'bytes=0-1', ...JSON_TYPE }))[0], 200, 'JSON has no bytes to choose from')
  const json = await call('GET', '/v1/pages/a/data?offset=2&count=2', undefined, JSON_TYPE)
  t.match(json, {
    status: 206,
    body: { offset: 2, values: [3, 4], shape: [4, 2] },
    headers: { 'content-range': 'elements 2-3/8' },
  })
  for (const [query, headers] of [
    ['', { range: 'bytes=16-' }],
    ['', { range: 'bytes=-0' }],
    ['?offset=8', {}],
    ['?offset=9', {}],
    ['?offset=7&count=2', {}],
    ['?count=9', {}],
    ['?offset=9', JSON_TYPE],
    ['?offset=4294967296', {}],
    ['?offset=4294967296&count=0', JSON_TYPE],
    ['?offset=99999999999999999999', {}],
    [`?offset=9${'0'.repeat(400)}`, JSON_TYPE],
    ['?count=4294967296', {}],
    ['?count=99999999999999999999', JSON_TYPE],
    ['?offset=99999999999999999999&count=99999999999999999999&epoch=2', JSON_TYPE],
  ] as const) {
    const answer = await call('GET', `/v1/pages/a/data${query}`, undefined, headers)
    isProblem(t, answer, 'RANGE_NOT_SATISFIABLE', JSON.stringify([query, headers]))
    t.equal(answer.headers['content-range'], 'bytes */16')
  }
  for (const query of [
    '?offset=-1',
    '?offset=x',
    '?count=1.5',
    '?count=',
    '?offset=-4294967296',
    '?count=-1',
    '?first=1',
    '?epoch=-1',
    '?epoch=99999999999999999999',
  ]) {
    isProblem(t, await call('GET', `/v1/pages/a/data${query}`), 'INVALID_REQUEST', query)
  }
  isProblem(
    t,
    await call('GET', '/v1/pages/a/data?offset=1', undefined, { range: 'bytes=0-1' }),
    'INVALID_REQUEST',
  )
})

t.test('the version the client has: 304', async (t) => {
  const served = await withPage(t)
  const { call } = served
  const tag = tagsOf(served)
  const status = async (tags: string) =>
    (await call('GET', '/v1/pages/a/data', undefined, { 'if-none-match': tags })).status
  t.equal(await status(tag(2)), 304)
  t.equal(await status(`${tag(1)}, W/${tag(2)}`), 304)
  t.equal(await status('*'), 304)
  t.equal(await status(tag(1)), 200)
  t.equal(await status('v2'), 400)
  // Such a tag names no history, so the request has to.
  const old = { 'if-none-match': '"v2"' }
  const named = { ...old, 'mmsb-history': served.bus.historyId }
  t.equal((await call('GET', '/v1/pages/a/data', undefined, old)).status, 200)
  t.equal((await call('GET', '/v1/pages/a/data', undefined, named)).status, 304)
  const same = await call('GET', '/v1/pages/a/data', undefined, { 'if-none-match': tag(2) })
  t.match(same.headers, { etag: tag(2), 'mmsb-epoch': '2' })
  t.equal(same.raw.length, 0)
})

t.test('an epoch: the newest, one to come, one gone by', async (t) => {
  const { call } = await withPage(t)
  for (const url of ['/v1/pages/a/data?', '/v1/read?pages=a&']) {
    t.equal((await call('GET', `${url}epoch=2`)).status, 200)
    isProblem(t, await call('GET', `${url}epoch=3`), 'EPOCH_NOT_FOUND')
    const gone = await call('GET', `${url}epoch=1`)
    isProblem(t, gone, 'EPOCH_COMPACTED')
    t.equal(gone.body.minEpoch, (await call('GET', '/v1/status')).body.minEpoch)
  }
})

t.test('an epoch gone by, of a page that is gone and of one that is another now', async (t) => {
  const served = await serve(t, { dataDir: t.testdir(), fsync: 'off' })
  const { call, bus } = served
  for (const name of ['gone', 'other']) await bus.create(name, { dtype: 'u8', shape: [2] })
  for (const name of ['gone', 'other']) await bus.patch(name, { values: [1, 2] })
  for (const name of ['gone', 'other']) await bus.delete(name)
  await bus.create('other', { dtype: 'f64', shape: [] })
  isProblem(t, await call('GET', '/v1/pages/gone/data'), 'PAGE_NOT_FOUND')
  for (const [name, version] of [
    ['gone', 3],
    ['other', 4],
  ] as const) {
    const url = `/v1/pages/${name}/data?epoch=4`
    const { status, raw, headers } = await call('GET', url)
    t.match({ status, raw: [...raw], headers }, { status: 200, raw: [1, 2], headers: { 'mmsb-epoch': '4' } })
    const tag = tagsOf(served)(version)
    const same = await call('GET', url, undefined, { 'if-none-match': tag })
    t.match(same, { status: 304, headers: { etag: tag, 'mmsb-epoch': '4' } })
    const part = await call('GET', `${url}&offset=1`, undefined, { accept: 'application/json' })
    t.match(part.body, { name, dtype: 'u8', epoch: 4, version, offset: 1, values: [2] })
    const read = await call('GET', `/v1/read?pages=${name}&epoch=4`)
    t.match(read.body, { epoch: 4, pages: { [name]: { dtype: 'u8', version, values: [1, 2] } } })
  }
})

t.test('several pages at one epoch', async (t) => {
  const { call } = await withPage(t)
  await call('PUT', '/v1/pages/b', { derive: { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' } })
  const { status, headers, body } = await call('GET', '/v1/read?pages=a,b')
  t.equal(status, 200)
  t.equal(headers['mmsb-epoch'], '3')
  t.same(body, {
    epoch: 3,
    pages: {
      a: { dtype: 'u16', shape: [4, 2], version: 2, values: [1, 2, 3, 4, 5, 6, 7, 8] },
      b: { dtype: 'u64', shape: [], version: 3, values: ['36'] },
    },
  })
  isProblem(t, await call('GET', '/v1/read?pages=a,none'), 'PAGE_NOT_FOUND')
  for (const query of ['', '?pages=', '?page=a', '?pages=a&pages=b']) {
    isProblem(t, await call('GET', `/v1/read${query}`), 'INVALID_REQUEST', query)
  }
})

t.test('PATCH: dense, sparse, masked; JSON and bytes', async (t) => {
  const { call, bus } = await withPage(t)
  const values = () => [...bus.read('a')].map(Number)
  const dense = await call('PATCH', '/v1/pages/a/data', { offset: 1, values: [20, 30] })
  t.same([dense.status, dense.body], [200, { epoch: 3, version: 3, page: 'a' }])
  t.same(values(), [1, 20, 30, 4, 5, 6, 7, 8])
  await call('PATCH', '/v1/pages/a/data', { values: [9] })
  await call('PATCH', '/v1/pages/a/data', { indices: [7, 2], values: [80, 31] })
  t.same(values(), [9, 20, 31, 4, 5, 6, 7, 80])
  const mask = Buffer.from([0b0001_0100]).toString('base64')
  await call('PATCH', '/v1/pages/a/data', { mask, values: [1, 2], merge: 'add' })
  t.same(values(), [9, 20, 32, 4, 7, 6, 7, 80])
  const bytes = Buffer.from(Uint16Array.of(5, 6).buffer)
  t.same((await call('PATCH', '/v1/pages/a/data?offset=6', bytes)).body, { epoch: 7, version: 7, page: 'a' })
  await call('PATCH', '/v1/pages/a/data?offset=6&merge=max', Buffer.from(Uint16Array.of(1, 9).buffer))
  t.same(values(), [9, 20, 32, 4, 7, 6, 5, 9])
  t.equal(
    (await call('PATCH', '/v1/pages/a/data', Buffer.alloc(0))).status,
    200,
    'nothing at all is a delta too',
  )
})

t.test('PUT: the whole page', async (t) => {
  const { call, bus } = await withPage(t)
  const whole = await call('PUT', '/v1/pages/a/data', Buffer.from(new Uint16Array(8).fill(7).buffer))
  t.same([whole.status, whole.body], [200, { epoch: 3, version: 3, page: 'a' }])
  t.same(bus.read('a'), new Uint16Array(8).fill(7))
  const { epoch } = bus.status()
  for (const body of [
    { values: [1] },
    { values: Array(9).fill(1) },
    Buffer.alloc(14),
    Buffer.alloc(18),
    Buffer.alloc(15),
  ]) {
    isProblem(t, await call('PUT', '/v1/pages/a/data', body), 'INVALID_DELTA')
  }
  for (const body of [{ values: [1], merge: 'add' }, {}, { offset: 0, values: [] }]) {
    isProblem(t, await call('PUT', '/v1/pages/a/data', body), 'INVALID_REQUEST')
  }
  isProblem(t, await call('PUT', '/v1/pages/a/data?offset=1', Buffer.alloc(16)), 'INVALID_REQUEST')
  t.equal(bus.epoch, epoch)
})

t.test('every dtype goes out and comes in, as bytes and as JSON', async (t) => {
  const { call } = await serve(t)
  const samples: Record<string, unknown[]> = {
    bool: [true, false, true],
    u64: ['0', '18446744073709551615', '9007199254740993'],
    i64: ['-9223372036854775808', '9223372036854775807', '-1'],
    f32: [-0, 'NaN', 'Infinity', '-Infinity', 0.5, Math.fround(0.1), 2 ** -149],
    f64: [-0, 'NaN', 'Infinity', '-Infinity', 0.1, 5e-324, 1.7976931348623157e308],
  }
  for (const dtype of DTYPES) {
    const { min, max } = DTYPE_INFO[dtype]
    const values = samples[dtype] ?? [Number(min), Number(max), 1]
    await call('PUT', `/v1/pages/${dtype}`, { dtype, shape: [values.length] })
    const text = JSON.stringify({ values }).replace(/\[0,"NaN/, '[-0,"NaN')
    t.equal((await call('PUT', `/v1/pages/${dtype}/data`, text)).status, 200, dtype)
    const json = await call('GET', `/v1/pages/${dtype}/data`, undefined, JSON_TYPE)
    t.same(json.body.values, values, dtype)
    if (dtype[0] === 'f') t.ok(Object.is((json.body.values as number[])[0], -0), `${dtype}: -0 stays -0`)
    const bytes = await call('GET', `/v1/pages/${dtype}/data`, undefined, OCTETS)
    await call('PUT', `/v1/pages/${dtype}/data`, Buffer.alloc(bytes.raw.length))
    t.equal((await call('PUT', `/v1/pages/${dtype}/data`, bytes.raw)).status, 200)
    t.same((await call('GET', `/v1/pages/${dtype}/data`)).raw, bytes.raw, dtype)
  }
})

t.test('If-Match: 412 when the page has moved on', async (t) => {
  const { call, bus } = await withPage(t)
  let value = 10
  const write = (tags: string) =>
    call('PATCH', '/v1/pages/a/data', { values: [value++] }, { 'if-match': tags })
  isProblem(t, await write('"v1"'), 'PRECONDITION_FAILED')
  t.equal(bus.epoch, 2)
  t.equal((await write('"v2"')).status, 200)
  isProblem(t, await write('"v2"'), 'PRECONDITION_FAILED')
  t.equal((await write('"v2", "v3"')).status, 200)
  t.equal((await write('*')).status, 200)
  for (const bad of ['v5', '"5"', '""', '"v5', 'x']) isProblem(t, await write(bad), 'INVALID_REQUEST', bad)
  const whole = await call('PUT', '/v1/pages/a/data', Buffer.alloc(16), { 'if-match': '"v1"' })
  isProblem(t, whole, 'PRECONDITION_FAILED')
})

t.test('a repeat with the same Idempotency-Key gets the first answer', async (t) => {
  const { call, bus } = await withPage(t)
  const write = (key: string) =>
    call('PATCH', '/v1/pages/a/data', { values: [1], merge: 'add' }, { 'idempotency-key': key })
  const [first, twin] = await Promise.all([write('k1'), write('k1')])
  const later = await write('k1')
  t.same(first.body, { epoch: 3, version: 3, page: 'a' })
  t.same(twin.body, first.body)
  t.same(later.body, first.body)
  t.equal(Number(bus.read('a')[0]), 2, 'added once')
  t.equal((await write('k2')).body.epoch, 4)
  isProblem(t, await write(''), 'INVALID_REQUEST')
  isProblem(t, await write('x'.repeat(257)), 'PAYLOAD_TOO_LARGE')
  await call('PUT', '/v1/pages/other', SOURCE)
  const key = { 'idempotency-key': 'k1' }
  for (const [method, body] of [
    ['PATCH', { values: [1] }],
    ['PATCH', Buffer.alloc(3)],
    ['PUT', { values: [1] }],
  ] as const) {
    const other = await call(method, '/v1/pages/other/data', body, key)
    isProblem(t, other, 'IDEMPOTENCY_MISMATCH', 'to another page')
  }
  const ops = ['a', 'other'].map((page) => ({ page, values: [1] }))
  const both = await call('POST', '/v1/transactions', { ops }, { 'idempotency-key': 'k3' })
  for (const page of ['a', 'other']) {
    const again = await call('PATCH', `/v1/pages/${page}/data`, { values: [1] }, { 'idempotency-key': 'k3' })
    isProblem(t, again, 'IDEMPOTENCY_MISMATCH', 'a part of the transaction')
  }
  isProblem(t, await call('PATCH', '/v1/pages/a/data', { values: [2] }, key), 'IDEMPOTENCY_MISMATCH')
  isProblem(t, await call('PATCH', '/v1/pages/a/data', Buffer.alloc(3), key), 'IDEMPOTENCY_MISMATCH')
  const bytes = await call('PATCH', '/v1/pages/a/data?merge=add', Buffer.of(1, 0), key)
  t.same(bytes.body, first.body, 'the same write as bytes')
  await call('DELETE', '/v1/pages/a?cascade=true')
  t.same((await write('k1')).body, first.body, 'also when the page is gone')
  t.same((await call('POST', '/v1/transactions', { ops }, { 'idempotency-key': 'k3' })).body, both.body)
})

t.test('a large page goes out as JSON in pieces', async (t) => {
  const { call } = await serve(t)
  const count = 200_001
  await call('PUT', '/v1/pages/big', { dtype: 'u32', shape: [count] })
  const values = Uint32Array.from({ length: count }, (_, i) => i * 3)
  await call('PUT', '/v1/pages/big/data', Buffer.from(values.buffer))
  const whole = await call('GET', '/v1/pages/big/data', undefined, JSON_TYPE)
  t.same(whole.body.values, [...values])
  const read = await call('GET', '/v1/read?pages=big')
  t.same((read.body.pages as { big: { values: unknown } }).big.values, [...values])
})
