/**
 * The WebSocket door of the stream at /v1/stream: handshakes, heartbeats, farewells.
 *
 * Handshakes are answered here rather than by a plugin of the framework, so that a refusal is a problem document like any other
 * and plain requests run no hook on account of them.
 */
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { FastifyBaseLogger } from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
import { MmsbError } from '../../errors.js'
import { STREAM_CONNECTIONS_MAX, STREAM_GOODBYE_MS, STREAM_PING_INTERVAL_MS } from '../../limits.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../wire/limits.js'
import { BINARY_PROTOCOL, JSON_PROTOCOL, STREAM_PATH } from '../../wire/messages.js'
import type { AppContext } from '../context.js'
import { rawProblem } from '../reply/problem.js'
import { divert } from './fast-receiver.js'
import { StreamSession } from './session.js'
import { SocketSink } from './socket-sink.js'
import { jsonFrame, streamFrame } from './ws-frames.js'

const PROTOCOLS: readonly string[] = [JSON_PROTOCOL, BINARY_PROTOCOL]
const GOING_AWAY = 1001

export interface StreamServer {
  /** Refuses newcomers, answers what is under way, closes every WebSocket with 1001. */
  close(): Promise<void>
}

const REASONS: Readonly<Record<number, string>> = {
  1002: 'what was sent breaks the WebSocket protocol',
  1007: 'a text message is not UTF-8',
  1009: `a message is larger than ${STREAM_MESSAGE_MAX_BYTES} bytes`,
}

/** Says why, where the library only gives the code. */
class Reasoned extends WebSocket {
  override close(code?: number, reason: string | Buffer | undefined = REASONS[code ?? 0]): void {
    super.close(code, reason)
  }
}

/** Serves the stream on an HTTP server. */
export function attachStream(
  server: Server,
  context: AppContext,
  log: FastifyBaseLogger,
  pingIntervalMs = STREAM_PING_INTERVAL_MS,
): StreamServer {
  const sessions = new Map<WebSocket, StreamSession>()
  const wss = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    WebSocket: Reasoned,
    maxPayload: STREAM_MESSAGE_MAX_BYTES,
    handleProtocols: (offered) => [...offered].find((protocol) => PROTOCOLS.includes(protocol)) ?? false,
  })

  const onUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer): void => {
    socket.on('error', destroyOnError)
    const refusal = refusalOf(request, context, sessions.size)
    if (refusal !== null) {
      refuse(socket, refusal)
      return
    }
    wss.handleUpgrade(request, socket, head, (webSocket) => {
      socket.off('error', destroyOnError)
      open(webSocket, socket as Socket)
    })
  }

  const open = (webSocket: WebSocket, socket: Socket): void => {
    const isBinary = webSocket.protocol === BINARY_PROTOCOL
    const sink = new SocketSink(socket, isBinary ? streamFrame : jsonFrame)
    const connection = context.hub.connect(sink)
    const onInternal = (cause: unknown): void => log.error({ err: cause }, 'internal error')
    const takenBytes = (): number => socket.bytesWritten - socket.writableLength
    const rooms = { context, socket: webSocket, sink, connection, isBinary, onInternal, takenBytes }
    const session = new StreamSession(rooms)
    sessions.set(webSocket, session)
    if (isBinary) divert(webSocket, (frames) => session.onFrames(frames))
    socket.on('drain', () => {
      connection.drained()
      session.drained()
    })
    webSocket.on('pong', () => {
      session.isAlive = true
    })
    // A broken frame, bad UTF-8 or an oversize message: the library closes with the right code; there is nothing to add.
    webSocket.on('error', () => {})
    webSocket.on('close', () => {
      sessions.delete(webSocket)
      connection.close()
    })
  }

  const heartbeat = setInterval(() => {
    for (const [webSocket, session] of sessions) {
      if (!session.showedLife()) webSocket.terminate()
      else if (webSocket.readyState === webSocket.OPEN) webSocket.ping()
    }
  }, pingIntervalMs)
  heartbeat.unref()

  server.on('upgrade', onUpgrade)
  return {
    close: async () => {
      clearInterval(heartbeat)
      await Promise.all([...sessions].map(([webSocket, session]) => farewell(webSocket, session)))
    },
  }
}

function destroyOnError(this: Duplex): void {
  this.destroy()
}

function refusalOf(request: IncomingMessage, context: AppContext, sessionCount: number): MmsbError | null {
  const foreign = context.guard(request.headers)
  if (foreign !== null) return foreign
  const [path, query] = (request.url ?? '').split('?', 2)
  if (path !== STREAM_PATH) return new MmsbError('NOT_FOUND', `no WebSocket at ${path?.slice(0, 200)}`)
  if (query !== undefined) return new MmsbError('INVALID_REQUEST', 'query: the stream takes none')
  if (context.isStopping) return new MmsbError('OVERLOADED', 'the server is stopping')
  if (sessionCount >= STREAM_CONNECTIONS_MAX) {
    return new MmsbError('OVERLOADED', `${STREAM_CONNECTIONS_MAX} WebSockets are open already`)
  }
  const offered = request.headers['sec-websocket-protocol']
  if (offered === undefined || offered.split(',').some((p) => PROTOCOLS.includes(p.trim()))) return null
  return new MmsbError(
    'INVALID_REQUEST',
    `Sec-WebSocket-Protocol: this server speaks ${PROTOCOLS.join(' and ')}`,
  )
}

/** Answers an upgrade request with a problem document. */
function refuse(socket: Duplex, error: MmsbError): void {
  socket.once('finish', () => socket.destroy())
  socket.end(rawProblem(error))
}

/** Answers what a session has under way, then closes it; a client that does not answer the farewell is cut off. */
async function farewell(webSocket: WebSocket, session: StreamSession): Promise<void> {
  await Promise.race([session.finish(), delay(STREAM_GOODBYE_MS)])
  if (webSocket.readyState === webSocket.CLOSED) return
  const closed = new Promise((resolve) => {
    webSocket.once('close', resolve)
  })
  webSocket.resume()
  webSocket.close(GOING_AWAY, 'the server is stopping')
  await Promise.race([closed, delay(STREAM_GOODBYE_MS)])
  webSocket.terminate()
}

const delay = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
