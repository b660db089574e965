/**
 * The connections of a server, with a plain HTTP server whose answers the test gives: what is counted, what
 * another server takes over, and how a stop ends each of them. The clock of the stop is the test's.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, createServer as createListener, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Connections } from '../../src/http/request/connections.js'
import { STOP_ARRIVAL_GRACE_MS } from '../../src/limits.js'
import { sleep, turns, until } from '../lib/wait.js'

const GRACE = STOP_ARRIVAL_GRACE_MS
/** Long enough for a few checks of a stopping server. */
const CHECKS_MS = GRACE / 2

interface Asked {
  readonly request: IncomingMessage
  readonly response: ServerResponse
}

/** A client that keeps what it hears. */
interface Peer {
  readonly socket: Socket
  readonly heard: () => string
  readonly isOpen: () => boolean
  ask(path: string, head?: string, body?: string): void
}

async function peerOf(t: Test, port: number): Promise<Peer> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  let heard = ''
  let isOpen = true
  socket.on('data', (chunk) => {
    heard += String(chunk)
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    isOpen = false
  })
  await once(socket, 'connect')
  return {
    socket,
    heard: () => heard,
    isOpen: () => isOpen,
    ask: (path, head = '', body = '') =>
      socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n${head}\r\n${body}`),
  }
}

/** A server that listens, and the requests that it got. */
async function started(t: Test, isListening = true) {
  const asked: Asked[] = []
  const server = createServer()
  const connections = new Connections(server)
  server.on('request', (request, response) => asked.push({ request, response }))
  if (isListening) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
  }
  t.teardown(() => {
    connections.cutOff()
    server.close()
  })
  const port = (): number => (server.address() as AddressInfo).port
  return {
    server,
    connections,
    asked,
    port,
    peer: () => peerOf(t, port()),
    /** Resolves with the request of this number, once it is there. */
    got: async (number: number): Promise<Asked> => {
      await until(() => asked.length > number, `request ${number}`)
      return asked[number]!
    },
  }
}

const isRefused = async (port: number): Promise<boolean> => {
  const socket = connect(port, '127.0.0.1')
  const how = await Promise.race([
    once(socket, 'connect').then(() => false),
    once(socket, 'error').then(() => true),
  ]).catch(() => true)
  socket.destroy()
  return how
}

t.test('requests count until they are answered, or their clients are gone', async (t) => {
  const { connections, peer, got } = await started(t)
  const [a, b] = [await peer(), await peer()]
  t.equal(connections.count, 0)
  a.ask('/1')
  const first = await got(0)
  b.ask('/2')
  const second = await got(1)
  t.equal(connections.count, 2)
  t.equal(connections.pendingResponse(first.request.socket), first.response)
  first.response.end('one')
  await until(() => a.heard().endsWith('one'), 'the answer')
  await until(() => connections.count === 1, 'it counts no more')
  t.equal(connections.pendingResponse(first.request.socket), undefined)
  t.equal(connections.pendingResponse(second.request.socket), second.response)
  b.socket.destroy()
  await until(() => connections.count === 0, 'its client is gone')
  a.ask('/3')
  const third = await got(2)
  t.equal(third.request.socket, first.request.socket)
  t.equal(connections.count, 1)
  a.ask('/4')
  const fourth = await got(3)
  t.equal(connections.pendingResponse(third.request.socket), fourth.response, 'the newest')
  third.response.end('three')
  await until(() => a.heard().endsWith('three'), 'the answer')
  await turns()
  t.same([connections.count, connections.pendingResponse(third.request.socket)], [1, fourth.response])
})

t.test('one that is excluded counts no more, and is not counted down twice', async (t) => {
  const { connections, peer, got } = await started(t)
  const [a, b] = [await peer(), await peer()]
  a.ask('/1')
  const { response } = await got(0)
  b.ask('/2')
  const other = await got(1)
  connections.exclude(response)
  connections.exclude(response)
  t.equal(connections.count, 1)
  response.end('x')
  await once(response, 'close')
  t.equal(connections.count, 1)
  connections.exclude(response)
  t.equal(connections.count, 1, 'it has ended already')
  other.response.end('x')
  await once(other.response, 'close')
  t.equal(connections.count, 0)
})

t.test('a connection that upgrades is not followed any more', async (t) => {
  const { connections, peer, server } = await started(t)
  const client = await peer()
  const upgraded = once(server, 'upgrade')
  client.ask('/', 'connection: Upgrade\r\nupgrade: other\r\n')
  const [, socket] = (await upgraded) as [unknown, Socket]
  connections.cutOff()
  await turns()
  t.equal(socket.destroyed, false)
  socket.destroy()
  const left = await peer()
  await until(() => left.isOpen(), 'it is there')
  await sleep(5)
  connections.cutOff()
  await until(() => !left.isOpen(), 'any other is cut off')
})

t.test('another address leads to the same server', async (t) => {
  const { connections, got, port } = await started(t)
  const first = port()
  const busy = createListener()
  busy.listen(0, '127.0.0.1')
  await once(busy, 'listening')
  const taken = (busy.address() as AddressInfo).port
  await t.rejects(connections.listenAlso('127.0.0.1', taken), { code: 'EADDRINUSE' })
  busy.close()
  await once(busy, 'close')
  await connections.listenAlso('127.0.0.1', taken)
  const client = await peerOf(t, taken)
  client.ask('/there')
  const { request, response } = await got(0)
  t.equal(request.url, '/there')
  response.end()
  await connections.stop()
  t.same(await Promise.all([taken, first].map(isRefused)), [true, true])
})

t.test(
  'an answer never waits in the system for more bytes, whichever listener took its connection',
  async (t) => {
    const { connections, got, port } = await started(t)
    const probe = createListener()
    probe.listen(0, '127.0.0.1')
    await once(probe, 'listening')
    const other = (probe.address() as AddressInfo).port
    probe.close()
    await once(probe, 'close')
    await connections.listenAlso('127.0.0.1', other)
    const first = await peerOf(t, port())
    first.ask('/0')
    const { request, response } = await got(0)
    response.end()
    const { _handle: handle } = request.socket as unknown as { _handle: { setNoDelay(is: boolean): void } }
    const calls = t.capture(Object.getPrototypeOf(handle), 'setNoDelay', handle.setNoDelay)
    for (const [i, at] of [port(), other].entries()) {
      const peer = await peerOf(t, at)
      peer.ask(`/${i + 1}`)
      const { response } = await got(i + 1)
      response.end()
      t.same(
        calls().map(({ args }) => args[0]),
        [true],
        `listener ${i}`,
      )
    }
    await connections.stop()
  },
)

t.test('another server takes over what is open, and each request is answered once', async (t) => {
  const before = await started(t)
  const after = await started(t, false)
  const old = await before.peer()
  old.ask('/1')
  ;(await before.got(0)).response.end('one')
  await until(() => old.heard().endsWith('one'), 'the first answer')
  const also = await started(t)
  const second = also.port()
  also.server.close()
  await once(also.server, 'close')
  await before.connections.listenAlso('127.0.0.1', second)
  const port = before.port()

  await after.connections.takeOver(before.connections)
  old.ask('/2')
  const taken = await after.got(0)
  t.equal(taken.request.url, '/2')
  t.equal(before.asked.length, 1, 'nobody else sees it')
  t.equal(after.connections.pendingResponse(taken.request.socket), taken.response)
  t.equal(after.connections.count, 1)
  taken.response.end('two')
  await until(() => old.heard().endsWith('two'), 'the answer on the old connection')
  // Nobody listens for it, so the request is one like any other.
  old.ask('/3', 'expect: 100-continue\r\n')
  const third = await after.got(1)
  third.response.end('three')
  await until(() => old.heard().endsWith('three'), 'its answer')
  t.match(old.heard(), /100 Continue/)
  for (const [i, at] of [port, second].entries()) {
    const fresh = await peerOf(t, at)
    fresh.ask(`/fresh${i}`)
    const { request, response } = await after.got(2 + i)
    t.equal(request.url, `/fresh${i}`)
    response.end()
  }
  t.equal(before.asked.length, 1)
  const upgraded = once(after.server, 'upgrade')
  old.ask('/4', 'connection: Upgrade\r\nupgrade: other\r\n')
  const [{ url }, socket] = (await upgraded) as [IncomingMessage, Socket]
  t.equal(url, '/4')
  socket.destroy()
  await after.connections.stop()
  t.same(await Promise.all([port, second].map(isRefused)), [true, true], 'it stops all of them')
})

t.test('it hands over requests that ask before they send a body', async (t) => {
  const before = await started(t)
  const after = await started(t, false)
  const asked: string[] = []
  const listen = (server: Server, name: string): void => {
    server.on('checkContinue', (request, response) => {
      asked.push(`${name} ${request.url}`)
      response.writeContinue()
      response.end()
    })
  }
  listen(before.server, 'before')
  listen(after.server, 'after')
  const client = await before.peer()
  await until(() => client.isOpen(), 'it is there')
  client.ask('/0', 'expect: 100-continue\r\n')
  await until(() => asked.length === 1, 'the first')
  await after.connections.takeOver(before.connections)
  client.ask('/1', 'expect: 100-continue\r\n')
  await until(() => asked.length >= 2, 'the second')
  t.same(asked, ['before /0', 'after /1'])
})

/** A clock that only the test moves. */
function frozen(t: Test): { nowMs: number } {
  const clock = { nowMs: 1_000_000 }
  t.intercept(performance, 'now', { value: () => clock.nowMs })
  return clock
}

t.test('a stop answers what was asked, and closes silent connections when their time is over', async (t) => {
  const clock = frozen(t)
  const { connections, peer, got, port, asked } = await started(t)
  const at = port()
  const [silent, asking, open, pipelined] = [await peer(), await peer(), await peer(), await peer()]
  asking.ask('/1')
  const first = await got(0)
  open.ask('/2')
  const second = await got(1)
  second.response.write('part, ')
  pipelined.ask('/3')
  const third = await got(2)
  let isStopped = false
  const stopped = connections.stop().then(() => {
    isStopped = true
  })
  await until(() => isRefused(at), 'it does not listen any more')
  t.equal(first.response.getHeader('connection'), 'close')
  t.equal(third.response.getHeader('connection'), 'close')
  pipelined.ask('/4')
  const fourth = await got(3)
  t.equal(third.response.getHeader('connection'), undefined, 'another answer follows')
  t.equal(fourth.response.getHeader('connection'), 'close')
  clock.nowMs += GRACE - 1
  await sleep(CHECKS_MS)
  t.equal(silent.isOpen(), true, 'its request may be on its way')
  clock.nowMs += 1
  await until(() => !silent.isOpen(), 'it is over')
  clock.nowMs += 10 * GRACE
  await sleep(CHECKS_MS)
  t.same(
    [asking, open, pipelined].map(({ isOpen }) => isOpen()),
    [true, true, true],
    'an answer has time',
  )
  t.equal(isStopped, false)
  first.response.end('one')
  second.response.end('rest')
  third.response.end('three')
  fourth.response.end('four')
  await until(() => !asking.isOpen() && !pipelined.isOpen(), 'answered')
  t.match(asking.heard(), /connection: close[\s\S]*one$/i)
  t.match(pipelined.heard(), /three[\s\S]*connection: close[\s\S]*four$/i)
  await until(() => open.heard().includes('rest'), 'all of it')
  t.equal(open.isOpen(), true, 'it does not know that it is the last')
  clock.nowMs += GRACE
  await stopped
  t.equal(asked.length, 4)
})

t.test('a stop waits for a body as long as it arrives', async (t) => {
  const clock = frozen(t)
  const { connections, peer, got } = await started(t)
  const client = await peer()
  client.ask('/1', 'content-length: 10\r\n', 'a')
  const { request, response } = await got(0)
  const read = (): number => request.socket.bytesRead
  request.resume()
  const stopped = connections.stop()
  await sleep(CHECKS_MS)
  for (const letter of 'bcd') {
    clock.nowMs += GRACE - 1
    const before = read()
    client.socket.write(letter)
    await until(() => read() > before, 'a part of the body')
    await sleep(CHECKS_MS)
    t.equal(client.isOpen(), true, letter)
  }
  clock.nowMs += GRACE
  await until(() => !client.isOpen(), 'it arrives no more')
  t.equal(response.closed, true)
  await stopped
})
