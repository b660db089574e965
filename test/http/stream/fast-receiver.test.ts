/**
 * The fast path takes small binary messages and leaves everything else to `ws`, wherever the bytes are cut.
 */
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { connect } from 'node:net'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import type { AppOptions } from '../../../src/http/app.js'
import { FastReceiver } from '../../../src/http/stream/fast-receiver.js'
import { STREAM_SMALL_MESSAGE_MAX_BYTES } from '../../../src/limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { ROOT } from '../../lib/place.js'
import { sleep, turn } from '../../lib/wait.js'
import { decodeMessages } from '../../stream/binary.js'
import { listen, serve } from '../helpers.js'

const [CONTINUATION, TEXT, BINARY, CLOSE, PING] = [0, 1, 2, 8, 9]
const FIN = 0x80

/** A client's WebSocket frame. */
function clientFrame(first: number, payload: Uint8Array, mask = 0x51c2_0a93): Buffer {
  const length = payload.length
  const size = length < 126 ? 2 : length < 65_536 ? 4 : 10
  const head = Buffer.alloc(size + 4)
  head[0] = first
  head[1] = 0x80 | (length < 126 ? length : length < 65_536 ? 126 : 127)
  if (size === 4) head.writeUInt16BE(length, 2)
  if (size === 10) head.writeUIntBE(length, 4, 6)
  head.writeUInt32BE(mask, size)
  const key = head.subarray(size)
  return Buffer.concat([head, payload.map((byte, i) => byte ^ key[i % 4]!)])
}

function deltaFrame(pageId: number, offset: number, count: number): Uint8Array {
  const writer = new FrameWriter()
  writer.delta(pageId, 'f32', 2 ** 20, { offset, values: new Float32Array(count).fill(1), merge: 'add' })
  return Uint8Array.from(writer.finish())
}

/** Events in order, as text: a frame or message taken, or bytes passed to the library. */
type Event = { readonly taken: string } | { readonly passed: Buffer }

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Frames in one chunk are separated again. */
function takenEvents(frames: Uint8Array): Event[] {
  const view = Buffer.from(frames)
  const list: Event[] = []
  for (let at = 0; at < view.length; ) {
    const isFrame = view.length - at >= 32 && view.readUInt32LE(at) === 0x3146_534d
    const end = isFrame ? Math.min(view.length, at + view.readUInt32LE(at + 4)) : view.length
    list.push({ taken: hex(view.subarray(at, end)) })
    at = end
  }
  return list
}

/** Merges adjacent chunks that went to the library. */
function merged(events: readonly Event[]): string[] {
  const list: string[] = []
  let passed: Buffer[] = []
  const close = (): void => {
    if (passed.length > 0) list.push(`passed ${hex(Buffer.concat(passed))}`)
    passed = []
  }
  for (const event of events) {
    if ('passed' in event) passed.push(event.passed)
    else {
      close()
      list.push(`taken ${event.taken}`)
    }
  }
  close()
  return list
}

interface Sent {
  readonly bytes: Buffer
  readonly event: Event
}

const passing = (bytes: Buffer): Sent => ({ bytes, event: { passed: bytes } })
const taking = (payload: Uint8Array): Sent[] =>
  takenEvents(payload).length === 1
    ? [{ bytes: clientFrame(FIN | BINARY, payload), event: { taken: hex(payload) } }]
    : []

const small = fc
  .tuple(fc.nat(9), fc.integer({ min: 1, max: 40 }))
  .map(([at, n]) => taking(deltaFrame(1, at, n)))
const garbage = fc.uint8Array({ minLength: 1, maxLength: 20 }).map((bytes) => taking(bytes))
const text = fc.uint8Array({ maxLength: 200 }).map((bytes) => [passing(clientFrame(FIN | TEXT, bytes))])
const ping = fc.uint8Array({ maxLength: 9 }).map((bytes) => [passing(clientFrame(FIN | PING, bytes))])
const large = fc
  .nat(20)
  .map((n) => [passing(clientFrame(FIN | BINARY, new Uint8Array(STREAM_SMALL_MESSAGE_MAX_BYTES + 1 + n)))])
