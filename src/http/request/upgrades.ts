/**
 * Requests that ask for another protocol (RFC 9110, 7.8). Node gives their connection away and forgets it, so
 * that a refusal must close it here. Only the stream accepts an upgrade.
 *
 * Invariant: an upgrade is handled once every earlier request of its connection is answered.
 */
import { EventEmitter } from 'node:events'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Whether a request came as an upgrade. */
export type IsUpgrade = (request: FastifyRequest) => boolean

export interface Upgrades {
  readonly isUpgrade: IsUpgrade
  /** Emits `upgrade` as the server does, but not before the earlier requests are answered. */
  readonly inOrder: EventEmitter
}

/** Watches a server from now on. `pendingResponse` is the newest response that a connection waits for. */
export function trackUpgrades(
  server: Server,
  pendingResponse: (socket: Duplex) => ServerResponse | undefined,
): Upgrades {
  const upgrades = new WeakSet<IncomingMessage>()
  const inOrder = new EventEmitter()
  // Before the listener that forgets the connection and its responses.
  server.prependListener('upgrade', (request, socket, head) => {
    upgrades.add(request)
    const handle = (): void => {
      if (socket.writable) inOrder.emit('upgrade', request, socket, head)
    }
    const pending = pendingResponse(socket)
    if (pending === undefined) handle()
    else whenAnswered(pending, socket, handle)
  })
  // The header is looked up first: other requests, nearly all, cost nothing more.
  const isUpgrade: IsUpgrade = ({ raw }) => raw.headers.upgrade !== undefined && upgrades.has(raw)
  return { isUpgrade, inOrder }
}

/** Does for the socket of a pending response what Node no longer does, until the response has left. */
function whenAnswered(pending: ServerResponse, socket: Duplex, then: () => void): void {
  const onDrain = (): void => {
    pending.emit('drain')
  }
  socket.on('error', () => socket.destroy())
  socket.on('drain', onDrain)
  pending.once('close', () => {
    socket.off('drain', onDrain)
    then()
  })
}

/**
 * Makes the answer to an upgrade request the last thing on its connection. An accepted upgrade has no such
 * answer.
 */
export function closeAfterAnswer(request: FastifyRequest, reply: FastifyReply): void {
  reply.raw.setHeader('connection', 'close')
  reply.raw.once('finish', () => request.raw.socket.destroySoon())
}
