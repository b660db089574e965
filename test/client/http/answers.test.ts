/**
 * Answers that do not come from this server, and missing ones: each is reported with its code and
 * the address.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { type Client, connect } from '../../../src/client/node.js'

const CALLS: Readonly<Record<string, (bus: Client) => Promise<unknown>>> = {
  status: (bus) => bus.status(),
  page: (bus) => bus.page('a'),
  read: (bus) => bus.read('a'),
  readMany: (bus) => bus.readMany(['a']),
  patch: (bus) => bus.patch('a', { values: [1] }),
  transact: (bus) => bus.transact({ ops: [] }),
  whatIf: (bus) => bus.whatIf({ ops: [], read: ['a'] }),
  delete: (bus) => bus.delete('a'),
}

t.test('an answer that is not JSON of this server is PROTOCOL, for every call', async (t) => {
  let answer = ''
  let calls = 0
  const server = createServer((_request, response) => {
    calls++
    response.writeHead(200, { 'content-type': 'text/html' }).end(answer)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const bus = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  t.teardown(() => bus.close())
  for (const said of ['<html>a portal</html>', '', 'null', '5']) {
    answer = said
    for (const [name, call] of Object.entries(CALLS)) {
      await t.rejects(call(bus), { code: 'PROTOCOL', status: 0 }, `${name}: ${said}`)
    }
  }
  answer = '{"pages":{"a":{"dtype":"f16","values":[1]}}}'
  await t.rejects(bus.readMany(['a']), { code: 'PROTOCOL' })
  t.equal(calls, 4 * Object.keys(CALLS).length + 1, 'a repeat would not help')
  answer = '<html>a portal</html>'
  await t.rejects(bus.status(), {
    code: 'PROTOCOL',
    detail: /^GET http:.*\/v1\/status: the answer is not JSON .*a portal/,
  })
})

t.test('bytes that are no elements of the page are PROTOCOL', async (t) => {
  const headers = { 'mmsb-dtype': 'f64', 'mmsb-shape': '3', 'mmsb-epoch': '1', etag: '"v1"' }
  const bus = connect('http://x', { fetch: async () => new Response(new Uint8Array(7), { headers }) })
  t.teardown(() => bus.close())
  await t.rejects(bus.read('a'), { code: 'PROTOCOL', detail: /7 bytes/ })
})

t.test('no answer is NETWORK, with the address and the reason', async (t) => {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  const bus = connect(`http://127.0.0.1:${port}`, { retries: 0 })
  t.teardown(() => bus.close())
  const detail = new RegExp(`^GET http://127\\.0\\.0\\.1:${port}/v1/status: no answer: .*ECONNREFUSED`)
  await t.rejects(bus.status(), { code: 'NETWORK', status: 0, detail })
})
