/**
 * Memory of WebSockets and event streams in all: messages on the way, floods of pings and fragments, readers
 * that do not read.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { LimitName } from '../../../src/operator-limits.js'
import { Client } from '../../stream/helpers.js'
import { listen, type Served, serve } from '../helpers.js'

const M = 2 ** 20

/** A WebSocket without a library, which keeps what it gets. */
async function raw(t: Test, port: number, protocol = 'mmsb.v1.json') {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => resolve())
  })
  socket.write(
    `GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: ${protocol}\r\n\r\n`,
  )
  await once(socket, 'data')
  const got: Buffer[] = []
  socket.on('data', (chunk) => got.push(chunk))
  return { socket, closed, got: () => Buffer.concat(got) }
}

/** A client's frame with a mask of zero; `first` has FIN and the opcode. */
function frame(first: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(payload.length < 126 ? 6 : 14)
  head[0] = first
  head[1] = 0x80 | (payload.length < 126 ? payload.length : 127)
  if (payload.length >= 126) head.writeUIntBE(payload.length, 4, 6)
  return Buffer.concat([head, payload])
}

const TEXT = 1
const CONTINUATION = 0
const FIN = 0x80
const PING = 9
const PONG = 10

const used = ({ bus }: Served, name: LimitName): number => new Map(bus.limits.uses()).get(name) as number

async function until(isTrue: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !isTrue(); i++) await sleep(10)
}

const write = (socket: Socket, bytes: Buffer): Promise<void> =>
  new Promise((resolve) => {
    socket.write(bytes, () => resolve())
  })

for (const protocol of ['mmsb.v1.json', 'mmsb.v1.bin']) {
  t.test(`half-sent messages share a budget, and give it back: ${protocol}`, async (t) => {
    const served = await serve(t, { limits: { messageBudgetBytes: 4 * M } })
    const { port } = await listen(served)
    const first = await raw(t, port, protocol)
    await write(first.socket, frame(TEXT, Buffer.alloc(3 * M, 0x20)))
    const opcode = protocol.endsWith('bin') ? 2 : TEXT
    await until(() => used(served, 'messageBudgetBytes') > 2 * M)
    const second = await raw(t, port, protocol)
    second.socket.write(frame(opcode, Buffer.alloc(3 * M, 0x20)))
    await until(() => second.got().length > 0)
    t.equal(second.got()[0], 0x88, 'a close frame')
    t.equal(second.got().readUInt16BE(2), 1013)
    t.match(second.got().subarray(4).toString(), /messages are in flight/)
    await second.closed
    first.socket.destroy()
    await until(() => used(served, 'messageBudgetBytes') === 0)
    t.equal(used(served, 'messageBudgetBytes'), 0)
    t.ok(new Map(served.bus.limits.refusals()).get('messageBudgetBytes') === 1)
  })
}

t.test('pings between the parts of a message hide nothing of it', async (t) => {
  const served = await serve(t, { limits: { messageBudgetBytes: M } })
  const { port } = await listen(served)
  const { socket, got } = await raw(t, port)
  const part = Buffer.alloc(50_000, 0x20)
  for (let i = 0; i < 30; i++) {
    await write(
      socket,
      Buffer.concat([frame(i === 0 ? TEXT : CONTINUATION, part), frame(FIN | PONG, Buffer.alloc(5))]),
    )
  }
  await until(() => used(served, 'messageBudgetBytes') > M)
  t.ok(used(served, 'messageBudgetBytes') > M, 'alone it may be larger')
  t.equal(got().length, 0)
  // Pings alone hold nothing.
  socket.destroy()
  const pinging = await raw(t, port)
  for (let i = 0; i < 100; i++)
    await write(pinging.socket, Buffer.concat(Array(200).fill(frame(FIN | PONG, Buffer.alloc(100)))))
  await until(() => used(served, 'messageBudgetBytes') === 0)
  t.equal(used(served, 'messageBudgetBytes'), 0)
})

t.test('a flood of pings whose answers nobody reads is cut off', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  const { socket, closed } = await raw(t, port)
  socket.pause()
  const before = process.memoryUsage().rss
  const pings = Buffer.concat(Array(10_000).fill(frame(FIN | PING, Buffer.alloc(125, 1))))
  let sent = 0
  while (!socket.destroyed && sent < 100) {
    sent++
    await Promise.race([write(socket, pings), closed])
    await sleep(1)
  }
  socket.resume()
  await closed
  t.ok(sent < 100, `cut off after ${sent} pieces`)
  t.ok(process.memoryUsage().rss - before < 64 * M)
  t.equal(used(served, 'maxConnections'), 0)
})

t.test('a flood of fragments is closed with 1008', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  const { socket, got, closed } = await raw(t, port)
  const fragments = Buffer.concat(Array(20_000).fill(frame(CONTINUATION, Buffer.from(' '))))
  socket.write(frame(TEXT, Buffer.from(' ')))
  socket.write(fragments)
  await until(() => got().length > 0)
  t.equal(got()[0], 0x88)
  t.equal(got().readUInt16BE(2), 1008)
  t.match(got().subarray(4).toString(), /too many fragments/)
  socket.destroy()
  await closed
  const other = await Client.open(port)
  t.teardown(() => other.socket.terminate())
  t.match(await other.ask({ type: 'subscribe', id: 's', pages: ['*'] }), { type: 'subscribed' })
})

t.test('readers that do not read share a budget; snapshots wait, and others are served', async (t) => {
  const limits = { streamBudgetBytes: 16 * M, idleTimeoutMs: 1_000 }
  const served = await serve(t, { limits })
  const { bus } = served
  const { port, url } = await listen(served)
  await bus.create('big', { dtype: 'f64', shape: [M / 2], fill: 0.123456789012 })
  await bus.create('small', { dtype: 'u8', shape: [4] })
  const subscribe = Buffer.from('{"type":"subscribe","id":"s","pages":["big"],"from":"snapshot"}')
  const stalled = await Promise.all(Array.from({ length: 6 }, () => raw(t, port)))
  let most = 0
  for (const { socket } of stalled) {
    socket.pause()
    socket.write(frame(FIN | TEXT, subscribe))
    // Each snapshot is of another epoch, so that nothing is shared.
    await sleep(30)
    await bus.patch('big', { offset: 0, values: [Math.random()] })
    most = Math.max(most, used(served, 'streamBudgetBytes'))
  }
  t.ok(most >= 16 * M && most < 32 * M, `${most} bytes were queued`)
  const events = new AbortController()
  const stream = await fetch(`${url}/v1/events?pages=small`, { signal: events.signal })
  t.equal(stream.status, 200)
  const good = await Client.open(port)
  t.teardown(() => good.socket.terminate())
  await good.ask({ type: 'subscribe', id: 'g', pages: ['small'] })
  await bus.patch('small', { offset: 0, values: [1] })
  await good.until(() => good.changes('g').length === 1)
  events.abort()
  good.send({ type: 'subscribe', id: 'late', pages: ['big'], from: 'snapshot' })
  await sleep(300)
  t.notOk(
    good.messages.some(({ id }) => id === 'late'),
    'a large snapshot waits',
  )
  for (const { socket } of stalled) socket.destroy()
  await good.until(() => good.messages.some(({ id, type }) => id === 'late' && type === 'snapshot'))
  await until(() => used(served, 'streamBudgetBytes') === 0)
  t.equal(used(served, 'streamBudgetBytes'), 0, 'all of it is given back')
})
