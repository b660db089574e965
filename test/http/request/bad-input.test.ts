/**
 * Invalid requests: each gets its code of the error table, nothing is applied or logged, and the connection
 * stays usable. All of them go over one kept-alive connection to a server with a data folder.
 */
import { statSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import type { ErrorCode } from '../../../src/errors.js'
import { typedArrayOf } from '../../../src/http/request/octet-stream.js'
import { DTYPES } from '../../../src/wire/dtype.js'
import { Client } from '../../stream/helpers.js'
import { listen, type Method, type Served, serve } from '../helpers.js'

type Test = Parameters<typeof serve>[0]

interface Live extends Served {
  readonly port: number
  /** A request over the one connection. */
  send(
    method: Method,
    path: string,
    body?: unknown,
  ): Promise<{ status: number; code?: string; detail?: string }>
  /** The sockets opened so far. */
  readonly sockets: Set<unknown>
}

async function live(t: Test, dataDir?: string): Promise<Live> {
  const served = await serve(t, dataDir === undefined ? {} : { dataDir })
  const { port } = await listen(served)
  for (const dtype of ['u8', 'i32', 'u64', 'f32', 'bool'] as const)
    await served.bus.create(dtype, { dtype, shape: [4] })
  await served.bus.derive('sum', { op: 'reduce', inputs: { x: 'f32' }, fn: 'sum' })
  await served.bus.derive('above', { op: 'map', inputs: { x: 'sum' }, expr: 'x > 1' })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const sockets = new Set<unknown>()
  const send: Live['send'] = (method, path, body) =>
    new Promise((resolve, reject) => {
      const type = Buffer.isBuffer(body) ? 'application/octet-stream' : 'application/json'
      const payload =
        body === undefined || Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body)
      const headers =
        body === undefined
          ? {}
          : { 'content-type': type, 'content-length': Buffer.byteLength(payload as Buffer) }
      const sent = request({ host: '127.0.0.1', port, method, path, headers, agent }, async (response) => {
        const chunks: Buffer[] = []
        for await (const chunk of response) chunks.push(chunk as Buffer)
        const isJson = /json/.test(String(response.headers['content-type']))
        const answer = isJson ? (JSON.parse(Buffer.concat(chunks).toString()) as object) : {}
        resolve({ ...answer, status: response.statusCode! })
      })
      sent.on('socket', (socket) => sockets.add(socket))
      sent.on('error', reject)
      sent.end(payload)
    })
  return { ...served, port, send, sockets }
}

const ones = (count: number): number[] => Array(count).fill(1)
const mask = (...bytes: number[]): string => Buffer.from(bytes).toString('base64')

