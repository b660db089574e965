/**
 * Clients that keep many small writes in flight, over raw sockets with prepared bytes, because a client
 * library would cost more than the server it measures. The WebSocket client writes masked frames with the
 * mask zero and counts answers.
 *
 * Invariant: every answer is checked; one that is not an acknowledgement ends the run with an error.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

export interface Load {
  readonly connections: number
  /** Writes in flight per connection. */
  readonly depth: number
  readonly durationMs: number
}

/** A protocol: opens a socket, encodes writes, and counts the answers in what arrives. */
export interface Protocol {
  open(index: number): Promise<Socket>
  writes(index: number, count: number): Buffer
  /** Counts whole answers; returns the incomplete rest and what to reply. Throws on a refusal. */
  answers(bytes: Buffer): { count: number; rest: Buffer; reply?: Buffer }
}

/** Acknowledged writes per second. */
export async function pipelinedWrites(protocol: Protocol, load: Load): Promise<number> {
  const sockets: Socket[] = []
  for (let index = 0; index < load.connections; index++) sockets.push(await protocol.open(index))
  let acknowledged = 0
  const started = performance.now()
  const until = started + load.durationMs
  const done = sockets.map((socket, index) => {
    const batches = new Map<number, Buffer>()
    const batch = (size: number) => {
      const known = batches.get(size)
      if (known !== undefined) return known
      const made = protocol.writes(index, size)
      batches.set(size, made)
      return made
    }
    let rest: Buffer = Buffer.alloc(0)
    return new Promise<void>((resolve, reject) => {
      socket.on('error', reject)
      socket.on('close', () => reject(new Error('the server closed the connection')))
      socket.on('data', (chunk: Buffer) => {
        try {
          const found = protocol.answers(rest.length === 0 ? chunk : Buffer.concat([rest, chunk]))
          rest = found.rest
          acknowledged += found.count
          if (found.reply !== undefined) socket.write(found.reply)
          if (performance.now() >= until) resolve()
          else if (found.count > 0) socket.write(batch(found.count))
        } catch (error) {
          reject(error as Error)
        }
      })
      socket.write(batch(load.depth))
    })
  })
  try {
    await Promise.all(done)
  } finally {
    for (const socket of sockets) {
      socket.removeAllListeners('close')
      socket.destroy()
    }
  }
  return (acknowledged / (performance.now() - started)) * 1000
}

export interface Messages {
  readonly port: number
  readonly subprotocol: string
  /** A message that holds `writes` writes. */
  message(index: number, writes: number): string | Uint8Array
  /** Most writes in one message. */
  readonly writesPerMessage: number
  /** How many writes an answer's payload acknowledges; 0 for a refusal. */
  acknowledged(payload: Buffer): number
}

/** WebSocket messages, text or binary, and their answers. */
export function webSocketProtocol(messages: Messages): Protocol {
  const { writesPerMessage, acknowledged } = messages
  return {
    open: () => handshake(messages.port, '/v1/stream', messages.subprotocol),
    writes(index, count) {
      const frames: Buffer[] = []
      for (let left = count; left > 0; left -= writesPerMessage) {
        frames.push(clientFrame(messages.message(index, Math.min(left, writesPerMessage))))
      }
      return Buffer.concat(frames)
    },
    answers(bytes) {
      let at = 0
      let count = 0
      let isPinged = false
      for (;;) {
        const frame = serverFrame(bytes, at)
        if (frame === null) {
          const rest = bytes.subarray(at)
          return isPinged ? { count, rest, reply: PONG } : { count, rest }
        }
        at = frame.end
        if (frame.opcode === PING) {
          isPinged = true
          continue
        }
        const acks = acknowledged(frame.payload)
        if (acks === 0) throw new Error(`a refusal: ${frame.opcode} ${frame.payload.toString('latin1')}`)
        count += acks
      }
    },
  }
}

export async function handshake(port: number, path: string, subprotocol: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.setNoDelay(true)
  socket.write(upgradeRequest(port, path, subprotocol))
  const [head] = (await once(socket, 'data')) as [Buffer]
  checkUpgraded(head)
  return socket
}

export function upgradeRequest(port: number, path: string, subprotocol: string): string {
  const key = randomBytes(16).toString('base64')
  return (
    `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
    `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: ${subprotocol}\r\n\r\n`
  )
}

export function checkUpgraded(head: Buffer): void {
  const text = head.toString('latin1')
  if (!text.startsWith('HTTP/1.1 101') || !text.endsWith('\r\n\r\n')) throw new Error(`no upgrade: ${text}`)
}

export function clientFrame(message: string | Uint8Array): Buffer {
  const isText = typeof message === 'string'
  const payload = isText
    ? Buffer.from(message)
    : Buffer.from(message.buffer, message.byteOffset, message.byteLength)
  if (payload.length > 0xffff) throw new Error('a benchmark message is at most 64 KiB')
  const head = payload.length < 126 ? Buffer.alloc(6) : Buffer.alloc(8)
  head[0] = isText ? 0x81 : 0x82
  if (payload.length < 126) head[1] = 0x80 | payload.length
  else {
    head[1] = 0x80 | 126
    head.writeUInt16BE(payload.length, 2)
  }
  return Buffer.concat([head, payload])
}

export const PING = 9
/** An answer to a ping without payload: masked, as a client's frames are. */
export const PONG = Buffer.from([0x8a, 0x80, 0, 0, 0, 0])

export interface ServerFrame {
  readonly opcode: number
  readonly payload: Buffer
  readonly end: number
}

export function serverFrame(bytes: Buffer, at: number): ServerFrame | null {
  if (bytes.length - at < 2) return null
  const short = bytes[at + 1]! & 0x7f
  if (short === 127) throw new Error('an answer is too long')
  const headBytes = short === 126 ? 4 : 2
  if (bytes.length - at < headBytes) return null
  const length = short === 126 ? bytes.readUInt16BE(at + 2) : short
  const end = at + headBytes + length
  if (end > bytes.length) return null
  return { opcode: bytes[at]! & 0x0f, payload: bytes.subarray(at + headBytes, end), end }
}

/** Redis commands; every answer has to be an integer. */
export function redisProtocol(port: number, command: (index: number) => readonly string[]): Protocol {
  return {
    async open() {
      const socket = connect(port, '127.0.0.1')
      await once(socket, 'connect')
      socket.setNoDelay(true)
      return socket
    },
    writes(index, count) {
      const parts = command(index)
      const text = parts.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join('')
      return Buffer.from(`*${parts.length}\r\n${text}`.repeat(count))
    },
    answers(bytes) {
      let at = 0
      let count = 0
      for (;;) {
        const end = bytes.indexOf('\r\n', at)
        if (end < 0) return { count, rest: bytes.subarray(at) }
        if (bytes[at] !== 0x3a) throw new Error(`Redis refused: ${bytes.toString('latin1', at, end)}`)
        count += 1
        at = end + 2
      }
    },
  }
}