const inParts = fc
  .tuple(fc.constantFrom(TEXT, BINARY), fc.array(fc.nat(9), { maxLength: 3 }))
  .map(([opcode, middle]) => [
    passing(clientFrame(opcode, new Uint8Array(3))),
    ...middle.map((n) => passing(clientFrame(CONTINUATION, new Uint8Array(n)))),
    // Not allowed here, so the library must refuse it; and a ping, which is allowed.
    passing(clientFrame(FIN | BINARY, deltaFrame(1, 0, 1))),
    passing(clientFrame(FIN | PING, new Uint8Array(2))),
    passing(clientFrame(FIN | CONTINUATION, new Uint8Array(1))),
  ])
const ending = fc.constantFrom(
  [],
  [passing(clientFrame(FIN | CLOSE, Buffer.from([3, 232])))],
  [passing(Buffer.from([FIN | BINARY, 5, 1, 2, 3, 4, 5]))],
  [passing(clientFrame(FIN | 0x40 | BINARY, deltaFrame(1, 0, 1)))],
)

t.test('every byte is taken or goes to the library, in order, wherever it is cut', async () => {
  const kinds = [small, small, small, garbage, text, ping, large, inParts]
  const sent = fc.tuple(fc.array(fc.oneof(...kinds), { maxLength: 12 }), ending)
  const property = fc.property(
    sent,
    fc.infiniteStream(fc.nat(300)),
    fc.boolean(),
    ([parts, end], cuts, isLate) => {
      const frames = [...parts.flat(), ...end]
      // After the close frame, everything goes to the library.
      if (end.length > 0) frames.push(passing(clientFrame(FIN | BINARY, deltaFrame(1, 0, 1))))
      const bytes = Buffer.concat(frames.map((frame) => frame.bytes))
      const events: Event[] = []
      const receiver = new FastReceiver((taken) => events.push(...takenEvents(taken)))
      let late: (() => void)[] = []
      for (let at = 0; at < bytes.length; ) {
        const length = 1 + cuts.next().value! * (frames.length > 6 ? 100 : 1)
        let isDone = false
        const feed = (rest: Buffer, done: () => void): void => {
          events.push({ passed: Buffer.from(rest) })
          if (isLate) late.push(done)
          else done()
        }
        receiver.read(bytes.subarray(at, at + length), feed, () => {
          if (isDone) throw new Error('done twice')
          isDone = true
        })
        while (late.length > 0) {
          const dones = late
          late = []
          for (const done of dones) done()
        }
        if (!isDone) throw new Error('never done')
        at += length
      }
      return merged(events).join() === merged(frames.map((frame) => frame.event)).join()
    },
  )
  fc.assert(property, { numRuns: 300 })
})

t.test('the largest message that is taken, and one byte more', async (t) => {
  for (const [length, isTaken] of [
    [STREAM_SMALL_MESSAGE_MAX_BYTES, true],
    [STREAM_SMALL_MESSAGE_MAX_BYTES + 1, false],
  ] as const) {
    let takenBytes = 0
    let fedBytes = 0
    const receiver = new FastReceiver((taken) => {
      takenBytes += taken.length
    })
    const message = clientFrame(FIN | BINARY, new Uint8Array(length))
    const feed = (rest: Buffer, done: () => void): void => {
      fedBytes += rest.length
      done()
    }
    receiver.read(message, feed, () => {})
    t.equal(takenBytes > 0, isTaken)
    t.equal(fedBytes, isTaken ? 0 : message.length)
  }
})