const CASES: readonly [string, Method, string, unknown, ErrorCode][] = [
  ['an unknown field', 'PATCH', '/v1/pages/u8/data', { values: [1], color: 1 }, 'INVALID_REQUEST'],
  ['a value too large', 'PATCH', '/v1/pages/u8/data', { values: [300] }, 'INVALID_DELTA'],
  ['a value too small', 'PATCH', '/v1/pages/u8/data', { values: [-1] }, 'INVALID_DELTA'],
  ['a fraction', 'PATCH', '/v1/pages/i32/data', { values: [1.5] }, 'INVALID_DELTA'],
  ['NaN into an integer', 'PATCH', '/v1/pages/i32/data', { values: ['NaN'] }, 'INVALID_DELTA'],
  ['infinity into an integer', 'PATCH', '/v1/pages/i32/data', { values: ['Infinity'] }, 'INVALID_DELTA'],
  ['1e40 into f32', 'PATCH', '/v1/pages/f32/data', { values: [1e40] }, 'INVALID_DELTA'],
  ['text into a float', 'PATCH', '/v1/pages/f32/data', { values: ['one'] }, 'INVALID_DELTA'],
  ['null', 'PATCH', '/v1/pages/f32/data', { values: [null] }, 'INVALID_REQUEST'],
  ['2 into bool', 'PATCH', '/v1/pages/bool/data', { values: [2] }, 'INVALID_DELTA'],
  ['a byte of 2 into bool', 'PATCH', '/v1/pages/bool/data', Buffer.of(2), 'INVALID_DELTA'],
  [
    'an inexact number into u64',
    'PATCH',
    '/v1/pages/u64/data',
    '{"values":[9007199254740993]}',
    'INVALID_DELTA',
  ],
  [
    'too large a string into u64',
    'PATCH',
    '/v1/pages/u64/data',
    { values: ['18446744073709551616'] },
    'INVALID_DELTA',
  ],
  [
    'a string that is no number into u64',
    'PATCH',
    '/v1/pages/u64/data',
    { values: ['0x10'] },
    'INVALID_DELTA',
  ],
  ['past the end', 'PATCH', '/v1/pages/u8/data', { offset: 3, values: [1, 2] }, 'INVALID_DELTA'],
  [
    'an offset past the end',
    'PATCH',
    '/v1/pages/u8/data',
    { offset: 4294967295, values: [1] },
    'INVALID_DELTA',
  ],
  ['an offset below zero', 'PATCH', '/v1/pages/u8/data', { offset: -1, values: [1] }, 'INVALID_DELTA'],
  ['an offset in between', 'PATCH', '/v1/pages/u8/data', { offset: 1.5, values: [1] }, 'INVALID_REQUEST'],
  ['an offset of text', 'PATCH', '/v1/pages/u8/data', { offset: '1', values: [1] }, 'INVALID_REQUEST'],
  ['an index in between', 'PATCH', '/v1/pages/u8/data', { indices: [0.5], values: [1] }, 'INVALID_REQUEST'],
  ['an index of text', 'PATCH', '/v1/pages/u8/data', { indices: ['0'], values: [1] }, 'INVALID_REQUEST'],
  ['bytes in between', 'PATCH', '/v1/pages/u8/data?offset=1.5', Buffer.of(1), 'INVALID_REQUEST'],
  ['bytes at no number', 'PATCH', '/v1/pages/u8/data?offset=-0', Buffer.of(1), 'INVALID_REQUEST'],
  ['an index past the end', 'PATCH', '/v1/pages/u8/data', { indices: [4], values: [1] }, 'INVALID_DELTA'],
  [
    'fewer values than indices',
    'PATCH',
    '/v1/pages/u8/data',
    { indices: [0, 1], values: [1] },
    'INVALID_DELTA',
  ],
  [
    'more values than indices',
    'PATCH',
    '/v1/pages/u8/data',
    { indices: [0], values: [1, 2] },
    'INVALID_DELTA',
  ],
  ['a mask too short', 'PATCH', '/v1/pages/u8/data', { mask: '', values: [] }, 'INVALID_DELTA'],
  ['a mask too long', 'PATCH', '/v1/pages/u8/data', { mask: mask(1, 0), values: [1] }, 'INVALID_DELTA'],
  ['bits past the end', 'PATCH', '/v1/pages/u8/data', { mask: mask(0x11), values: [1, 2] }, 'INVALID_DELTA'],
  ['fewer values than bits', 'PATCH', '/v1/pages/u8/data', { mask: mask(3), values: [1] }, 'INVALID_DELTA'],
  ['a mask that is not base64', 'PATCH', '/v1/pages/u8/data', { mask: '!!', values: [1] }, 'INVALID_DELTA'],
  [
    'two kinds at once',
    'PATCH',
    '/v1/pages/u8/data',
    { indices: [0], mask: mask(1), values: [1] },
    'INVALID_DELTA',
  ],
  [
    'offset and indices',
    'PATCH',
    '/v1/pages/u8/data',
    { offset: 0, indices: [0], values: [1] },
    'INVALID_DELTA',
  ],
  ['an unknown merge', 'PATCH', '/v1/pages/u8/data', { values: [1], merge: 'mix' }, 'INVALID_REQUEST'],
  ['bits of a float', 'PATCH', '/v1/pages/f32/data', { values: [1], merge: 'xor' }, 'INVALID_DELTA'],
  ['half an element', 'PATCH', '/v1/pages/i32/data', Buffer.alloc(6), 'INVALID_DELTA'],
  ['bytes past the end', 'PATCH', '/v1/pages/i32/data?offset=3', Buffer.alloc(8), 'INVALID_DELTA'],
  ['offset in both places', 'PATCH', '/v1/pages/u8/data?offset=1', { values: [1] }, 'INVALID_REQUEST'],
  ['no body', 'PATCH', '/v1/pages/u8/data', undefined, 'INVALID_REQUEST'],
  ['an empty body', 'PATCH', '/v1/pages/u8/data', '', 'INVALID_REQUEST'],
  ['half a body', 'PATCH', '/v1/pages/u8/data', '{"values":[1', 'INVALID_REQUEST'],
  ['an array', 'PATCH', '/v1/pages/u8/data', [1], 'INVALID_REQUEST'],
  ['values that are no list', 'PATCH', '/v1/pages/u8/data', { values: 1 }, 'INVALID_REQUEST'],
  ['values in values', 'PATCH', '/v1/pages/u8/data', { values: [[1]] }, 'INVALID_REQUEST'],
  ['a wrong count for the page', 'PUT', '/v1/pages/u8/data', { values: ones(5) }, 'INVALID_DELTA'],
  ['a derived page', 'PATCH', '/v1/pages/sum/data', { values: [1] }, 'PAGE_READ_ONLY'],
  ['a derived page, whole', 'PUT', '/v1/pages/sum/data', { values: [1] }, 'PAGE_READ_ONLY'],
  ['a derived page, too much', 'PUT', '/v1/pages/sum/data', { values: [1, 2] }, 'PAGE_READ_ONLY'],
  ['a derived page, a byte', 'PUT', '/v1/pages/sum/data', Buffer.alloc(1), 'PAGE_READ_ONLY'],
  ['a derived page, a byte of it', 'PATCH', '/v1/pages/sum/data', Buffer.alloc(1), 'PAGE_READ_ONLY'],
  ['no page', 'PATCH', '/v1/pages/none/data', { values: [1] }, 'PAGE_NOT_FOUND'],
  ['no page, as bytes', 'PATCH', '/v1/pages/none/data', Buffer.of(1), 'PAGE_NOT_FOUND'],
  ['a huge shape', 'PUT', '/v1/pages/new', { dtype: 'f64', shape: [4294967295] }, 'INVALID_REQUEST'],
  [
    'a shape of too many elements',
    'PUT',
    '/v1/pages/new',
    { dtype: 'u8', shape: [65536, 65536] },
    'INVALID_REQUEST',
  ],
  ['a shape beyond u32', 'PUT', '/v1/pages/new', { dtype: 'u8', shape: [4294967296] }, 'INVALID_REQUEST'],
  ['too many axes', 'PUT', '/v1/pages/new', { dtype: 'u8', shape: ones(9) }, 'INVALID_REQUEST'],
  ['a fill out of range', 'PUT', '/v1/pages/new', { dtype: 'u8', shape: [1], fill: -1 }, 'INVALID_DELTA'],
  [
    'itself as input',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'copy', inputs: { x: 'new' } } },
    'GRAPH_CYCLE',
  ],
  ['a cycle', 'PUT', '/v1/pages/sum', { derive: { op: 'copy', inputs: { x: 'above' } } }, 'GRAPH_CYCLE'],
  [
    'an input that is not there',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'copy', inputs: { x: 'none' } } },
    'PAGE_NOT_FOUND',
  ],
  [
    'an unknown op',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'melt', inputs: { x: 'u8' } } },
    'INVALID_REQUEST',
  ],
  [
    'an unknown parameter',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'copy', inputs: { x: 'u8' }, k: 1 } },
    'INVALID_REQUEST',
  ],
  [
    'an axis too far',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'reduce', inputs: { x: 'u8' }, fn: 'sum', axes: [1] } },
    'SHAPE_MISMATCH',
  ],
  [
    'a name that is none in an expression',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'map', inputs: { x: 'u8' }, expr: 'y' } },
    'INVALID_EXPRESSION',
  ],
  [
    'u64 with a signed type',
    'PUT',
    '/v1/pages/new',
    { derive: { op: 'map', inputs: { x: 'u64', y: 'i32' }, expr: 'x+y' } },
    'INVALID_EXPRESSION',
  ],
  [
    'half of a transaction',
    'POST',
    '/v1/transactions',
    {
      ops: [
        { page: 'u8', values: [1] },
        { page: 'u8', values: [256] },
      ],
    },
    'INVALID_DELTA',
  ],
]

