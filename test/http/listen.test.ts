/** A name with two addresses, as `localhost` often has: the server listens on both and stops both. */
import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { boundPort } from '../../src/http/framework.js'
import { sleep, turn } from '../lib/wait.js'
import { Client } from '../stream/helpers.js'
import { SOURCE, serve } from './helpers.js'

const HEAD = 'PUT /v1/pages/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'

t.test('both addresses, and what is under way on either when the server stops', async (t) => {
  const { server, bus } = await serve(t)
  await server.listen('localhost', 0, async () => ['127.0.0.1', '::1', '203.0.113.7'])
  const port = boundPort(server.app)!
  for (const host of ['127.0.0.1', '[::1]']) {
    t.equal((await fetch(`http://${host}:${port}/livez`)).status, 200, host)
  }
  const talk = async (host: string, ...pieces: readonly string[]): Promise<string> => {
    const socket = connect(port, host)
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    const closed = once(socket, 'close')
    for (const piece of pieces) {
      socket.write(piece)
      await sleep(100)
    }
    await closed
    return text
  }
  t.match(await talk('::1', 'nonsense\r\n\r\n'), /^HTTP\/1\.1 400 [\s\S]*"INVALID_REQUEST"/)
  const client = await Client.open(port)
  const body = JSON.stringify(SOURCE)
  const underWay = ['127.0.0.1', '::1'].map((host) =>
    talk(host, `${HEAD}Content-Length: ${body.length}\r\n\r\n`, body.slice(0, 9), body.slice(9)),
  )
  const silent = talk('::1', '')
  await sleep(50)
  await server.close()
  for (const answer of underWay) t.match(await answer, /^HTTP\/1\.1 20[01] [\s\S]*connection: close/i)
  t.equal(await silent, '')
  t.equal(bus.page('a').dtype, 'f32')
  t.equal(client.socket.readyState, client.socket.CLOSED)
  for (const host of ['127.0.0.1', '::1']) {
    const [error] = (await once(connect(port, host), 'error')) as [NodeJS.ErrnoException]
    t.equal(error.code, 'ECONNREFUSED', host)
  }
})

t.test('the first address cannot be had', async (t) => {
  const { server } = await serve(t)
  await t.rejects(
    server.listen('name', 0, async () => ['203.0.113.7', '127.0.0.1']),
    { code: 'EADDRNOTAVAIL' },
  )
  await t.rejects(server.listen('no such name', 0))
  await server.listen('localhost', 0)
  t.equal((await fetch(`http://localhost:${boundPort(server.app)}/livez`)).status, 200)
})

t.test('a turn of the event loop accepts several clients', async (t) => {
  const { server } = await serve(t)
  await server.listen('127.0.0.1', 0)
  const port = boundPort(server.app)!
  const clients = 60
  const sockets = Array.from({ length: clients }, () => connect(port, '127.0.0.1'))
  t.teardown(() => sockets.forEach((socket) => void socket.destroy()))
  let accepted = 0
  let inTurn = 0
  let most = 0
  server.app.server.on('connection', () => {
    accepted++
    inTurn++
  })
  for (let turns = 0; accepted < clients && turns < 10_000; turns++) {
    await turn()
    most = Math.max(most, inTurn)
    inTurn = 0
    // The kernel has the time to connect the others.
    await sleep(accepted === 0 ? 0 : 1)
  }
  t.equal(accepted, clients)
  t.ok(most >= 8, `${most} in one turn`)
  await server.close()
  const [error] = (await once(connect(port, '127.0.0.1'), 'error')) as [NodeJS.ErrnoException]
  t.equal(error.code, 'ECONNREFUSED')
})
