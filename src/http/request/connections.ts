/**
 * The connections of a server, and how they end in order.
 *
 * When the server stops: who has connected is let in before the listener closes; a request under way, and one whose first bytes
 * come within STOP_ARRIVAL_GRACE_MS, is answered in full and told `Connection: close`; a connection that then has none, a body
 * that no longer comes, is ended. Node's own closeIdleConnections would reset a connection whose request it has not read yet,
 * and does not know one that never sent anything. WebSockets are no concern of this file: who upgrades is forgotten here.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { createServer, Server as Listener, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { STOP_ARRIVAL_GRACE_MS } from '../../limits.js'

/** How often a stopping server looks at its connections. */
const LOOK_MS = STOP_ARRIVAL_GRACE_MS / 10

interface Connection {
  /** Of the newest request, until it has been answered: answers leave in the order of the requests. */
  response: ServerResponse | null
  /** How long a request, or more of a body, may be waited for. */
  graceEndsMs: number
  /** Those read when it was last looked at. */
  bytesRead: number
}

export interface Connections {
  /** Takes connections at another address too. Rejects as `listen` fails. */
  listenAlso(host: string, port: number): Promise<void>
  /** The answer that the newest request of a connection still waits for. */
  responseOwedOn(socket: Duplex): ServerResponse | null
  /** Stops listening; resolves when every connection has ended. Who reads no answer can make this long. */
  stop(): Promise<void>
}

/** Keeps an eye on every connection of a server from now on. */
export function trackConnections(server: Server): Connections {
  const listeners: Listener[] = [server]
  const open = new Map<Duplex, Connection>()
  let acceptedCount = 0
  let isClosed = false

  const onConnection = (socket: Socket): void => {
    acceptedCount++
    open.set(socket, { response: null, graceEndsMs: performance.now() + STOP_ARRIVAL_GRACE_MS, bytesRead: 0 })
    socket.once('close', () => open.delete(socket))
  }

  const onRequest = ({ socket }: IncomingMessage, response: ServerResponse): void => {
    const connection = open.get(socket)
    if (connection === undefined) return
    if (isClosed) {
      // The answer before it is no longer the last.
      if (connection.response?.headersSent === false) connection.response.removeHeader('connection')
      response.setHeader('connection', 'close')
    }
    connection.response = response
    response.once('close', () => {
      if (connection.response !== response) return
      connection.response = null
      if (isClosed) connection.graceEndsMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    })
  }

  /** Lets in who has connected: a turn of the event loop may accept no more than one. */
  const acceptBacklog = async (): Promise<void> => {
    const latestMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    for (let before = -1; before !== acceptedCount && performance.now() < latestMs; ) {
      before = acceptedCount
      await turn()
      await turn()
    }
  }

  const stop = async (): Promise<void> => {
    await acceptBacklog()
    // The close of an HTTP server would end connections too.
    const areDown = listeners.map(
      (listener) =>
        new Promise((resolve) => {
          Listener.prototype.close.call(listener, resolve)
        }),
    )
    isClosed = true
    const graceEndsMs = performance.now() + STOP_ARRIVAL_GRACE_MS
    for (const connection of open.values()) {
      connection.graceEndsMs = graceEndsMs
      if (connection.response?.headersSent === false) connection.response.setHeader('connection', 'close')
    }
    while (open.size > 0) {
      await delay(LOOK_MS)
      // What the network has for us is read first.
      await turn()
      for (const [socket, connection] of open) if (isOver(socket as Socket, connection)) socket.destroy()
    }
    await Promise.all(areDown)
  }

  const listenAlso = (host: string, port: number): Promise<void> =>
    new Promise((resolve, reject) => {
      // As an HTTP server has them, and handed to the one there is, so that each is treated alike.
      const options = { allowHalfOpen: true, noDelay: true }
      const listener = createServer(options, (socket) => server.emit('connection', socket))
      listener.once('error', reject)
      listener.listen({ host, port }, () => {
        listeners.push(listener)
        resolve()
      })
    })

  server.on('connection', onConnection)
  // Before the request is handled: it may be answered at once.
  server.prependListener('request', onRequest)
  server.on('upgrade', (_request, socket) => open.delete(socket))
  return { listenAlso, stop, responseOwedOn: (socket) => open.get(socket)?.response ?? null }
}

/** Whether nothing more is to be expected of a connection. */
function isOver(socket: Socket, connection: Connection): boolean {
  const { response, bytesRead, graceEndsMs } = connection
  if (response?.req.complete === true) return false
  const nowMs = performance.now()
  if (response !== null && socket.bytesRead > bytesRead) {
    connection.bytesRead = socket.bytesRead
    connection.graceEndsMs = Math.max(graceEndsMs, nowMs + STOP_ARRIVAL_GRACE_MS)
    return false
  }
  return nowMs >= graceEndsMs
}