/** A live server, a WebSocket to it, and a check that an answer refuses a delta with a given detail. */
async function refusing(
  t: Test,
  detail: RegExp,
): Promise<Live & { client: Client; says(answer: { code?: string; detail?: string }, what: string): void }> {
  const served = await live(t)
  const client = await Client.open(served.port)
  t.teardown(() => client.socket.terminate())
  return {
    ...served,
    client,
    says: (answer, what) => {
      t.equal(answer.code, 'INVALID_DELTA', `${what}: ${answer.detail}`)
      t.match(answer.detail, detail, what)
    },
  }
}

/** No page has an element there, but an index that wraps at 2^32 would find one. */
const NOWHERE = [
  '-1',
  '-4294967296',
  '4294967296',
  '4294967297',
  '9007199254740991',
  '99999999999999999999',
  '1e300',
]

t.test('an integer that is no element of the page is INVALID_DELTA through every door', async (t) => {
  const { bus, send, client, says } = await refusing(t, /(before the start|past the end): the page has 4/)
  const { epoch, digest } = bus.status()
  for (const at of NOWHERE) {
    for (const delta of [`"offset":${at},"values":[1]`, `"indices":[0,${at}],"values":[1,2]`]) {
      const ops = `"ops":[{"page":"u8",${delta}}]`
      says(await send('PATCH', '/v1/pages/u8/data', `{${delta}}`), delta)
      says(await send('POST', '/v1/transactions', `{${ops}}`), ops)
      says(await send('POST', '/v1/whatif', `{${ops},"read":["u8"]}`), `what-if ${ops}`)
      says(await client.ask(JSON.parse(`{"type":"transaction","id":"${at}",${ops}}`)), `WebSocket ${ops}`)
      await t.rejects(bus.patch('u8', JSON.parse(`{${delta}}`)), { code: 'INVALID_DELTA' })
      await t.rejects(async () => bus.transact(JSON.parse(`{${ops}}`)), { code: 'INVALID_DELTA' })
    }
    if (at === '1e300') continue
    says(await send('PATCH', `/v1/pages/u8/data?offset=${at}`, Buffer.of(1)), `bytes at ${at}`)
  }
  const endless = `9${'0'.repeat(400)}`
  says(await send('PATCH', `/v1/pages/u8/data?offset=${endless}`, Buffer.of(1)), 'bytes, more digits')
  t.match(bus.status(), { epoch, digest })
})

