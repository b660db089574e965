/**
 * Listeners by the hundred, over raw sockets: WebSocket subscribers and readers of a Redis stream, each of which says which
 * write it has just heard of. And writers that tell them apart by a serial number.
 *
 * Invariant: an answer that is neither an acknowledgement nor an event ends the run with an error.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { clientFrame, handshake, PING, PONG, serverFrame } from './pipeline.js'

/** Writers and listeners of one server. */
export interface Side {
  readonly listeners: number
  /** Sends a write; its serial number comes back with the event. */
  write(serial: number): void
  /** Is told of each event: which listener, the newest write in it. */
  onEvent: (listener: number, serial: number) => void
  /** What went wrong, if something did. */
  readonly failure: Error | undefined
  close(): void
}

export interface WebSocketSide {
  readonly port: number
  readonly listeners: number
  readonly listenerPath: string
  /** What a listener says first, if anything; it is answered before anything else is done. */
  readonly hello: string | undefined
  write(serial: number): string
  /** The serial number in an event; undefined where the message is none. Throws on an error. */
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

  /** Runs what looks at an answer; what it throws is a failure. */
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
  for (let index = 0; index < listeners; index++) {
    const socket = sockets.add(await handshake(port, listenerPath, 'mmsb.v1.json'))
    eachText(socket, sockets, (text) => {
      const serial = serialOf(text)
      if (serial !== undefined) sockets.onEvent(index, serial)
    })
    if (hello === undefined) continue
    socket.write(clientFrame(hello))
    await once(socket, 'data')
  }
  const writer = sockets.add(await handshake(port, '/v1/stream', 'mmsb.v1.json'))
  eachText(writer, sockets, (text) => {
    if (!text.includes('"ack"')) throw new Error(`not an acknowledgement: ${text}`)
  })
  return sideOf(sockets, listeners, (serial) => writer.write(clientFrame(options.write(serial))))
}

function sideOf(sockets: Sockets, listeners: number, write: (serial: number) => void): Side {
  return Object.assign(sockets, { listeners, write })
}

/** Calls back with the payload of each message. */
function eachText(socket: Socket, sockets: Sockets, look: (text: string) => void): void {
  let rest: Buffer = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) =>
    sockets.guard(() => {
      const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
      let at = 0
      for (let frame = serverFrame(bytes, at); frame !== null; frame = serverFrame(bytes, at)) {
        at = frame.end
        if (frame.opcode === PING) socket.write(PONG)
        else look(frame.payload.toString('latin1'))
      }
      rest = bytes.subarray(at)
    }),
  )
}

const STREAM = 'bench.stream'

const command = (...parts: string[]): string =>
  `*${parts.length}\r\n${parts.map((part) => `$${part.length}\r\n${part}\r\n`).join('')}`

/** A Redis stream: XADD of so many bytes, and listeners that XREAD BLOCK after what they have seen. */
export async function redisStreamSide(port: number, listeners: number, eventBytes: number): Promise<Side> {
  const sockets = new Sockets()
  const open = async () => {
    const socket = sockets.add(connect(port, '127.0.0.1'))
    await once(socket, 'connect')
    socket.setNoDelay(true)
    return socket
  }
  const payload = (serial: number) => `${'x'.repeat(Math.max(eventBytes - 10, 0))}s${serial}e`
  const writer = await open()
  writer.write(command('XADD', STREAM, 'MAXLEN', '~', '1000', '*', 'v', payload(0)))
  const [first] = (await once(writer, 'data')) as [Buffer]
  const start = /(\d+-\d+)/.exec(first.toString('latin1'))![1]!
  writer.on('data', (chunk: Buffer) => {
    if (chunk.includes('-ERR')) sockets.fail(new Error(chunk.toString('latin1')))
  })
  for (let index = 0; index < listeners; index++) {
    const socket = await open()
    const read = (after: string) => socket.write(command('XREAD', 'BLOCK', '0', 'STREAMS', STREAM, after))
    let text = ''
    socket.on('data', (chunk: Buffer) =>
      sockets.guard(() => {
        text += chunk.toString('latin1')
        if (text.startsWith('-')) throw new Error(`Redis refused: ${text}`)
        // The payload ends with its serial number, and the answer with the payload of the newest entry.
        const last = /s(\d+)e\r\n$/.exec(text)
        if (last === null) return
        const ids = [...text.matchAll(/\r\n(\d+-\d+)\r\n/g)]
        text = ''
        read(ids.at(-1)![1]!)
        sockets.onEvent(index, Number(last[1]))
      }),
    )
    read(start)
  }
  return sideOf(sockets, listeners, (serial) =>
    writer.write(command('XADD', STREAM, 'MAXLEN', '~', '1000', '*', 'v', payload(serial))),
  )
}
