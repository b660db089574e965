/**
 * Memory of idle connections: a WebSocket with one subscription beside a socket of a bare `ws` server, and
 * each further subscription. Measured as resident memory of the server's process.
 */
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { clientFrame, handshake } from '../lib/pipeline.js'
import { startBaseline } from '../lib/process.js'
import { startServer } from '../lib/tree.js'
import type { Context, Result, Skip } from '../lib/types.js'

const SOCKETS = 1000
/** Further subscriptions per socket. */
const FURTHER = 100
const SETTLE_MS = 1500

export async function idle(context: Context): Promise<(Result | Skip)[]> {
  if (process.platform !== 'linux') return [{ name: 'memory of idle subscriptions', skipped: 'needs /proc' }]
  const server = await startServer({ dataDir: join(context.dir, 'bus') })
  const bare = await startBaseline('ws', join(context.dir, 'bare.log'), 'broadcast', '64')
  const subscribe = (first: number, count: number) =>
    Buffer.concat(
      Array.from({ length: count }, (_, i) =>
        clientFrame(`{"type":"subscribe","id":"s${first + i}","pages":["risk.*"]}`),
      ),
    )
  context.say(`${SOCKETS} sockets, then ${SOCKETS * FURTHER} subscriptions`)
  const port = Number(new URL(server.url).port)
  const before = await residentBytes(server.pid)
  const ours = await open(port, '/v1/stream')
  for (const socket of ours) socket.write(subscribe(0, 1))
  const connected = await residentBytes(server.pid)
  for (const socket of ours) socket.write(subscribe(1, FURTHER))
  const subscribed = await residentBytes(server.pid)
  const bareBefore = await residentBytes(bare.pid)
  const theirs = await open(bare.port, '/events')
  const bareAfter = await residentBytes(bare.pid)
  for (const socket of [...ours, ...theirs]) socket.destroy()
  await bare.stop()
  await server.stop()
  const bareKiB = (bareAfter - bareBefore) / SOCKETS / 1024
  const result = (name: string, kib: number): Result => ({
    name,
    unit: 'KiB',
    mmsb: kib,
    baseline: bareKiB,
    against: 'an idle socket of bare ws',
    ratio: kib / bareKiB,
    budget: null,
  })
  return [
    result('memory of an idle WebSocket with a subscription', (connected - before) / SOCKETS / 1024),
    result('memory of each further subscription', (subscribed - connected) / SOCKETS / FURTHER / 1024),
  ]
}

async function open(port: number, path: string): Promise<Socket[]> {
  const sockets: Socket[] = []
  for (let i = 0; i < SOCKETS; i++) {
    const socket = await handshake(port, path, 'mmsb.v1.json')
    socket.resume()
    sockets.push(socket)
  }
  return sockets
}

/** Resident memory of a process once it has come to rest. */
async function residentBytes(pid: number): Promise<number> {
  await sleep(SETTLE_MS)
  const [, kib] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kib) * 1024
}
