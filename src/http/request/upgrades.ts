/**
 * Requests that ask for another protocol (RFC 9110, 7.8). Node gives their connection away and forgets it, so
 * that a refusal must close it here. Only the stream accepts an upgrade.
 */
import type { IncomingMessage, Server } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Whether a request came as an upgrade. */
export type IsUpgrade = (request: FastifyRequest) => boolean

/** Watches a server from now on. */
export function trackUpgrades(server: Server): IsUpgrade {
  const upgrades = new WeakSet<IncomingMessage>()
  server.on('upgrade', (request) => upgrades.add(request))
  // The header is looked up first: other requests, nearly all, cost nothing more.
  return ({ raw }) => raw.headers.upgrade !== undefined && upgrades.has(raw)
}

/**
 * Makes the answer to an upgrade request the last thing on its connection. An accepted upgrade has no such
 * answer.
 */
export function closeAfterAnswer(request: FastifyRequest, reply: FastifyReply): void {
  reply.raw.setHeader('connection', 'close')
  reply.raw.once('finish', () => request.raw.socket.destroySoon())
}
