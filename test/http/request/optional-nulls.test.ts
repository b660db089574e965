/**
 * null for an optional field means that the field is absent: in every body and message, and in the documents.
 */
import t from 'tap'
import { Compile, type TSchema } from '../../../src/http/typebox.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { Client } from '../../stream/helpers.js'
import { isProblem, listen, type Served, SOURCE, serve } from '../helpers.js'

type Test = Parameters<typeof serve>[0]

const REDUCE = { op: 'reduce' as const, inputs: { x: 'grid' }, fn: 'sum' as const }

async function withPages(t: Test): Promise<Served> {
  const served = await serve(t, { dataDir: t.testdir() })
  await served.bus.create('a', { dtype: 'f32', shape: [4] })
  await served.bus.create('grid', { dtype: 'i32', shape: [2, 3] })
  await served.bus.patch('grid', { values: [1, 2, 3, 4, 5, 6] })
  return served
}

t.test('axes: none, an empty list and null are all of them, and the same definition', async (t) => {
  const { call, bus } = await withPages(t)
  t.equal((await call('PUT', '/v1/pages/total', { derive: { ...REDUCE, axes: [] } })).status, 201)
  t.equal(Number(bus.read('total')[0]), 21)
  for (const derive of [REDUCE, { ...REDUCE, axes: null, keepdims: null }])
    t.equal((await call('PUT', '/v1/pages/total', { derive })).status, 200, 'the same')
  await bus.derive('plain', REDUCE)
  t.same(bus.page('total').derive, bus.page('plain').derive, 'shown as without axes')
  t.equal((await call('PUT', '/v1/pages/total', { derive: bus.page('total').derive })).status, 200)
  await bus.derive('kept', { ...REDUCE, axes: [], keepdims: true })
  t.same(bus.page('kept').shape, [1, 1])
  await bus.create('one', { dtype: 'f32', shape: [] })
  await bus.derive('one-total', { ...REDUCE, inputs: { x: 'one' }, axes: [] })
  t.same(bus.page('one-total').shape, [])
})

t.test('definitions', async (t) => {
  const { call, bus } = await withPages(t)
  const accepted = [
    ['p1', { ...SOURCE, location: null, fill: null, derive: null }],
    ['p2', { derive: { op: 'quantile', inputs: { x: 'a' }, q: 0.5, axis: null }, dtype: null, shape: null }],
    ['p3', { derive: { op: 'copy', inputs: { x: 'a' } }, location: null }],
    ['p4', { derive: { op: 'slice', inputs: { x: 'a' }, start: null, stop: [-1], step: null } }],
  ] as const
  for (const [name, body] of accepted) {
    const { status, body: answer } = await call('PUT', `/v1/pages/${name}`, body)
    t.equal(status, 201, `${name} ${answer.detail}`)
  }
  t.match(bus.page('p2').shape, [], 'over all')
  const pages = accepted.map(([name, body]) => ({ name: `${name}-too`, ...body }))
  t.equal((await call('POST', '/v1/pages', { pages })).status, 201)
  for (const [body, missing] of [
    [{ dtype: null, shape: [4] }, /missing "dtype"/],
    [{ dtype: 'f32', shape: null }, /missing "shape"/],
    [{ derive: { op: null, inputs: { x: 'a' } } }, /missing "op"/],
    [{ derive: { op: 'topk', inputs: { x: 'a' }, k: null, output: 'values' } }, /topk needs k/],
    [{ ...SOURCE, colour: null }, /unknown field "colour"/],
    [{ derive: { op: 'copy', inputs: { x: 'a' }, colour: null } }, /no parameter 'colour'/],
  ] as const) {
    const answer = await call('PUT', '/v1/pages/p9', body)
    isProblem(t, answer, 'INVALID_REQUEST', JSON.stringify(body))
    t.match(answer.body.detail, missing)
  }
})

t.test('deltas, transactions, what-if, verify, the stream', async (t) => {
  const served = await withPages(t)
  const { call, bus } = served
  const nulls = { offset: null, indices: null, mask: null, merge: null }
  const op = { page: 'a', ...nulls, values: [7] }
  const whole = { ops: [op], expect: null, source: null, intent: null, key: null }
  t.equal((await call('PATCH', '/v1/pages/a/data', { ...nulls, values: [5] })).status, 200)
  t.equal((await call('POST', '/v1/transactions', whole)).status, 200)
  t.equal((await call('POST', '/v1/whatif', { ops: [op], read: ['a'] })).status, 200)
  t.equal((await call('POST', '/v1/verify', { from: null, to: null })).status, 200)
  const { port } = await listen(served)
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  const options = { from: null, data: null, slice: null, policy: null, maxRate: null, durable: null }
  t.match(await client.ask({ type: 'subscribe', id: 's', pages: ['a'], ...options }), { type: 'subscribed' })
  t.match(await client.ask({ type: 'transaction', id: 't', ...whole }), { type: 'ack' })
  t.same(bus.read('a'), Float32Array.of(7, 0, 0, 0))
  for (const [url, body, missing] of [
    ['/v1/transactions', { ops: null }, /missing "ops"/],
    ['/v1/transactions', { ops: [{ ...op, page: null }] }, /missing "page"/],
    ['/v1/transactions', { ops: [{ ...op, values: null }] }, /missing "values"/],
    ['/v1/transactions', { ops: [], expect: [{ page: 'a', version: null }] }, /missing "version"/],
    ['/v1/whatif', { ops: [], read: null }, /missing "read"/],
    ['/v1/transactions', { ops: [{ ...op, values: [null] }] }, /values\.0/],
    ['/v1/transactions', { ops: [null] }, /ops\.0/],
  ] as const) {
    const answer = await call('POST', url, body)
    isProblem(t, answer, 'INVALID_REQUEST', JSON.stringify(body))
    t.match(answer.body.detail, missing)
  }
})