t.test('a number beyond a double is out of range of every dtype', async (t) => {
  const { bus, send, client, says } = await refusing(t, /out of range/)
  const { epoch, digest } = bus.status()
  for (const dtype of DTYPES) {
    if (!bus.hasPage(dtype)) continue
    for (const value of ['1e400', '-1e400']) {
      const ops = `"ops":[{"page":"${dtype}","values":[1,${value}]}]`
      says(await send('PATCH', `/v1/pages/${dtype}/data`, `{"values":[1,${value}]}`), dtype)
      says(await send('PATCH', `/v1/pages/${dtype}/data`, `{"indices":[0],"values":[${value}]}`), dtype)
      says(await send('PUT', `/v1/pages/${dtype}/data`, `{"values":[1,1,1,${value}]}`), dtype)
      says(await send('POST', '/v1/transactions', `{${ops}}`), ops)
      says(await send('POST', '/v1/whatif', `{${ops},"read":["u8"]}`), `what-if ${ops}`)
      client.send(`{"type":"transaction","id":"${dtype}${value}",${ops}}`)
      says(await client.next(({ id }) => id === dtype + value), `WebSocket ${ops}`)
    }
  }
  for (const dtype of DTYPES) {
    const definition = `"dtype":"${dtype}","shape":[1],"fill":1e400`
    says(await send('PUT', '/v1/pages/new', `{${definition}}`), `fill ${dtype}`)
    says(await send('POST', '/v1/pages', `{"pages":[{"name":"new",${definition}}]}`), `fill ${dtype}`)
  }
  says(await send('PATCH', '/v1/pages/u8/data', '{"offset":1e400,"values":[1]}'), 'offset')
  const expects = '{"ops":[],"expect":[{"page":"u8","version":1e400}]}'
  t.equal((await send('POST', '/v1/transactions', expects)).code, 'INVALID_REQUEST', 'of nothing else')
  t.match(bus.status(), { epoch, digest })
  const strings = { values: ['Infinity', '-Infinity', 'NaN'] }
  t.equal((await send('PATCH', '/v1/pages/f32/data', strings)).status, 200, 'the strings are meant so')
  t.same(bus.read('f32'), Float32Array.of(Infinity, -Infinity, Number.NaN, 0))
})

