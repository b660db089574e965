/**
 * From a durable write to the derived event at each of 1 or 100 subscribers, at 80 writes a second, beside a bare `ws`
 * server that fdatasyncs the same message and broadcasts as many bytes. Writer and subscribers share this process and
 * its clock; each event of each subscriber is one sample.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { startServer } from '../../examples/server.js'
import { startBaseline } from '../lib/process.js'
import { median, percentile } from '../lib/stats.js'
import type { Context, Result } from '../lib/types.js'

const WRITES_PER_S = 80
const BUDGET = 1.3
const ELEMENTS = 16
const EVENT_TIMEOUT_MS = 10_000

interface Latency {
  readonly p50: number
  readonly p99: number
}

/** One side: sockets that are open and listening. */
interface Side {
  readonly writer: WebSocket
  readonly subscribers: readonly WebSocket[]
  message(serial: number): string
  isEvent(data: Buffer): boolean
}

export async function latency(context: Context): Promise<Result[]> {
  const server = await startServer({ dataDir: join(context.dir, 'bus') })
  const put = async (name: string, body: object) => {
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(`${server.url}/v1/pages/${name}`, {
      method: 'PUT',
      headers,
      body: JSON.stringify(body),
    })
    if (!response.ok) throw new Error(await response.text())
  }
  await put('bench.in', { dtype: 'f64', shape: [ELEMENTS] })
  await put('bench.out', { derive: { op: 'map', inputs: { x: 'bench.in' }, expr: 'x * 2' } })
  const results: Result[] = []
  for (const count of [1, 100]) {
    context.say(`write to derived event, ${count} subscribers`)
    results.push(await beside(context, server.url, count))
  }
  await server.stop()
  return results
}

async function beside(context: Context, url: string, count: number): Promise<Result> {
  const ours = await bus(url, count)
  const eventBytes = await eventSize(ours)
  const baseline = await startBaseline(
    'ws',
    join(context.dir, `bare-${count}.log`),
    'broadcast',
    String(eventBytes),
  )
  const theirs = await bare(`ws://127.0.0.1:${baseline.port}`, count)
  const writes = context.quick ? 80 : 240
  const runs: [Latency[], Latency[]] = [[], []]
  await measure(ours, 40)
  await measure(theirs, 40)
  for (let pair = 0; pair < (context.quick ? 1 : 5); pair++) {
    const order = pair % 2 === 0 ? [0, 1] : [1, 0]
    for (const side of order) runs[side as 0 | 1].push(await measure(side === 0 ? ours : theirs, writes))
  }
  close(ours)
  close(theirs)
  await baseline.stop()
  const of = (side: 0 | 1, which: keyof Latency) => median(runs[side].map((run) => run[which]))
  const ratio = median(runs[0].map((run, pair) => run.p50 / runs[1][pair]!.p50))
  return {
    name: `durable write -> derived event, ${count} subscribers, ${WRITES_PER_S} writes/s`,
    unit: 'ms p50',
    mmsb: of(0, 'p50'),
    baseline: of(1, 'p50'),
    against: 'bare ws, fdatasync, broadcast',
    ratio,
    budget: { text: `<= ${BUDGET} x`, met: ratio <= BUDGET },
    details: { 'p99 mmsb': of(0, 'p99'), 'p99 baseline': of(1, 'p99'), eventBytes },
  }
}

const transaction = (serial: number) =>
  JSON.stringify({
    type: 'transaction',
    id: String(serial),
    ops: [{ page: 'bench.in', values: Array.from({ length: ELEMENTS }, (_, i) => serial + i) }],
  })

async function bus(url: string, count: number): Promise<Side> {
  const address = `${url.replace('http', 'ws')}/v1/stream`
  const open = async () => {
    const socket = new WebSocket(address, 'mmsb.v1.json', { perMessageDeflate: false })
    await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject))
    return socket
  }
  const subscribers = []
  for (let i = 0; i < count; i++) {
    const socket = await open()
    socket.send('{"type":"subscribe","id":"s","pages":["bench.out"],"from":"now","data":"values"}')
    await new Promise((resolve) => socket.once('message', resolve))
    subscribers.push(socket)
  }
  const writer = await open()
  return { writer, subscribers, message: transaction, isEvent: (data) => data.includes('"change"') }
}

async function bare(address: string, count: number): Promise<Side> {
  const open = async (path: string) => {
    const socket = new WebSocket(`${address}${path}`, { perMessageDeflate: false })
    await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject))
    return socket
  }
  const subscribers = []
  for (let i = 0; i < count; i++) subscribers.push(await open('/events'))
  const writer = await open('/')
  return { writer, subscribers, message: transaction, isEvent: () => true }
}

/** Bytes of one change message, so that the baseline sends as many. */
async function eventSize(side: Side): Promise<number> {
  let size = 0
  const onEvent = (data: Buffer) => {
    if (side.isEvent(data)) size = data.length
  }
  side.subscribers[0]!.on('message', onEvent)
  side.writer.send(side.message(123_456))
  await until(() => size > 0, 'no event came')
  side.subscribers[0]!.off('message', onEvent)
  return size
}

async function until(isTrue: () => boolean, otherwise: string): Promise<void> {
  const deadline = performance.now() + EVENT_TIMEOUT_MS
  while (!isTrue()) {
    if (performance.now() > deadline) throw new Error(otherwise)
    await sleep(1)
  }
}

let serial = 1_000

/** Sends at a steady rate, one write at a time, and takes the time of each event at each subscriber. */
async function measure(side: Side, writes: number): Promise<Latency> {
  const samples: number[] = []
  let sentAt = 0
  const onEvent = (data: Buffer) => {
    if (side.isEvent(data)) samples.push(performance.now() - sentAt)
  }
  for (const socket of side.subscribers) socket.on('message', onEvent)
  const started = performance.now()
  for (let i = 0; i < writes; i++) {
    const due = started + (i * 1000) / WRITES_PER_S
    await sleep(Math.max(due - performance.now(), 0))
    await until(() => samples.length >= i * side.subscribers.length, `an event of write ${i} did not come`)
    serial += 1
    const message = side.message(serial)
    sentAt = performance.now()
    side.writer.send(message)
  }
  await until(() => samples.length >= writes * side.subscribers.length, 'an event did not come')
  for (const socket of side.subscribers) socket.off('message', onEvent)
  if (samples.length !== writes * side.subscribers.length) throw new Error('more events than writes')
  return { p50: percentile(samples, 0.5), p99: percentile(samples, 0.99) }
}

function close(side: Side): void {
  for (const socket of [side.writer, ...side.subscribers]) socket.terminate()
}