t.test('what an epoch shows of a transaction can be posted again, and does the same', async (t) => {
  const { call, bus } = await withPages(t)
  const frame = (offset: number, bits: number, values: number[]): Uint8Array => {
    // A mask over a part of the page; the writer builds it for a page of that many elements.
    const writer = new FrameWriter()
    writer.delta(bus.page('a').id, 'f32', 2, { mask: Uint8Array.of(bits), values, merge: 'add' })
    const bytes = writer.finish()
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(32 + 16, offset, true)
    return bytes
  }
  const done = [
    bus.transact({ ops: [{ page: 'a', offset: 1, values: [1, 'Infinity'], merge: 'max' }] }),
    bus.transact({ ops: [{ page: 'a', indices: [0, 0], values: [1, 2], merge: 'add' }], source: 's' }),
    bus.transact({ ops: [{ page: 'a', mask: 'CQ==', values: [3, 4] }], intent: { a: null } }),
    bus.transact({ ops: [] }),
    bus.submit(frame(2, 0b10, [5])),
    bus.submit(frame(0, 0b11, [5, 6])),
  ]
  for (const { epoch } of await Promise.all(done)) {
    const { body } = await call('GET', `/v1/epochs/${epoch}`)
    for (const transaction of body.transactions as object[]) {
      await bus.patch('a', { values: [1, 2, 3, 4] })
      const before = await bus.readAt('a', epoch - 1)
      await bus.write('a', before)
      const answer = await call('POST', '/v1/transactions', transaction)
      t.equal(answer.status, 200, JSON.stringify([transaction, answer.body.detail]))
      const again = (await call('GET', `/v1/epochs/${answer.body.epoch}`)).body.transactions as object[]
      t.same(again, [transaction])
    }
  }
})

t.test('the documents say so', async (t) => {
  const served = await withPages(t)
  const { port } = await listen(served)
  const { paths, components } = (await served.call('GET', '/openapi.json')).body as {
    paths: Record<string, Record<string, { requestBody: { content: Record<string, { schema: TSchema }> } }>>
    components: { schemas: Record<string, TSchema> }
  }
  /** The schema with the components that it names in their places. */
  const whole = (schema: TSchema): TSchema =>
    JSON.parse(JSON.stringify(schema), (_, value: unknown) => {
      const name = /^#\/components\/schemas\/(.+)$/.exec(
        String((value as { $ref?: string } | null)?.$ref),
      )?.[1]
      return name === undefined ? value : whole(components.schemas[name]!)
    })
  const takes = (method: string, path: string, body: unknown): boolean =>
    Compile(whole(paths[path]![method]!.requestBody.content['application/json']!.schema)).Check(body)
  const values = { offset: null, indices: null, mask: null, merge: null, values: [1] }
  const ops = [{ page: 'a', ...values }]
  t.ok(takes('put', '/v1/pages/{name}', { ...SOURCE, location: null, fill: null }))
  t.ok(takes('put', '/v1/pages/{name}', { derive: { ...REDUCE, axes: null }, dtype: null, shape: null }))
  t.ok(takes('post', '/v1/pages', { pages: [{ name: 'p', ...SOURCE, location: null }] }))
  t.ok(takes('patch', '/v1/pages/{name}/data', values))
  t.ok(takes('post', '/v1/transactions', { ops, expect: null, source: null, intent: null, key: null }))
  t.ok(takes('post', '/v1/verify', { from: null }))
  t.notOk(takes('post', '/v1/transactions', { ops: null }))
  t.notOk(takes('put', '/v1/pages/{name}', { ...SOURCE, dtype: null }))
  t.notOk(takes('put', '/v1/pages/{name}/data', { values: null }))
  const api = (await (await fetch(`http://127.0.0.1:${port}/asyncapi.json`)).json()) as {
    components: { messages: Record<string, { payload: TSchema }> }
  }
  const { subscribe, progress } = api.components.messages
  t.ok(Compile(subscribe!.payload).Check({ type: 'subscribe', id: 's', pages: ['a'], policy: null }))
  t.notOk(Compile(subscribe!.payload).Check({ type: 'subscribe', id: null, pages: ['a'] }))
  t.notOk(Compile(progress!.payload).Check({ type: 'progress', id: 's', epoch: null }))
})
