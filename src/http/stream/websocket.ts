/**
 * The WebSockets of the stream: who may open one, their heartbeats, and how they are closed when the server
 * stops.
 *
 * The handshake itself is a route of the framework (routes/stream.ts), so that every hook runs for it as for
 * any request.
 */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import { type ServerOptions, WebSocket } from 'ws'
import { loginEnded } from '../../auth/authenticator.js'
import { readerOf } from '../../auth/guarded-bus.js'
import { ByteBudget } from '../../byte-budget.js'
import { MmsbError } from '../../errors.js'
import { HTTP_ERROR_LINGER_MS, STREAM_GOODBYE_MS, STREAM_PING_INTERVAL_MS } from '../../limits.js'
import type { Connection, Reader } from '../../stream/connection.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../wire/limits.js'
import { BINARY_PROTOCOL, JSON_PROTOCOL, LOGIN_ENDED } from '../../wire/messages.js'
import { whileLoggedIn } from '../authentication.js'
import type { AppContext } from '../context.js'
import { senderOf } from '../observe/audit.js'
import { SessionAudit } from '../observe/session-audit.js'
import { SessionTrace, type Tracing } from '../observe/tracing.js'
import { attachFastReceiver, type FastReceiver } from './fast-receiver.js'
import { Receiving } from './receiving.js'
import { StreamSession } from './session.js'
import { SocketSink } from './socket-sink.js'
import { BINARY_ENCODER, JSON_ENCODER } from './ws-frames.js'

const PROTOCOLS: readonly string[] = [JSON_PROTOCOL, BINARY_PROTOCOL]
const GOING_AWAY = 1001
const TRY_AGAIN_LATER = 1013

const REASONS: Readonly<Record<number, string>> = {
  1002: 'the client broke the WebSocket protocol',
  1008: 'a message comes in too many fragments',
  1007: 'a text message is not UTF-8',
  1009: `a message is larger than ${STREAM_MESSAGE_MAX_BYTES} bytes`,
}

/** Gives a reason where the library closes with a code alone. */
class ReasonedWebSocket extends WebSocket {
  override close(code?: number, reason: string | Buffer | undefined = REASONS[code ?? 0]): void {
    super.close(code, reason)
  }
}

/** Options of the WebSocket library. */
export const WEBSOCKET_OPTIONS: ServerOptions = {
  clientTracking: false,
  WebSocket: ReasonedWebSocket,
  maxPayload: STREAM_MESSAGE_MAX_BYTES,
  perMessageDeflate: false,
  handleProtocols: (offered) => [...offered].find((protocol) => PROTOCOLS.includes(protocol)) ?? false,
}

/** An open WebSocket. */
interface OpenWebSocket {
  readonly session: StreamSession
  /** Only for the binary protocol, and only if the library has the member it attaches to. */
  readonly receiver: FastReceiver | undefined
}

export interface StreamOptions {
  /** A WebSocket that is silent for longer than this is closed. */
  readonly pingIntervalMs?: number
  readonly tracing?: Tracing | undefined
}

export class StreamServer {
  readonly #tracing: Tracing | undefined
  readonly #context: AppContext
  readonly #log: FastifyBaseLogger
  readonly #open = new Map<WebSocket, OpenWebSocket>()
  readonly #heartbeat: NodeJS.Timeout
  /** Messages being received or parsed. */
  readonly #messages: ByteBudget
  /** Messages that took the fast path on connections that have closed. */
  #pastFastMessages = 0
  #hasWarned = false

