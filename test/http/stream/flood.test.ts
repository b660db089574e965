/**
 * Clients that send too fast, never read, fall silent or ask for too much: memory stays bounded, and other
 * clients are served.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { WebSocket } from 'ws'
import { REAL_HOST } from '../../../src/engine/host.js'
import { STREAM_BYTES_IN_FLIGHT_MAX, STREAM_QUEUE_MAX_BYTES } from '../../../src/limits.js'
import { OPERATOR_LIMITS } from '../../../src/operator-limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { type Disk, realDisk } from '../../../src/store/os/disk.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../../src/wire/limits.js'
import { folder } from '../../lib/folder.js'
import { sleep, until } from '../../lib/wait.js'
import { decodeMessages } from '../../stream/binary.js'
import { Client } from '../../stream/helpers.js'
import { listen, serve } from '../helpers.js'

const SUBSCRIPTIONS_MAX = OPERATOR_LIMITS.maxSubscriptionsPerConnection.standard

const MiB = 1024 ** 2

/** A WebSocket without a library: writes go out at once, and nothing is read until the test asks. */
async function rawSocket(port: number, protocol: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.write(
    `GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: ${protocol}\r\n\r\n`,
  )
  await once(socket, 'data')
  socket.pause()
  return socket
}

/** A client's frame with a mask of zero. */
function masked(opcode: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(payload.length < 65_536 ? 8 : 14)
  head[0] = 0x80 | opcode
  head[1] = 0x80 | (payload.length < 65_536 ? 126 : 127)
  if (payload.length < 65_536) head.writeUInt16BE(payload.length, 2)
  else head.writeUIntBE(payload.length, 4, 6)
  return Buffer.concat([head, payload])
}

/** The real disk; its writes wait while it is shut. */
function gatedDisk() {
  const real = realDisk()
  const held: (() => void)[] = []
  let isShut = false
  const disk: Disk = {
    ...real,
    write: (...args) => {
      if (isShut) held.push(() => real.write(...args))
      else real.write(...args)
    },
  }
  return {
    world: { ...REAL_HOST, store: { disk } },
    shut: () => {
      isShut = true
    },
    open: () => {
      isShut = false
      for (const write of held.splice(0)) write()
    },
  }
}

t.test('a writer ahead of the commits is not read from until they have caught up', async (t) => {
  const dataDir = folder(t)
  const disk = gatedDisk()
  const served = await serve(t, { dataDir }, {}, disk.world)
  t.teardown(disk.open)
  const { bus } = served
  const { port } = await listen(served)
  await bus.create('wide', { dtype: 'u8', shape: [MiB] })
  const { id } = bus.page('wide')
  const writer = new FrameWriter()
  writer.delta(id, 'u8', MiB, { offset: 0, values: new Uint8Array(MiB).fill(7) })
  const frame = Buffer.from(writer.finish())
  const client = await Client.open(port, ['mmsb.v1.bin'])
  t.teardown(() => client.socket.terminate())
  const other = await Client.open(port)
  t.teardown(() => other.socket.terminate())
  const count = 100
  disk.shut()
  for (let i = 0; i < count; i++) client.send(frame)
  await until(() => bus.stats().queue.bytes > STREAM_BYTES_IN_FLIGHT_MAX / 2, 'half of what may be in flight')
  let taken = 0
  for (let calmMs = 0; calmMs < 500; calmMs += 20) {
    await sleep(20)
    const { bytes } = bus.stats().queue
    if (bytes !== taken) calmMs = 0
    taken = bytes
  }
  t.ok(taken > STREAM_BYTES_IN_FLIGHT_MAX / 2, `${taken} bytes were taken`)
  t.ok(taken <= STREAM_BYTES_IN_FLIGHT_MAX + 2 * MiB, 'and no more than may be in flight')
  t.ok(client.socket.bufferedAmount > (count / 2) * MiB, 'the rest waits with the writer')
  const asked = other.ask({ type: 'transaction', id: 't', ops: [{ page: 'wide', values: [1] }] })
  disk.open()
  t.match(await asked, { type: 'ack' })
  const acked = () => client.binary.flatMap(decodeMessages).reduce((sum, { count = 0 }) => sum + count, 0)
  await client.until(() => acked() === count, 'all acks')
})

