/**
 * Tracks the connections of a server, and closes them in an orderly way when the server stops.
 *
 * Stopping first accepts the clients that have already connected, then closes the listener. A request under
 * way is answered in full, and so is one whose first bytes arrive within STOP_ARRIVAL_GRACE_MS; the answer
 * says `Connection: close`. A connection without a request, or whose body has stopped arriving, is then
 * closed. Node's own closeIdleConnections would reset a connection whose request it has not read yet, and
 * does not know connections that never sent anything. Connections that upgrade are forgotten:
 * stream/websocket.ts closes WebSockets.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { createServer, Server as Listener, type ListenOptions, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { Server as SecureServer } from 'node:tls'
import { duplicateDescriptor } from '../../ffi/library.js'
import { ACCEPTS_PER_TURN, LISTEN_BACKLOG, STOP_ARRIVAL_GRACE_MS } from '../../limits.js'
import type { OpenRequests } from '../context.js'

/** How often a stopping server checks its connections. */
const CHECK_INTERVAL_MS = STOP_ARRIVAL_GRACE_MS / 10

interface TrackedConnection {
  /**
   * The response to the newest request, until it is complete: responses leave in the order of the requests.
   */
  response: ServerResponse | undefined
  /** When a stopping server no longer waits for a request, or for more of a body. */
  graceEndsMs: number
  /** Bytes read up to the last check. */
  bytesRead: number
}

/** Tracks every connection of a server from now on. */
export class Connections implements OpenRequests {
  readonly #server: Server
  readonly #listeners: Listener[]
  readonly #open = new Map<Duplex, TrackedConnection>()
  #acceptedCount = 0
  #openRequests = 0
  /** Empty most of the time. */
  readonly #excluded = new Set<ServerResponse>()
  #isClosed = false

