/** Limits on HTTP requests in flight, and on WebSockets and event streams together. */
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { RETRY_AFTER_SECONDS } from '../../../src/limits.js'
import { Client } from '../../stream/helpers.js'
import { listen, type Served, serve } from '../helpers.js'

const HALF =
  'POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{'

async function halfSent(t: Test, port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  socket.write(HALF)
  return socket
}

const used = ({ bus }: Served): number => new Map(bus.limits.uses()).get('maxOpenRequests') as number

async function until(isTrue: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !isTrue(); i++) await sleep(10)
}

t.test('requests in flight: more are refused, health is not, and they end', async (t) => {
  const served = await serve(t, { limits: { maxOpenRequests: 3 } })
  const { port, url } = await listen(served)
  const held = await Promise.all([1, 2, 3].map(() => halfSent(t, port)))
  await until(() => used(served) === 3)
  const refused = await fetch(`${url}/v1/status`)
  t.equal(refused.status, 503)
  t.equal(Number(refused.headers.get('retry-after')), RETRY_AFTER_SECONDS)
  t.match(await refused.json(), { code: 'OVERLOADED', limit: '--max-open-requests', max: 3 })
  for (const path of ['/livez', '/readyz', '/startupz'])
    t.equal((await fetch(`${url}${path}`)).status, 200, path)
  held[0]?.destroy()
  await until(() => used(served) === 2)
  t.equal((await fetch(`${url}/v1/status`)).status, 200)
  for (const socket of held) socket.destroy()
  await until(() => used(served) === 0)
  t.equal(used(served), 0, 'all are given back')
})

t.test('an event stream is a connection, and no request in flight', async (t) => {
  const served = await serve(t, { limits: { maxOpenRequests: 2, maxConnections: 2 } })
  const { port, url } = await listen(served)
  const events = new AbortController()
  const stream = await fetch(`${url}/v1/events?pages=a`, { signal: events.signal })
  t.equal(stream.status, 200)
  await until(() => used(served) === 0)
  t.equal(used(served), 0)
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  const full = { code: 'OVERLOADED', limit: '--max-connections', max: 2 }
  const third = await fetch(`${url}/v1/events?pages=a`)
  t.equal(third.status, 503)
  t.match(await third.json(), full)
  const refused = connect(port, '127.0.0.1')
  t.teardown(() => refused.destroy())
  refused.write(
    'GET /v1/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  )
  t.match(String((await once(refused, 'data'))[0]), /^HTTP\/1\.1 503 .*--max-connections/s)
  events.abort()
  await until(() =>
    served.bus.limits.uses().some(([name, value]) => name === 'maxConnections' && value === 1),
  )
  const later = await Client.open(port)
  later.socket.terminate()
  t.equal(used(served), 0, 'neither is one that has ended')
})

t.test('one connection serves one request after the other, until the server stops', async (t) => {
  const { port } = await listen(await serve(t))
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const ports: (number | undefined)[] = []
  for (let i = 0; i < 3; i++) {
    const asked = get({ port, host: '127.0.0.1', path: '/livez', agent })
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    t.equal(response.headers.connection, 'keep-alive')
    ports.push(asked.socket?.localPort)
    await once(response.resume(), 'end')
  }
  t.equal(new Set(ports).size, 1)
})
