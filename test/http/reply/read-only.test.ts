/** A server whose bus is opened for reading only: each of its doors refuses writes with READ_ONLY. */
import t from 'tap'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { folder } from '../../lib/folder.js'
import { decodeMessages } from '../../stream/binary.js'
import { Client } from '../../stream/helpers.js'
import { isProblem, listen, type Method, serve } from '../helpers.js'

const WRITES: readonly [Method, string, unknown?][] = [
  ['PUT', '/v1/pages/b', { dtype: 'u8', shape: [1] }],
  ['POST', '/v1/pages', { pages: [] }],
  ['DELETE', '/v1/pages/a'],
  ['DELETE', '/v1/pages/none'],
  ['PATCH', '/v1/pages/a/data', { values: [1] }],
  ['PATCH', '/v1/pages/a/data', Buffer.alloc(4)],
  ['PATCH', '/v1/pages/a/data', 'not JSON'],
  ['PUT', '/v1/pages/a/data', { values: [1, 2, 3, 4] }],
  ['POST', '/v1/transactions', { ops: [{ page: 'a', values: [1] }] }],
  ['PUT', '/v1/functions/f', { params: ['x'], expr: 'x' }],
  ['DELETE', '/v1/functions/f'],
  ['POST', '/v1/checkpoints'],
  ['DELETE', '/v1/subscriptions/s'],
]

t.test('every route that writes is READ_ONLY; those that read say what they always say', async (t) => {
  const dataDir = folder(t)
  const writer = await serve(t, { dataDir, fsync: 'off' })
  await writer.call('PUT', '/v1/pages/a', { dtype: 'f32', shape: [4] })
  await writer.call('PATCH', '/v1/pages/a/data', { values: [5] })
  const listed: string[] = []
  for (const [path, methods] of Object.entries((await writer.call('GET', '/openapi.json')).body.paths!))
    for (const method of Object.keys(methods as object)) listed.push(`${method.toUpperCase()} ${path}`)
  t.equal((await writer.call('GET', '/readyz')).body.readOnly, false)
  await writer.server.close()
  await writer.bus.close()

  const served = await serve(t, { dataDir, readOnly: true })
  const { call } = served
  for (const [method, url, body] of WRITES)
    isProblem(t, await call(method, url, body), 'READ_ONLY', `${method} ${url}`)
  const tried = new Set(
    WRITES.map(
      ([method, url]) => `${method} ${url.replace(/(pages|functions|subscriptions)\/\w+/, '$1/{name}')}`,
    ),
  )
  const untried = listed.filter((route) => !route.startsWith('GET ') && !tried.has(route))
  t.same(
    untried.sort(),
    ['POST /v1/tickets', 'POST /v1/verify', 'POST /v1/whatif'],
    'every other route only reads',
  )

  t.match((await call('GET', '/readyz')).body, { ready: true, epoch: 2, readOnly: true })
  t.match((await call('GET', '/v1/status')).body, { epoch: 2, readOnly: true, state: 'ready' })
  t.match((await call('POST', '/v1/verify')).body, { ok: true })
  const ops = [{ page: 'a', offset: 0, values: [9] }]
  t.match((await call('POST', '/v1/whatif', { ops, read: ['a'] })).body.pages, {
    a: { values: [9, 0, 0, 0] },
  })
  t.equal((await call('POST', '/v1/nothing')).status, 404)
})

t.test('the stream delivers, and refuses transactions, frames and durable subscriptions', async (t) => {
  const dataDir = folder(t)
  const writer = await serve(t, { dataDir, fsync: 'off' })
  await writer.bus.create('a', { dtype: 'f32', shape: [4] })
  await writer.bus.patch('a', { values: [5] })
  const frame = new FrameWriter({})
  frame.delta(writer.bus.page('a').id, 'f32', 4, { offset: 0, values: [1] })
  await writer.server.close()
  await writer.bus.close()

  const { port } = await listen(await serve(t, { dataDir, readOnly: true }))
  const connect = async (protocol: string): Promise<Client> => {
    const client = await Client.open(port, [protocol])
    t.teardown(() => client.socket.terminate())
    return client
  }
  const client = await connect('mmsb.v1.json')
  client.send({ type: 'subscribe', id: 's', pages: ['a'], from: 1 })
  const change = await client.next(({ type }) => type === 'change')
  t.match(change, { id: 's', epoch: 2, changes: [{ page: 'a', values: [5] }] })
  const writes = [
    { type: 'subscribe', id: 'd', pages: ['a'], durable: 'reader' },
    { type: 'transaction', id: 't', ops: [{ page: 'a', values: [1] }] },
  ]
  for (const write of writes) {
    t.match(await client.ask(write), { type: 'error', id: write.id, code: 'READ_ONLY' })
  }
  const binary = await connect('mmsb.v1.bin')
  binary.socket.send(frame.finish())
  await binary.until(() => binary.binary.length > 0, 'the refusal')
  t.match(binary.binary.flatMap(decodeMessages), [{ type: 'refusal', sequence: 1, code: 'READ_ONLY' }])
})