t.test(
  'an error of the library ends the reading, and a chunk of thousands of messages nests nothing',
  async (t) => {
    const receiver = new FastReceiver(() => {})
    const chunk = Buffer.concat(
      Array.from({ length: 20_000 }, (_, i) =>
        clientFrame(FIN | (i % 2 === 0 ? PING : BINARY), new Uint8Array(0)),
      ),
    )
    let fed = 0
    let error: unknown
    const feed = (_: Buffer, done: (error?: Error) => void): void => {
      fed++
      done(fed === 9000 ? new Error('enough') : undefined)
    }
    receiver.read(chunk, feed, (why) => {
      error = why
    })
    t.match(error, { message: 'enough' })
    t.equal(fed, 9000)
  },
)

/** A raw connection that collects the server's answers as WebSocket frames. */
async function raw(port: number) {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.setNoDelay(true)
  socket.write(
    'GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mmsb.v1.bin\r\n\r\n',
  )
  let bytes = Buffer.alloc(0)
  await once(socket, 'data')
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk])
  })
  const answers = () => {
    const list: { opcode: number; payload: Buffer }[] = []
    for (let at = 0; at + 2 <= bytes.length; ) {
      const long = bytes[at + 1] === 126
      const length = long ? bytes.readUInt16BE(at + 2) : bytes[at + 1]!
      const start = at + (long ? 4 : 2)
      list.push({ opcode: bytes[at]! & 15, payload: bytes.subarray(start, start + length) })
      at = start + length
    }
    return list
  }
  const until = async (fits: () => boolean): Promise<void> => {
    while (!fits()) await once(socket, 'data')
  }
  return { socket, answers, until }
}

t.test(
  'over the wire: a byte at a time, all kinds of messages in turn, and what is not allowed',
  async (t) => {
    const served = await serve(t)
    const { port } = await listen(served)
    const { bus } = served
    await bus.create('p', { dtype: 'f32', shape: [2 ** 20] })
    const { id } = bus.page('p')
    const one = deltaFrame(id, 0, 2)
    const subscribe = JSON.stringify({ type: 'subscribe', id: 's', pages: ['none'] })
    const { socket, answers, until } = await raw(port)
    t.teardown(() => socket.destroy())
    const message = Buffer.concat([
      clientFrame(FIN | BINARY, one),
      clientFrame(FIN | TEXT, Buffer.from(subscribe)),
      clientFrame(FIN | BINARY, Buffer.concat([one, one])),
      clientFrame(FIN | PING, Buffer.from('?')),
      clientFrame(FIN | BINARY, Buffer.from('no frame')),
      clientFrame(BINARY, one.subarray(0, 20)),
      clientFrame(FIN | CONTINUATION, one.subarray(20)),
      clientFrame(FIN | BINARY, one, 0),
    ])
    for (let at = 0; at < message.length; at++) {
      socket.write(message.subarray(at, at + 1))
      if (at % 16 === 0) await turn()
    }
    const said = () =>
      answers().flatMap(({ opcode, payload }) => (opcode === 2 ? decodeMessages(payload) : []))
    const acks = () => said().filter(({ type }) => type === 'ack')
    const committed = () => acks().reduce((sum, { count = 1 }) => sum + count, 0)
    await until(() => committed() === 5 && said().length > acks().length + 1)
    t.equal(bus.read('p', { count: 1 })[0], 5)
    t.equal(served.server.stream.fastMessages, 4, 'whole binary messages go past the library, all else to it')
    t.match(
      said().filter(({ type }) => type === 'refusal'),
      [{ sequence: 4, code: 'INVALID_REQUEST' }],
    )
    t.match(
      said().filter(({ type }) => type === 'subscribed'),
      [{ id: 's' }],
    )
    t.match(
      answers().filter(({ opcode }) => opcode === 10),
      [{ payload: Buffer.from('?') }],
    )
    socket.write(Buffer.concat([clientFrame(FIN | BINARY, one), Buffer.from([FIN | BINARY, 1, 0])]))
    await until(() => answers().some(({ opcode }) => opcode === 8))
    const farewell = answers().find(({ opcode }) => opcode === 8)
    t.equal(farewell!.payload.readUInt16BE(0), 1002, 'a frame that is not masked')
    while (bus.read('p', { count: 1 })[0] !== 6) await sleep(5)
  },
)

