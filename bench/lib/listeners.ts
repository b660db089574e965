/**
 * Hundreds of listeners over raw sockets: WebSocket subscribers and readers of a Redis stream. Each write
 * carries a serial number, and each listener reports the newest one it received.
 *
 * Invariant: an answer that is neither an acknowledgement nor an event ends the run with an error.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { checkUpgraded, clientFrame, PING, PONG, serverFrame, upgradeRequest } from './pipeline.js'

/** Writers and listeners of one server. */
export interface Side {
  readonly listeners: number
  /** Sends a write; the event brings its serial number back. */
  write(serial: number): void
  /** Called for each event with the listener and the newest write in the event. */
  onEvent: (listener: number, serial: number) => void
  /** The first error, if any. */
  readonly failure: Error | undefined
  close(): void
}

export interface WebSocketSide {
  readonly port: number
  readonly listeners: number
  readonly listenerPath: string
  /** A listener's first message, if any; its answer is awaited before anything else. */
  readonly hello: string | undefined
  write(serial: number): string
  /** The serial number in an event; undefined for any other message. Throws on an error. */
  serialOf(text: string): number | undefined
}

class Sockets {
  onEvent: Side['onEvent'] = () => {}
  failure: Error | undefined
  readonly #sockets: Socket[] = []

  add(socket: Socket): Socket {
    this.#sockets.push(socket)
    socket.on('error', (error) => this.fail(error))
    socket.on('close', () => this.fail(new Error('the server closed the connection')))
    return socket
  }

  fail(error: Error): void {
    this.failure ??= error
  }

  /** Runs the check of an answer; an exception counts as a failure. */
  guard(look: () => void): void {
    try {
      look()
    } catch (error) {
      this.fail(error as Error)
    }
  }

  close(): void {
    for (const socket of this.#sockets) {
      socket.removeAllListeners('close')
      socket.destroy()
    }
  }
}

export async function webSocketSide(options: WebSocketSide): Promise<Side> {
  const sockets = new Sockets()
  const { port, listeners, listenerPath, hello, serialOf } = options
  const upgraded = async (path: string): Promise<Wire> => {
    const wire = await openWire(port, sockets)
    wire.socket.write(upgradeRequest(port, path, 'mmsb.v1.json'))
    checkUpgraded(await wire.next())
    return wire
  }
  // All listeners get the same bytes, so a message equal to the one before is not parsed again.
  let newest: Buffer = Buffer.alloc(0)
  let newestSerial: number | undefined
  for (let index = 0; index < listeners; index++) {
    const wire = await upgraded(listenerPath)
    eachPayload(wire, sockets, (payload) => {
      if (!payload.equals(newest)) {
        newest = Buffer.from(payload)
        newestSerial = serialOf(newest.toString('latin1'))
      }
      if (newestSerial !== undefined) sockets.onEvent(index, newestSerial)
    })
    if (hello === undefined) continue
    const answered = wire.next()
    wire.socket.write(clientFrame(hello))
    await answered
  }
  const writer = await upgraded('/v1/stream')
  eachPayload(writer, sockets, (payload) => {
    if (!payload.includes('"ack"')) throw new Error(`not an acknowledgement: ${payload.toString('latin1')}`)
  })
  return sideOf(sockets, listeners, (serial) => writer.socket.write(clientFrame(options.write(serial))))
}

/** A socket whose bytes are parsed in the buffer they were read into: no allocation, no stream in between. */
interface Wire {
  readonly socket: Socket
  /** Receives the bytes that arrived; they are valid until it returns. */
  onBytes: (bytes: Buffer) => void
  /** A copy of what arrives next; `onBytes` gets it too. */
  next(): Promise<Buffer>
}

/** All sockets of this process read into this buffer, one after another. */
const READ_BUFFER = Buffer.alloc(64 * 1024)

async function openWire(port: number, sockets: Sockets): Promise<Wire> {
  let waiting: ((bytes: Buffer) => void) | undefined
  const onread = {
    buffer: READ_BUFFER,
    callback: (length: number): boolean => {
      const bytes = READ_BUFFER.subarray(0, length)
      const wake = waiting
      waiting = undefined
      wire.onBytes(bytes)
      wake?.(Buffer.from(bytes))
      return true
    },
  }
  const socket = sockets.add(connect({ port, host: '127.0.0.1', onread }))
  const wire: Wire = {
    socket,
    onBytes: () => {},
    next: () => new Promise((resolve) => (waiting = resolve)),
  }
  await once(socket, 'connect')
  socket.setNoDelay(true)
  return wire
}

function sideOf(sockets: Sockets, listeners: number, write: (serial: number) => void): Side {
  return Object.assign(sockets, { listeners, write })
}

/** Calls back with the payload of each message. */
function eachPayload(wire: Wire, sockets: Sockets, look: (payload: Buffer) => void): void {
  let rest: Buffer | undefined
  wire.onBytes = (chunk) =>
    sockets.guard(() => {
      const bytes = rest === undefined ? chunk : Buffer.concat([rest, chunk])
      let at = 0
      for (let frame = serverFrame(bytes, at); frame !== null; frame = serverFrame(bytes, at)) {
        at = frame.end
        if (frame.opcode === PING) wire.socket.write(PONG)
        else look(frame.payload)
      }
      rest = at === bytes.length ? undefined : Buffer.from(bytes.subarray(at))
    })
}

const STREAM = 'bench.stream'

const command = (...parts: string[]): string =>
  `*${parts.length}\r\n${parts.map((part) => `$${part.length}\r\n${part}\r\n`).join('')}`

/**
 * A Redis stream: XADD of the same number of bytes, and listeners that XREAD BLOCK after the last entry seen.
 */
export async function redisStreamSide(port: number, listeners: number, eventBytes: number): Promise<Side> {
  const sockets = new Sockets()
  const payload = (serial: number) => `${'x'.repeat(Math.max(eventBytes - 10, 0))}s${serial}e`
  const writer = await openWire(port, sockets)
  const answered = writer.next()
  writer.socket.write(command('XADD', STREAM, 'MAXLEN', '~', '1000', '*', 'v', payload(0)))
  const start = /(\d+-\d+)/.exec((await answered).toString('latin1'))![1]!
  writer.onBytes = (bytes) => {
    if (bytes.includes('-ERR')) sockets.fail(new Error(bytes.toString('latin1')))
  }
  for (let index = 0; index < listeners; index++) {
    const wire = await openWire(port, sockets)
    const read = (after: string) =>
      wire.socket.write(command('XREAD', 'BLOCK', '0', 'STREAMS', STREAM, after))
    let text = ''
    wire.onBytes = (bytes) =>
      sockets.guard(() => {
        text += bytes.toString('latin1')
        if (text.startsWith('-')) throw new Error(`Redis refused: ${text}`)
        // The payload ends with its serial number, and the answer with the payload of the newest entry.
        const last = /s(\d+)e\r\n$/.exec(text)
        if (last === null) return
        const ids = [...text.matchAll(/\r\n(\d+-\d+)\r\n/g)]
        text = ''
        read(ids.at(-1)![1]!)
        sockets.onEvent(index, Number(last[1]))
      })
    read(start)
  }
  return sideOf(sockets, listeners, (serial) =>
    writer.socket.write(command('XADD', STREAM, 'MAXLEN', '~', '1000', '*', 'v', payload(serial))),
  )
}