t.test('a client that never reads its answers is not read from either', async (t) => {
  const served = await serve(t)
  const { bus } = served
  const { port } = await listen(served)
  await bus.create('p', { dtype: 'u8', shape: [4] })
  const flooder = await rawSocket(port, 'mmsb.v1.json')
  t.teardown(() => flooder.destroy())
  // Each gets an error of about 200 bytes as its answer.
  const piece = Buffer.concat(Array(1000).fill(masked(1, Buffer.from('x'.repeat(130)))))
  let sent = 0
  let stuckMs = 0
  while (stuckMs < 1000 && sent < 4 * STREAM_QUEUE_MAX_BYTES) {
    if (flooder.writableLength < MiB) {
      flooder.write(piece)
      sent += piece.length
      stuckMs = 0
      await sleep(0)
    } else {
      await sleep(10)
      stuckMs += 10
    }
  }
  t.ok(sent < 4 * STREAM_QUEUE_MAX_BYTES, `stuck after ${sent} bytes`)
  const other = await Client.open(port)
  t.teardown(() => other.socket.terminate())
  t.match(await other.ask({ type: 'transaction', id: 't', ops: [{ page: 'p', values: [1] }] }), {
    type: 'ack',
  })
  const wanted = sent / (piece.length / 1000)
  let answers = 0
  let last = ''
  flooder.on('data', (chunk: Buffer) => {
    const text = last + chunk.toString('latin1')
    answers += text.split('"type":"error"').length - 1
    last = text.slice(-13)
  })
  flooder.resume()
  for (let waitedMs = 0; answers < wanted && waitedMs < 20_000; waitedMs += 20) await sleep(20)
  t.equal(answers, wanted, 'every message is answered in the end')
})

t.test('a client that falls silent is dropped, one that answers stays', async (t) => {
  const served = await serve(t, {}, { pingIntervalMs: 600 })
  const { port } = await listen(served)
  const good = await Client.open(port)
  t.teardown(() => good.socket.terminate())
  const silent = await Client.open(port, ['mmsb.v1.json'], { autoPong: false })
  await silent.ask({ type: 'subscribe', id: 's', pages: ['*'] })
  const [code] = await once(silent.socket, 'close')
  t.equal(code, 1006, 'cut off: nobody is there to say goodbye to')
  const half = await rawSocket(port, 'mmsb.v1.bin')
  half.resume()
  await once(half, 'close')
  await sleep(1_300)
  t.equal(good.socket.readyState, WebSocket.OPEN)
  t.match(await good.ask({ type: 'subscribe', id: 's', pages: ['*'] }), { type: 'subscribed' })
  const { subscriptions } = (await served.call('GET', '/v1/stats')).body as {
    subscriptions: { connections: number; subscriptions: number }
  }
  t.match(subscriptions, { connections: 1, subscriptions: 1 }, 'nothing of them is left')
})

t.test('10,000 subscriptions on one connection: so many are there, the rest are refused', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  const count = 10_000
  for (let i = 0; i < count; i++) client.send({ type: 'subscribe', id: `s${i}`, pages: [`p${i}.*`, 'q'] })
  await client.until(() => client.messages.length === count)
  const refused = client.messages.filter(({ code }) => code === 'QUOTA_EXCEEDED')
  t.equal(refused.length, count - SUBSCRIPTIONS_MAX)
  await served.bus.create('q', { dtype: 'u8', shape: [1] })
  const changes = () => client.messages.filter(({ type }) => type === 'change')
  await client.until(() => changes().length === SUBSCRIPTIONS_MAX)
  client.socket.terminate()
  for (let i = 0; i < 100 && served.bus.stats().epoch === 1; i++) {
    const { subscriptions } = (await served.call('GET', '/v1/stats')).body as {
      subscriptions: { subscriptions: number }
    }
    if (subscriptions.subscriptions === 0) break
    await sleep(20)
  }
  t.match((await served.call('GET', '/v1/stats')).body, { subscriptions: { subscriptions: 0 } })
})

t.test('what breaks the protocol closes the connection, with a code and a reason', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  const cases: [string, Buffer, number, RegExp][] = [
    ['too large a message', masked(2, Buffer.alloc(STREAM_MESSAGE_MAX_BYTES + 1)), 1009, /larger than/],
    ['text that is not UTF-8', masked(1, Buffer.from([0xff])), 1007, /UTF-8/],
    ['an opcode that does not exist', masked(5, Buffer.alloc(1)), 1002, /protocol/],
    ['a frame without a mask', Buffer.from([0x81, 1, 0x78]), 1002, /protocol/],
  ]
  for (const [what, bytes, code, reason] of cases) {
    const socket = await rawSocket(port, 'mmsb.v1.bin')
    socket.on('error', () => {})
    socket.resume()
    socket.write(bytes)
    const [close] = (await once(socket, 'data')) as [Buffer]
    t.equal(close[0], 0x88, `${what}: a close frame`)
    t.equal(close.readUInt16BE(2), code, what)
    t.match(close.subarray(4).toString(), reason)
    socket.destroy()
  }
})
