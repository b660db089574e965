/**
 * Subprotocol mmsb.v1.bin over a real WebSocket: the same stream as in JSON, in the binary format of
 * docs/internals/FORMAT.md.
 */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { WebSocket } from 'ws'
import type { PageChange } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { ackMessage, bodyPieces, messageBody } from '../../../src/http/stream/binary-messages.js'
import { BINARY_ENCODER, JSON_ENCODER } from '../../../src/http/stream/ws-frames.js'
import { atOnce } from '../../../src/slices.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { valuesToJson } from '../../../src/state/value.js'
import { ChangeMessage, PagePart, SnapshotMessage } from '../../../src/stream/messages.js'
import { Draw } from '../../lib/draw.js'
import { ROOT } from '../../lib/place.js'
import { type BinaryMessage, decodeMessages } from '../../stream/binary.js'
import { Client, type Message } from '../../stream/helpers.js'
import { listen, type Served, serve } from '../helpers.js'

type Test = Parameters<typeof serve>[0]

interface Streamed extends Served {
  connect(protocol: 'mmsb.v1.bin' | 'mmsb.v1.json'): Promise<Client>
}

async function stream(t: Test): Promise<Streamed> {
  const served = await serve(t)
  const { port } = await listen(served)
  const connect = async (protocol: string): Promise<Client> => {
    const client = await Client.open(port, [protocol])
    t.teardown(() => client.socket.terminate())
    return client
  }
  return { ...served, connect }
}

const rangesOf = (...sequences: number[]) => sequences.map((first) => ({ first, count: 1 }))

const received = (client: Client): BinaryMessage[] => client.binary.flatMap(decodeMessages)

async function untilMessage(client: Client, fits: (message: BinaryMessage) => boolean, what?: string) {
  await client.until(() => received(client).some(fits), what)
  return received(client).find(fits)!
}

function frameOf(pageId: number, values: number[], expectVersion?: number): Buffer {
  const expect = expectVersion === undefined ? [] : [{ pageId, version: expectVersion }]
  const writer = new FrameWriter({ expect })
  writer.delta(pageId, 'f32', 4, { offset: 0, values })
  return Buffer.from(writer.finish())
}

/** The bytes of the hex example that follows `title` in docs/internals/FORMAT.md. */
function example(title: string): Buffer {
  const text = readFileSync(`${ROOT}docs/internals/FORMAT.md`, 'utf8')
  const block = text.slice(text.indexOf(title)).split('```')[1] ?? ''
  const lines = block.split('\n').flatMap((line) => /^(?:[0-9a-f]{2} +){8}/.exec(line) ?? [])
  return Buffer.from(lines.join('').replaceAll(' ', ''), 'hex')
}

const partOf = (change: Partial<PageChange>, values: Int32Array): PagePart => {
  const whole = { pageId: 1, page: 'qty', kind: 'source', dtype: 'i32', shape: [5] } as const
  return new PagePart({ ...whole, ranges: Uint32Array.of(1, 2), ...change }, () => values)
}

t.test('the examples of docs/internals/FORMAT.md', async (t) => {
  const acks = example('The third, fourth and sixth frame')
  t.same(ackMessage(rangesOf(3, 4, 6), 7), acks)
  t.same(decodeMessages(acks), [
    { type: 'ack', sequence: 3, epoch: 7, count: 2 },
    { type: 'ack', sequence: 6, epoch: 7, count: 1 },
  ])
  const change = example('receives that epoch 7 set elements')
  const part = partOf({}, Int32Array.of(42, -1))
  t.same(payloadOf(BINARY_ENCODER.encode('s', new ChangeMessage(7, 7, [part], 'values'))), change)
  t.match(decodeMessages(change), [
    {
      type: 'change',
      id: 's',
      epoch: 7,
      first: 7,
      data: 'values',
      changes: [{ page: 'qty', kind: 'source', dtype: 'i32', shape: [5], ranges: [[1, 2]] }],
    },
  ])
  t.same(decodeMessages(change)[0]!.changes![0]!.values, Int32Array.of(42, -1))
})

