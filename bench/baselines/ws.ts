/**
 * A bare `ws` server that makes messages durable and does nothing else: it writes what has arrived to one
 * file and fdatasyncs it as one batch while the next gathers, then answers each message, or broadcasts.
 *
 *   ws.ts FILE ack            parses each message as JSON, or walks its frames by their lengths; answers each
 *   ws.ts FILE broadcast N    answers, and sends about N bytes to every socket that connected to /events
 */
import { fdatasync, openSync, writeSync } from 'node:fs'
import { type WebSocket, WebSocketServer } from 'ws'

const [file, mode, size] = process.argv.slice(2)
const fd = openSync(file!, 'a')
const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false })
const listeners = new Set<WebSocket>()
const filler = 'x'.repeat(Math.max(Number(size ?? 0) - 30, 0))

let epoch = 0
let isSyncing = false
let waiting: { socket: WebSocket; data: Buffer; ids: unknown[] }[] = []

function sync(): void {
  const batch = waiting
  waiting = []
  isSyncing = true
  writeSync(fd, Buffer.concat(batch.map(({ data }) => data)))
  fdatasync(fd, (error) => {
    if (error !== null) throw error
    epoch += 1
    for (const { socket, ids } of batch) {
      for (const id of ids) socket.send(`{"type":"ack","id":${JSON.stringify(id)},"epoch":${epoch}}`)
    }
    if (mode === 'broadcast') broadcast(batch.at(-1)!.data)
    isSyncing = false
    if (waiting.length > 0) sync()
  })
}

/** One event per batch; it ends with the first value of the newest write. */
function broadcast(newest: Buffer): void {
  const serial = /"values":\[(\d+)/.exec(newest.toString('latin1'))![1]
  const event = Buffer.from(`{"t":"${filler}","serial":${serial}}`)
  for (const listener of listeners) listener.send(event, { binary: false })
}

function framesIn(data: Buffer): number[] {
  const sequence: number[] = []
  for (let at = 0; at < data.length; at += data.readUInt32LE(at + 4)) sequence.push(sequence.length)
  return sequence
}

server.on('connection', (socket, request) => {
  if (request.url === '/events') {
    listeners.add(socket)
    socket.on('close', () => listeners.delete(socket))
    return
  }
  socket.on('message', (data: Buffer, isBinary) => {
    const ids = isBinary ? framesIn(data) : [(JSON.parse(data.toString()) as { id: unknown }).id]
    waiting.push({ socket, data, ids })
    if (!isSyncing) sync()
  })
})
server.on('listening', () => {
  process.stdout.write(`listening on ${(server.address() as { port: number }).port}\n`)
})
