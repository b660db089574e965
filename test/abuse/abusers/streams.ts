/** WebSockets and server-sent events by the hundred, with everything but reading. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { WebSocket } from 'ws'
import { type Abuser, CUT, type Field } from '../field.js'

const MIB = 1024 ** 2
/** What the server sends is not read further than this; then it must do without a reader. */
const WITHIN_MS = 3_000

/** Counts what the server says to a stream, by type or by the code of an error. */
function countMessages(field: Field, socket: WebSocket): void {
  socket.on('message', (data: Buffer) => {
    const text = data.subarray(0, 400).toString('latin1')
    field.count(/"code":"([A-Z_]+)"/.exec(text)?.[1] ?? /"type":"(\w+)"/.exec(text)?.[1] ?? 'binary')
  })
}

/** Subscribes to everything, with snapshots and from the first epoch, more often than is allowed. */
async function subscriptions(field: Field): Promise<void> {
  const socket = await field.stream()
  if (socket === undefined) return
  countMessages(field, socket)
  for (let i = 0; i < 1_100 && socket.readyState === socket.OPEN; i++) {
    const from = field.draw.pick(['now', 'now', 'now', 'now', 'now', 'now', 'now', 'snapshot', 1])
    const pages = field.draw.pick([['*'], ['user.*', 'cone.*'], ['used']])
    socket.send(JSON.stringify({ type: 'subscribe', id: `s${i}`, pages, from, data: 'ranges' }))
    if (i % 50 === 0) await sleep(10)
  }
  await field.ended(socket, WITHIN_MS)
}

/** Patterns that take long to compare with names, as many as fit into a message. */
async function patterns(field: Field): Promise<void> {
  const socket = await field.stream()
  if (socket === undefined) return
  countMessages(field, socket)
  const pattern = 'a*'.repeat(field.draw.pick([20, 60, 100]))
  for (let i = 0; i < 20 && socket.readyState === socket.OPEN; i++) {
    const pages = Array.from({ length: field.draw.pick([100, 256, 5_000]) }, (_, k) => `${pattern}${k}*b`)
    socket.send(JSON.stringify({ type: 'subscribe', id: `p${i}`, pages, from: 'now' }))
    await sleep(20)
  }
  await field.ended(socket, WITHIN_MS)
}

/** Subscribes to everything from the first epoch, and does not read. */
async function deaf(field: Field): Promise<void> {
  const socket = await field.stream(field.draw.pick(['mmsb.v1.json', 'mmsb.v1.bin']))
  if (socket === undefined) return
  for (let i = 0; i < 8; i++)
    socket.send(
      JSON.stringify({ type: 'subscribe', id: `d${i}`, pages: ['*'], from: i % 2 === 0 ? 1 : 'snapshot' }),
    )
  socket.pause()
  await sleep(field.draw.int(1_000, 4_000))
  field.count('not read')
  socket.terminate()
}

/** Pings with the largest content, and never a look at the pongs. */
async function pings(field: Field): Promise<void> {
  const socket = await field.stream()
  if (socket === undefined) return
  socket.pause()
  const content = Buffer.alloc(125, 7)
  for (let i = 0; i < 20_000 && socket.readyState === socket.OPEN; i++) {
    socket.ping(content)
    if (socket.bufferedAmount > MIB) await sleep(5)
  }
  field.count('pinged')
  socket.resume()
  await field.ended(socket, 1_000)
}

/** One message in fragments of one byte, or of none, that never ends. */
async function fragments(field: Field): Promise<void> {
  const socket = await field.stream()
  if (socket === undefined) return
  const part = field.draw.chance(0.5) ? Buffer.from('x') : Buffer.alloc(0)
  for (let i = 0; i < 50_000 && socket.readyState === socket.OPEN; i++) {
    socket.send(part, { fin: false, binary: false })
    if (socket.bufferedAmount > MIB) await sleep(5)
  }
  field.count('sent')
  await field.ended(socket, 1_000)
}

/** Messages that are too large, no JSON, no frames, or of types that do not exist. */
async function messages(field: Field): Promise<void> {
  const protocol = field.draw.pick(['mmsb.v1.json', 'mmsb.v1.bin'])
  const socket = await field.stream(protocol)
  if (socket === undefined) return
  countMessages(field, socket)
  for (let i = 0; i < 50 && socket.readyState === socket.OPEN; i++) {
    const bytes = Buffer.from(field.draw.values('u8', field.draw.int(1, 4_096)) as Uint8Array)
    switch (field.draw.int(0, 5)) {
      case 0:
        socket.send(bytes)
        break
      case 1:
        socket.send(bytes.toString('latin1'))
        break
      case 2:
        socket.send('['.repeat(field.draw.int(1, MIB)))
        break
      case 3:
        socket.send(JSON.stringify({ type: 'commit', id: 'x', epoch: -1 }))
        break
      case 4:
        socket.send(`{"type":"transaction","id":"t","ops":[${'{},'.repeat(10_000)}{}]}`)
        break
      default:
        if (i === 49) socket.send(Buffer.alloc(17 * MIB))
    }
    await sleep(5)
  }
  await field.ended(socket, WITHIN_MS)
}

/** Connections, each with a WebSocket or with events, as many as one can open. */
async function crowds(field: Field): Promise<void> {
  if (field.draw.chance(0.5)) {
    const socket = await field.stream()
    if (socket === undefined) return
    field.count('101')
    await field.ended(socket, field.draw.int(1_000, 4_000))
    return
  }
  const request = field.request('GET', '/v1/events?pages=*', undefined, {})
  request.on('error', () => {})
  const answered = once(request, 'response').then(([response]) => response as { statusCode: number })
  const response = await Promise.race([answered, sleep(4_000)]).catch(() => undefined)
  field.count(response === undefined ? CUT : String(response.statusCode))
  await sleep(field.draw.int(1_000, 4_000))
  request.destroy()
}

export const STREAMS: readonly Abuser[] = [
  {
    name: 'subscriptions',
    does: 'subscribes 1,100 times on one connection, to everything, also from the first epoch',
    expects: ['subscribed'],
    lanes: 2,
    act: subscriptions,
  },
  {
    name: 'patterns',
    does: 'subscribes to up to 5,000 patterns that take long to compare',
    expects: ['subscribed'],
    lanes: 2,
    act: patterns,
  },
  {
    name: 'deaf',
    does: 'subscribes to everything from the first epoch and does not read, 30 times at once',
    expects: ['not read'],
    lanes: 30,
    act: deaf,
  },
  { name: 'pings', does: 'sends 20,000 pings and reads no pong', expects: ['pinged'], lanes: 2, act: pings },
  {
    name: 'fragments',
    does: 'sends 50,000 fragments of one message that never ends',
    expects: ['sent'],
    lanes: 2,
    act: fragments,
  },
  {
    name: 'messages',
    does: 'sends messages that are too large, no JSON, no frames, or of unknown types',
    expects: ['INVALID_REQUEST'],
    lanes: 2,
    act: messages,
  },
  {
    name: 'crowds',
    does: 'opens 200 WebSockets and streams of events at once',
    expects: ['101', '200', 'OVERLOADED'],
    lanes: 200,
    act: crowds,
  },
]