/** A server's frame without its header. */
function payloadOf(frame: readonly Buffer[]): Buffer {
  const bytes = Buffer.concat(frame)
  const short = bytes[1]!
  return bytes.subarray(short < 126 ? 2 : short === 126 ? 4 : 10)
}

t.test('a message is encoded once, down to the WebSocket frame', async (t) => {
  for (const { encode } of [BINARY_ENCODER, JSON_ENCODER]) {
    let gathered = 0
    const change = { pageId: 1, page: 'p', kind: 'source', dtype: 'i32', shape: [40_000] } as const
    const part = new PagePart({ ...change, ranges: Uint32Array.of(0, 40_000) }, () => {
      gathered++
      return new Int32Array(40_000)
    })
    const message = new ChangeMessage(1, 1, [part], 'values')
    t.equal(encode('s', message), encode('s', message), 'the same frame for the same id')
    t.equal(encode('s', message)[1], encode('other', message)[1], 'the same body for another')
    t.equal(gathered, 1)
  }
})

t.test('what JSON tells, binary tells: every dtype, every way to change, snapshots', async (t) => {
  const { bus, connect } = await stream(t)
  const draw = new Draw(7)
  const dtypes = ['bool', 'u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64', 'f32', 'f64'] as const
  for (const dtype of dtypes) await bus.create(`p.${dtype}`, { dtype, shape: [3, 5] })
  await bus.derive('p.sum', { op: 'reduce', inputs: { x: 'p.f32' }, fn: 'sum' })
  const [json, binary] = [await connect('mmsb.v1.json'), await connect('mmsb.v1.bin')]
  const subscriptions = [
    { id: 'v', pages: ['p.*'], from: 'snapshot', data: 'values' },
    { id: 'r', pages: ['p.*'], data: 'ranges' },
    { id: 'n', pages: ['p.f32', 'p.sum', 'p.new'], data: 'none' },
    { id: 'ünïcode', pages: ['p.u64'] },
  ]
  for (const subscription of subscriptions) {
    json.send({ type: 'subscribe', ...subscription })
    binary.send({ type: 'subscribe', ...subscription })
  }
  for (let round = 0; round < 40; round++) {
    const ops = dtypes
      .filter(() => draw.chance(0.5))
      .map((dtype) => {
        const indices = [...new Set(Array.from({ length: draw.int(1, 6) }, () => draw.int(0, 14)))]
        return { page: `p.${dtype}`, indices, values: indices.map(() => draw.value(dtype)) }
      })
    if (ops.length > 0) await bus.transact({ ops })
    if (round === 10) await bus.create('p.new', { dtype: 'i16', shape: [], fill: -3 })
    if (round === 20) await bus.delete('p.new')
  }
  for (const client of [json, binary]) client.send({ type: 'unsubscribe', id: 'v' })
  await json.until(() => json.messages.some(({ type }) => type === 'unsubscribed'))
  await untilMessage(binary, ({ type }) => type === 'unsubscribed')
  t.same(received(binary).map(asJson), json.messages)
  t.ok(json.messages.filter(({ type }) => type === 'change').length > 100)
  t.equal(binary.messages.length, 0, 'no text')
})

/** Converts a binary message to its JSON form. */
function asJson(message: BinaryMessage): Message {
  const { type, id, epoch, history, first, data, changes = [] } = message
  const values = ({ dtype, values }: (typeof changes)[number]) =>
    valuesToJson(dtype as never, values as never)
  if (type === 'snapshot') {
    const pages = changes.map((change) => {
      const { page, dtype, shape, version } = change
      return [page, { dtype, shape, version: version!, values: values(change) }] as const
    })
    return { type, id: id!, epoch: epoch!, history: history!, pages: Object.fromEntries(pages) }
  }
  if (type !== 'change') return message as unknown as Message
  return {
    type,
    id: id!,
    epoch: epoch!,
    first: first!,
    changes: changes.map((change) => {
      const { page, kind, dtype, shape, ranges } = change
      return {
        page,
        kind,
        ...(kind === 'created' ? { dtype, shape } : {}),
        ...(data === 'none' ? {} : { ranges }),
        ...(data === 'values' ? { values: values(change) } : {}),
      }
    }),
  }
}