t.test('after the farewell nothing is taken', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  await served.bus.create('p', { dtype: 'f32', shape: [4] })
  const one = deltaFrame(served.bus.page('p').id, 0, 2)
  const { socket, answers, until } = await raw(port)
  t.teardown(() => socket.destroy())
  socket.write(
    Buffer.concat([clientFrame(FIN | CLOSE, Buffer.from([3, 232])), clientFrame(FIN | BINARY, one)]),
  )
  await until(() => answers().some(({ opcode }) => opcode === 8))
  await sleep(100)
  t.equal(served.bus.read('p')[0], 0)
})

t.test('frames of a WebSocket client take the fast path; large messages and JSON do not', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  await served.bus.create('p', { dtype: 'f32', shape: [2 ** 20] })
  const { id } = served.bus.page('p')
  const client = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`, ['mmsb.v1.bin'])
  t.teardown(() => client.terminate())
  await once(client, 'open')
  const count = 1000
  for (let i = 0; i < count; i++) client.send(deltaFrame(id, i, 2))
  client.send(deltaFrame(id, 0, 100_000))
  client.send('{}')
  while (served.bus.epoch < 2 || served.bus.read('p', { offset: 99_999, count: 1 })[0] !== 1) {
    await once(client, 'message')
  }
  t.equal(served.server.stream.fastMessages, count)
  client.close()
  await once(client, 'close')
  t.equal(served.server.stream.fastMessages, count, 'it counts since start')
})

t.test('without the private member the library receives all, and the log says so, once', async (t) => {
  const warnings: unknown[] = []
  const nothing = () => {}
  const logger = {
    ...{ level: 'warn', silent: nothing, trace: nothing, debug: nothing, info: nothing },
    ...{ error: nothing, fatal: nothing, warn: (text: unknown) => warnings.push(text) },
    child: () => logger,
  }
  const served = await serve(t, {}, { logger: logger as unknown as NonNullable<AppOptions['logger']> })
  const { port } = await listen(served)
  await served.bus.create('p', { dtype: 'f32', shape: [4] })
  const { id } = served.bus.page('p')
  hideReceiver(t)
  for (let i = 1; i <= 2; i++) {
    const { socket, answers, until } = await raw(port)
    t.teardown(() => socket.destroy())
    socket.write(clientFrame(FIN | BINARY, deltaFrame(id, 0, 2)))
    await until(() => answers().length === 1)
    t.match(decodeMessages(answers()[0]!.payload), [{ type: 'ack', epoch: i + 1 }])
  }
  t.equal(served.bus.read('p')[0], 2)
  t.equal(served.server.stream.fastMessages, 0)
  t.equal(warnings.length, 1)
  t.match(warnings[0], /fast path .* is off: .*`_receiver`/)
})

/** Hides `_receiver` of each WebSocket on its first read, which is when the fast path would attach. */
function hideReceiver(t: Test): void {
  const receivers = new WeakMap<object, unknown>()
  Object.defineProperty(WebSocket.prototype, '_receiver', {
    configurable: true,
    get() {
      Object.defineProperty(this, '_receiver', { value: receivers.get(this) })
      return undefined
    },
    set(value: unknown) {
      receivers.set(this, value)
    },
  })
  t.teardown(() => Reflect.deleteProperty(WebSocket.prototype, '_receiver'))
}

t.test('the plugin of the framework loads the one pinned copy of the library', (t) => {
  const require = createRequire(ROOT)
  const ofPlugin = createRequire(require.resolve('@fastify/websocket')).resolve('ws')
  t.equal(ofPlugin, require.resolve('ws'))
  const { version } = require('ws/package.json') as { version: string }
  const { dependencies } = require('./package.json') as { dependencies: Record<string, string> }
  t.equal(dependencies.ws, version, 'pinned exactly')
  t.end()
})