  constructor(server: Server) {
    this.#server = server
    this.#listeners = [server]
    // Under TLS the requests come on another socket than the one that was accepted. It counts from the end of
    // its handshake; until then the time limit of the handshake bounds it.
    const event = server instanceof SecureServer ? 'secureConnection' : 'connection'
    server.on(event, (socket: Socket) => this.#onConnection(socket))
    // Before the framework's listener, which may answer at once.
    server.prependListener('request', (request, response) => this.#onRequest(request, response))
    server.on('upgrade', (_request, socket) => this.#open.delete(socket))
  }

  get count(): number {
    return this.#openRequests
  }

  exclude(response: ServerResponse): void {
    if (response.closed || this.#excluded.has(response)) return
    this.#excluded.add(response)
    this.#openRequests--
  }

  /** The response to the newest request of a connection, while it is not complete. */
  pendingResponse(socket: Duplex): ServerResponse | undefined {
    return this.#open.get(socket)?.response
  }

  /** Accepts connections at another address too. Rejects if it cannot listen there. */
  async listenAlso(host: string, port: number): Promise<void> {
    await this.#listen(this.#listenerToo(), { host, port, backlog: LISTEN_BACKLOG })
  }

  /**
   * Accepts several clients in a turn of the event loop. A listener accepts one: behind a busy event loop a
   * few hundred clients that connect and hang up would keep all others out for a minute.
   */
  async acceptMore(): Promise<void> {
    for (const listener of [...this.#listeners]) {
      for (let i = 1; i < ACCEPTS_PER_TURN; i++) {
        const fd = duplicateDescriptor(descriptorOf(listener))
        if (fd < 0) throw new Error('too many open files to listen')
        await this.#listen(this.#listenerToo(), { fd, backlog: LISTEN_BACKLOG })
      }
    }
  }

  /**
   * Takes the listeners and connections of another server: it accepts no more, and what arrives on its
   * connections is handled here. Rejects if this server cannot listen.
   */
  async takeOver(other: Connections): Promise<void> {
    const [first, ...rest] = other.#listeners
    // Each listener here gets the open socket of one there, so that no client is refused in between.
    await listening(this.#server, first as Listener)
    for (const there of rest) await this.#listen(this.#listenerToo(), there)
    other.#listeners.length = 0
    for (const event of ['request', 'checkContinue', 'upgrade']) {
      other.#server.removeAllListeners(event)
      if (this.#server.listenerCount(event) > 0)
        other.#server.on(event, (...args: unknown[]) => this.#server.emit(event, ...args))
    }
    for (const socket of other.#open.keys()) this.#track(socket as Socket)
  }

  /**
   * Stops listening. Resolves when every connection has ended, which a client that reads no answer can delay.
   */
  async stop(): Promise<void> {
    await this.#acceptBacklog()
    // The close() of an HTTP server would close idle connections too.
    const areDown = this.#listeners.map(
      (listener) =>
        new Promise((resolve) => {
          Listener.prototype.close.call(listener, resolve)
        }),
    )
    this.#isClosed = true
    const graceEndsMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    for (const connection of this.#open.values()) {
      connection.graceEndsMs = graceEndsMs
      if (connection.response?.headersSent === false) connection.response.setHeader('connection', 'close')
    }
    while (this.#open.size > 0) {
      await delay(CHECK_INTERVAL_MS)
      // Bytes that have already arrived are read first.
      await turn()
      for (const [socket, connection] of this.#open)
        if (isOver(socket as Socket, connection)) socket.destroy()
    }
    await Promise.all(areDown)
  }

  /** Ends every connection. */
  cutOff(): void {
    for (const socket of this.#open.keys()) socket.destroy()
  }

  /** Accepts clients that have connected already: one turn of the event loop may accept only one of them. */
  async #acceptBacklog(): Promise<void> {
    const latestMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    for (let before = -1; before !== this.#acceptedCount && performance.now() < latestMs; ) {
      before = this.#acceptedCount
      await turn()
      await turn()
    }
  }

  #listenerToo(): Listener {
    // The options of an HTTP server. Its connections are handed to the one server, so that all are treated
    // alike.
    const options = { allowHalfOpen: true, noDelay: true }
    return createServer(options, (socket) => this.#server.emit('connection', socket))
  }

  async #listen(listener: Listener, where: Where): Promise<void> {
    await listening(listener, where)
    this.#listeners.push(listener)
  }

  #onConnection(socket: Socket): void {
    this.#acceptedCount++
    this.#track(socket)
  }

  #track(socket: Socket): void {
    const graceEndsMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    this.#open.set(socket, { response: undefined, graceEndsMs, bytesRead: 0 })
    socket.once('close', () => this.#open.delete(socket))
  }

  #onRequest({ socket }: IncomingMessage, response: ServerResponse): void {
    const connection = this.#open.get(socket)
    if (connection === undefined) return
    this.#openRequests++
    if (this.#isClosed) {
      // The response before this one is no longer the last.
      if (connection.response?.headersSent === false) connection.response.removeHeader('connection')
      response.setHeader('connection', 'close')
    }
    connection.response = response
    response.once('close', () => {
      if (this.#excluded.size === 0 || !this.#excluded.delete(response)) this.#openRequests--
      if (connection.response !== response) return
      connection.response = undefined
      if (this.#isClosed) connection.graceEndsMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    })
  }
}

type Where = ListenOptions | { readonly fd: number; readonly backlog: number } | Listener

/** Listens at an address, or on the socket of a listener, which must not be used any more. */
const listening = (server: Listener, where: Where): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(where as ListenOptions, () => {
      server.off('error', reject)
      resolve()
    })
  })

/** The descriptor that a listener listens on. Node has no public name for it. */
const descriptorOf = (listener: Listener): number =>
  (listener as unknown as { readonly _handle: { readonly fd: number } })._handle.fd

/** Whether a stopping server need not wait for this connection any longer. */
function isOver(socket: Socket, connection: TrackedConnection): boolean {
  const { response, bytesRead, graceEndsMs } = connection
  if (response?.req.complete === true) return false
  const nowMs = performance.now()
  if (response !== undefined && socket.bytesRead > bytesRead) {
    connection.bytesRead = socket.bytesRead
    connection.graceEndsMs = Math.max(graceEndsMs, nowMs + STOP_ARRIVAL_GRACE_MS)
    return false
  }
  return nowMs >= graceEndsMs
}