t.test('frames in, acks and refusals by sequence out, what text asks for answered in text', async (t) => {
  const { bus, connect } = await stream(t)
  await bus.create('prices', { dtype: 'f32', shape: [4] })
  const { id, version } = bus.page('prices')
  const client = await connect('mmsb.v1.bin')
  client.send({ type: 'subscribe', id: 's', pages: ['prices'], from: 'snapshot' })
  client.send(Buffer.concat([frameOf(id, [1]), frameOf(id, [2, 3])]))
  const garbage = Buffer.from('no frame at all, but long enough to look for one')
  client.send(Buffer.concat([frameOf(id, [9], version), garbage, frameOf(id, [8])]))
  client.send(frameOf(id, [4]))
  const isAnswer = ({ type }: BinaryMessage): boolean => type === 'ack' || type === 'refusal'
  const answered = () =>
    received(client)
      .filter(isAnswer)
      .reduce((sum, { count = 1 }) => sum + count, 0)
  await client.until(() => answered() === 5)
  const refusals = received(client).filter(({ type }) => type === 'refusal')
  t.match(
    refusals.sort((a, b) => a.sequence! - b.sequence!),
    [
      { sequence: 3, status: 412, code: 'PRECONDITION_FAILED', detail: String, hint: String },
      { sequence: 4, status: 400, code: 'INVALID_REQUEST', detail: String, hint: String },
    ],
  )
  t.same(bus.read('prices'), Float32Array.of(4, 3, 0, 0))
  t.match(received(client)[0], { type: 'subscribed', id: 's' })
  t.match(received(client)[1], { type: 'snapshot', id: 's' })
  t.match(await client.ask({ type: 'transaction', id: 't', ops: [{ page: 'prices', values: [5] }] }), {
    type: 'ack',
  })
  t.match(await client.ask({ type: 'transaction', id: 'u', ops: [{ page: 'none', values: [5] }] }), {
    type: 'error',
    code: 'PAGE_NOT_FOUND',
  })
  t.match(await client.ask({ type: 'subscribe', id: 's', pages: ['prices'] }), { code: 'INVALID_REQUEST' })
})

t.test('thousands of frames: those of one epoch are answered by one message', async (t) => {
  const { bus, connect } = await stream(t)
  await bus.create('prices', { dtype: 'f32', shape: [4] })
  const { id } = bus.page('prices')
  const client = await connect('mmsb.v1.bin')
  const writer = new FrameWriter()
  writer.delta(id, 'f32', 4, { offset: 1, values: [1], merge: 'add' })
  const one = Buffer.from(writer.finish())
  const count = 3000
  client.send(Buffer.concat(Array(count).fill(one)))
  client.send(Buffer.concat([one, Buffer.alloc(8), one]))
  client.send(one)
  const answered = () => received(client).reduce((sum, { count = 1 }) => sum + count, 0)
  await client.until(() => answered() === count + 3)
  t.equal(bus.read('prices')[1], count + 2)
  const epochs = new Set(received(client).map(({ epoch }) => epoch))
  t.equal(client.binary.length, epochs.size, 'a message for each epoch, and one for the refusal')
  const seen = received(client).flatMap(({ sequence, count = 1 }) =>
    Array.from({ length: count }, (_, i) => sequence! + i),
  )
  t.same(
    seen.sort((a, b) => a - b),
    Array.from({ length: count + 3 }, (_, i) => i + 1),
  )
})

t.test('compacted, progress, overflow and error have their binary forms', async (t) => {
  const messages = [
    [
      { type: 'compacted', minEpoch: 5 },
      { type: 'compacted', id: 's', minEpoch: 5 },
    ],
    [
      { type: 'overflow', resumeFrom: 2 ** 40 + 1 },
      { type: 'overflow', id: 's', resumeFrom: 2 ** 40 + 1 },
    ],
    [
      { type: 'progress', epoch: 9 },
      { type: 'progress', id: 's', epoch: 9 },
    ],
    [
      { type: 'error', error: new MmsbError('BUS_FAILED', 'why') },
      { type: 'error', id: 's', status: 503, code: 'BUS_FAILED', detail: 'why' },
    ],
  ] as const
  for (const [message, decoded] of messages) {
    t.match(decodeMessages(payloadOf(BINARY_ENCODER.encode('s', message))), [decoded])
    t.match(decodeMessages(payloadOf(BINARY_ENCODER.encode('a long id', message))), [
      { ...decoded, id: 'a long id' },
    ])
  }
})