t.test('each is refused and leaves no trace', async (t) => {
  const dataDir = t.testdir()
  const { bus, send, sockets } = await live(t, dataDir)
  const before = bus.status()
  const logBytes = bus.stats().log?.bytes
  for (const [what, method, path, body, code] of CASES) {
    const answer = await send(method, path, body)
    t.equal(answer.code, code, `${what}: ${answer.detail}`)
  }
  const { epoch, digest, pages } = bus.status()
  t.same({ epoch, digest, pages }, { epoch: before.epoch, digest: before.digest, pages: before.pages })
  t.equal(bus.stats().log?.bytes, logBytes, 'nothing was logged')
  t.equal(sockets.size, 1, 'one connection did for all')
  t.equal((await send('PATCH', '/v1/pages/u8/data', { values: [1] })).status, 200)
  t.ok(statSync(join(dataDir, 'log')).isDirectory())
})

t.test('bodies that end too soon, or are not HTTP at all, harm nobody', async (t) => {
  const { bus, send, port } = await live(t)
  const { epoch, digest } = bus.status()
  const talk = (text: string, end: boolean): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect(port, '127.0.0.1', () => (end ? socket.end(text) : socket.write(text)))
      let answer = ''
      socket.on('data', (chunk) => {
        answer += chunk
      })
      socket.on('error', () => {})
      socket.on('close', () => resolve(answer))
    })
  const head = (length: number, extra = ''): string =>
    `PATCH /v1/pages/u8/data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n${extra}\r\n`
  await talk(`${head(100)}{"values":[1]}`, true)
  await talk(head(100), true)
  t.match(await talk('GET / HTTP/9.9\r\n\r\n', false), /^HTTP\/1\.1 400 /)
  t.match(await talk('nonsense\r\n\r\n', false), /^HTTP\/1\.1 400 /)
  t.match(await talk(`${head(14, `X: ${'x'.repeat(100_000)}\r\n`)}{"values":[1]}`, false), /^HTTP\/1\.1 431 /)
  t.match(bus.status(), { epoch, digest })
  t.equal((await send('GET', '/livez')).status, 200)
})