  constructor(context: AppContext, log: FastifyBaseLogger, options: StreamOptions = {}) {
    const { pingIntervalMs = STREAM_PING_INTERVAL_MS, tracing } = options
    this.#tracing = tracing
    this.#context = context
    this.#log = log
    this.#messages = new ByteBudget(context.bus.limits, {
      all: 'messageBudgetBytes',
      each: 'messageBudgetPerConnectionBytes',
      what: 'messages',
    })
    this.#heartbeat = setInterval(() => this.#checkLife(), pingIntervalMs)
    this.#heartbeat.unref()
  }

  /** How many messages fast-receiver.ts has taken from the library since start. */
  get fastMessages(): number {
    let sum = this.#pastFastMessages
    for (const { receiver } of this.#open.values()) sum += receiver?.messages ?? 0
    return sum
  }

  /** Why a WebSocket cannot be opened for this request; undefined when it can. */
  refusalOf({ headers }: IncomingMessage, reader: Reader): MmsbError | undefined {
    if (this.#context.isStopping) return new MmsbError('OVERLOADED', 'the server is stopping')
    const full = this.#context.hub.refusal(reader)
    if (full !== undefined) return full
    const offered = headers['sec-websocket-protocol']
    if (offered === undefined || offered.split(',').some((p) => PROTOCOLS.includes(p.trim())))
      return undefined
    return new MmsbError(
      'INVALID_REQUEST',
      `Sec-WebSocket-Protocol: this server supports ${PROTOCOLS.join(' and ')}`,
    )
  }

  /** Serves a WebSocket whose handshake is done. */
  serve(webSocket: WebSocket, request: FastifyRequest): void {
    const { bus } = request
    const { socket } = request.raw
    const isBinary = webSocket.protocol === BINARY_PROTOCOL
    const { auditor } = this.#context
    const { queues } = this.#context.hub
    const encoder = isBinary ? BINARY_ENCODER : JSON_ENCODER
    const sink = new SocketSink(socket, { queues, link: socket, encoder })
    const connection = this.#connect(webSocket, sink, readerOf(bus))
    if (connection === undefined) return
    const receiving = new Receiving(this.#messages, (error) => endReceiving(webSocket, socket, error))
    // Before the library's listener, so that a message that ends in this piece is counted from here on.
    socket.prependListener('data', (piece: Buffer) => receiving.onPiece(piece.length))
    const session = new StreamSession({
      context: this.#context,
      bus,
      socket: webSocket,
      sink,
      connection,
      isBinary,
      onInternal: (cause) => this.#log.error({ err: cause, requestId: request.id }, 'internal error'),
      takenBytes: () => sink.takenBytes,
      receiving,
      trace: this.#tracing && new SessionTrace(this.#tracing, request),
      audit: auditor === undefined ? undefined : new SessionAudit(auditor, senderOf(request)),
    })
    const receiver = isBinary ? this.#attach(webSocket, session) : undefined
    this.#log.debug({ ...senderOf(request), protocol: webSocket.protocol }, 'stream opened')
    this.#open.set(webSocket, { session, receiver })
    const onDrain = (): void => {
      connection.drained()
      session.drained()
    }
    socket.on('drain', onDrain)
    sink.onWritten = () => {
      connection.grew()
      onDrain()
    }
    webSocket.on('pong', (data) => {
      session.isAlive = true
      receiving.onControl(data.length)
    })
    webSocket.on('ping', (data) => receiving.onControl(data.length))
    const end = (): void => {
      // The client may take its time to answer the closing handshake. Nothing may pass until then.
      session.end()
      connection.close()
      webSocket.close(LOGIN_ENDED, loginEnded().message)
    }
    webSocket.on('close', whileLoggedIn(request, this.#context, end))
    webSocket.on('close', () => {
      this.#open.delete(webSocket)
      this.#pastFastMessages += receiver?.messages ?? 0
      this.#log.debug(senderOf(request), 'stream closed')
      connection.close()
      sink.gone()
      receiving.end()
    })
  }

  /** Others may have come since the handshake began. */
  #connect(webSocket: WebSocket, sink: SocketSink, reader: Reader): Connection | undefined {
    try {
      return this.#context.hub.connect(sink, reader)
    } catch (error) {
      webSocket.close(TRY_AGAIN_LATER, (error as MmsbError).message)
      return undefined
    }
  }

  #attach(webSocket: WebSocket, session: StreamSession): FastReceiver | undefined {
    const receiver = attachFastReceiver(webSocket, (frames) => session.onFrames(frames))
    if (receiver === undefined && !this.#hasWarned) {
      this.#hasWarned = true
      this.#log.warn(
        'the fast path for small binary messages is off: this version of ws has no member `_receiver` to attach to',
      )
    }
    return receiver
  }

  #checkLife(): void {
    for (const [webSocket, { session }] of this.#open) {
      if (!session.showedLife()) webSocket.terminate()
      else if (webSocket.readyState === webSocket.OPEN) webSocket.ping()
    }
  }

  /**
   * Answers what is under way, then closes every WebSocket with 1001. New ones are refused once the context
   * is stopping.
   */
  async close(): Promise<void> {
    clearInterval(this.#heartbeat)
    await Promise.all([...this.#open].map(([webSocket, { session }]) => sayGoodbye(webSocket, session)))
  }
}

/** Closes a WebSocket whose message has no room. Nothing more of it is kept. */
function endReceiving(webSocket: WebSocket, socket: Socket, error: unknown): void {
  webSocket.close(TRY_AGAIN_LATER, (error as MmsbError).message)
  // The library would go on to gather the message until the client has answered.
  socket.removeAllListeners('data')
  socket.resume()
  setTimeout(() => webSocket.terminate(), HTTP_ERROR_LINGER_MS).unref()
}

/**
 * Answers what a session has under way, then closes it. A client that does not close its side in time is cut
 * off.
 */
async function sayGoodbye(webSocket: WebSocket, session: StreamSession): Promise<void> {
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