t.test('a frame that is damaged or cut at any byte is answered, and the connection goes on', async (t) => {
  const { bus, connect } = await stream(t)
  await bus.create('prices', { dtype: 'f32', shape: [4] })
  const { id, version } = bus.page('prices')
  const writer = new FrameWriter({
    key: 'k',
    source: 's',
    intent: { a: 1 },
    expect: [{ pageId: id, version }],
  })
  writer.delta(id, 'f32', 4, { indices: [0, 2], values: [1, 2] })
  writer.delta(id, 'f32', 4, { mask: Uint8Array.of(5), values: [1, 2] })
  const good = Buffer.from(writer.finish())
  const client = await connect('mmsb.v1.bin')
  let sent = 0
  const check = async (message: Buffer, what: string): Promise<void> => {
    client.binary.length = 0
    client.send(message)
    client.send(Buffer.alloc(8)) // refused; its answer marks the end of the refusals
    await client.until(() => received(client).some(({ type }) => type === 'refusal'))
    sent++
    t.equal(client.socket.readyState, WebSocket.OPEN, what)
  }
  for (let at = 0; at < good.length; at++) {
    await check(good.subarray(0, at), `cut at ${at}`)
    for (const flip of [0x01, 0x80, 0xff]) {
      const damaged = Buffer.from(good)
      damaged[at]! ^= flip
      await check(damaged, `byte ${at} ^ ${flip}`)
    }
  }
  t.equal(sent, good.length * 4)
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.nat(good.length), async (bytes, at) => {
      await check(Buffer.concat([good.subarray(0, at), bytes]), 'random')
    }),
    { numRuns: 200 },
  )
  client.binary.length = 0
  client.send(frameOf(id, [7]))
  await untilMessage(client, ({ type }) => type === 'ack')
  t.equal(bus.read('prices')[0], 7)
})

t.test('a large message in pieces is the same message', async (t) => {
  const draw = new Draw(5)
  for (let round = 0; round < 12; round++) {
    const pages = Array.from({ length: draw.int(1, 400) }, (_, i) => {
      const count = draw.chance(0.05) ? draw.int(10_000, 90_000) : draw.int(0, 40)
      const dtype = draw.pick(['u8', 'f32', 'i64'] as const)
      return { name: `p${i}`, id: i, dtype, version: draw.int(0, 1e9), values: draw.values(dtype, count) }
    })
    const history = `${'ab'.repeat(16)}.${'cd'.repeat(8)}`
    const snapshot = new SnapshotMessage(
      9,
      history,
      pages.map((page) => ({ ...page, kind: 'source' as const, shape: [page.values.length] })),
    )
    const parts = pages.map(({ name, id, dtype, values }) => {
      const ranges = Uint32Array.of(0, values.length)
      const change = {
        pageId: id,
        page: name,
        kind: 'source' as const,
        dtype,
        shape: [values.length],
        ranges,
      }
      return new PagePart(change, () => values)
    })
    const messages = [
      snapshot,
      ...(['values', 'ranges', 'none'] as const).map((mode) => new ChangeMessage(3, 9, parts, mode)),
    ]
    for (const message of messages) {
      const pieces = atOnce(bodyPieces(message))
      t.ok(Buffer.concat(pieces).equals(messageBody(message)), `round ${round}, ${message.type}`)
      const large = pages.filter(({ values }) => values.byteLength > 16 * 1024)
      const uncopied = pieces.filter(({ buffer }) => large.some(({ values }) => values.buffer === buffer))
      const isWhole = message.type === 'snapshot' || message.mode === 'values'
      t.equal(uncopied.length, isWhole ? large.length : 0)
    }
  }
})