t.test('any JSON at any route: an answer of the table, never a failure of the server', async (t) => {
  const { bus, call } = await live(t)
  const field = fc.constantFrom(
    'dtype',
    'shape',
    'fill',
    'derive',
    'op',
    'inputs',
    'expr',
    'offset',
    'indices',
    'mask',
    'values',
    'merge',
    'ops',
    'page',
    'expect',
    'version',
    'x',
    '__proto__',
    'constructor',
  )
  const leaf = fc.oneof(
    fc.constantFrom(
      'u8',
      'f32',
      'sum',
      'map',
      'reduce',
      'x+1',
      'set',
      'add',
      'AQ==',
      'NaN',
      '',
      0,
      1,
      -1,
      4,
      1.5,
      1e300,
      null,
      true,
    ),
    fc.string({ maxLength: 5 }),
    fc.integer(),
  )
  const tree = fc.letrec((tie) => ({
    node: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      leaf,
      fc.array(tie('node'), { maxLength: 4 }),
      fc
        .array(fc.tuple(field, tie('node')), { maxLength: 5 })
        .map((entries) => Object.fromEntries(entries) as unknown),
    ),
  })).node
  const route = fc.constantFrom<readonly [Method, string]>(
    ['PUT', '/v1/pages/fuzz'],
    ['PATCH', '/v1/pages/u8/data'],
    ['PUT', '/v1/pages/f32/data'],
    ['POST', '/v1/transactions'],
    ['PATCH', '/v1/pages/sum/data'],
  )
  // Bodies that are nearly right reach further than trees of anything.
  const delta = fc.record(
    {
      values: fc.array(leaf, { maxLength: 4 }),
      offset: leaf,
      indices: fc.array(fc.nat(5), { maxLength: 3 }),
      merge: leaf,
    },
    { requiredKeys: ['values'] },
  )
  const sound = fc.record({ values: fc.array(fc.nat(9), { minLength: 1, maxLength: 4 }) })
  const ops = fc.record({
    ops: fc.array(
      fc.tuple(delta, leaf).map(([delta, page]) => ({ page, ...delta })),
      { maxLength: 2 },
    ),
  })
  const made = fc.record(
    { dtype: leaf, shape: fc.array(fc.nat(4), { maxLength: 2 }), fill: leaf },
    { requiredKeys: ['dtype'] },
  )
  const bodies = fc.oneof({ weight: 3, arbitrary: tree }, delta, sound, ops, made)
  let taken = 0
  await fc.assert(
    fc.asyncProperty(route, bodies, async ([method, url], body) => {
      const { epoch } = bus
      const { status, body: answer } = await call(method, url, body)
      if (status < 300) taken++
      if (status >= 500 && answer.code !== 'OUT_OF_MEMORY') return false
      return status < 300 ? 'epoch' in answer || 'createdEpoch' in answer : bus.epoch === epoch
    }),
    { numRuns: 1500 },
  )
  t.ok(taken > 30, `${taken} of 1500 were taken`)
  t.equal((await call('GET', '/livez')).status, 200)
})

t.test('any bytes at any route that takes them', async (t) => {
  const { bus, call } = await live(t)
  const page = fc.constantFrom('u8', 'i32', 'u64', 'f32', 'bool', 'sum', 'none')
  let [taken, refused] = [0, 0]
  await fc.assert(
    fc.asyncProperty(
      page,
      fc.uint8Array({ maxLength: 40 }),
      fc.nat({ max: 6 }),
      async (name, bytes, offset) => {
        const { epoch } = bus
        const { status, body } = await call(
          'PATCH',
          `/v1/pages/${name}/data?offset=${offset}`,
          Buffer.from(bytes),
        )
        if (status === 200) taken++
        else refused++
        return status === 200 ? body.epoch === epoch + 1 : status < 500 && bus.epoch === epoch
      },
    ),
    { numRuns: 500 },
  )
  t.ok(taken > 20 && refused > 100, `${taken} taken, ${refused} refused`)
})

t.test('the bytes of a body are elements wherever they lie in memory', async (t) => {
  const bytes = Uint8Array.from({ length: 32 }, (_, i) => i * 7)
  for (const offset of [0, 1, 4, 8]) {
    const body = bytes.subarray(offset, offset + 16)
    const wanted = new Float64Array(body.slice().buffer)
    t.same(typedArrayOf('f64', body), wanted, `from byte ${offset}`)
  }
  t.throws(() => typedArrayOf('f64', bytes.subarray(0, 12)), { code: 'INVALID_DELTA' })
})
