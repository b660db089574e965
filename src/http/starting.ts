/**
 * The server before its bus is open: it listens, says how far recovery has come, and puts every other request
 * off until later. Then the real app takes over its listeners and connections; no client notices.
 *
 * Invariants: no request waits for the bus, and none has an effect. The same Host and Origin are refused as
 * later.
 */
import { ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { MmsbError } from '../errors.js'
import type { LimitGuard } from '../operator-limits.js'
import type { AppOptions, Serving } from './app.js'
import { addressesFor, admitRequests, boundPort, createFastify } from './framework.js'
import type { Health } from './health.js'
import { createStartingMetrics } from './metrics.js'
import { pathOf, sendProblem } from './reply/problem.js'

export interface StartingOptions extends Pick<AppOptions, 'allowedOrigins' | 'guard' | 'logger'> {
  readonly limits: LimitGuard
  readonly health: () => Health
}

export interface StartingApp extends Serving {
  /** The port it listens on; undefined before that. */
  readonly port: () => number | undefined
  /** Listens on one port of `host`; for `localhost` on each of its addresses. */
  listen(host: string, port: number): Promise<void>
  /** Stops listening, and closes the connections. */
  close(): Promise<void>
}

/** Builds the app; it is ready for `inject` and `listen` when this resolves. */
export async function buildStartingApp(options: StartingOptions): Promise<StartingApp> {
  const { health } = options
  const { app, connections, upgrades } = createFastify(options.limits, options.logger)
  admitRequests(app, upgrades.isUpgrade, options)
  const metrics = createStartingMetrics(health)
  const answer = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    switch (request.method === 'GET' || request.method === 'HEAD' ? pathOf(request.url) : '') {
      case '/livez':
        return reply.send({ alive: true })
      case '/metrics':
        return reply.type(metrics.contentType).send(await metrics.metrics())
      case '/readyz':
        return sendProblem(reply, new MmsbError('OVERLOADED', 'the server is not ready'))
      default:
        return sendProblem(reply, recoveringError(health()))
    }
  }
  app.route({
    method: ['GET', 'HEAD', 'PUT', 'PATCH', 'POST', 'DELETE', 'OPTIONS'],
    url: '/*',
    // The answer comes before a body is read.
    onRequest: answer,
    handler: answer,
  })
  // The framework answers an upgrade like any request; see request/upgrades.ts.
  upgrades.inOrder.on('upgrade', (request, socket: Duplex) => {
    const response = new ServerResponse(request)
    response.assignSocket(socket as Parameters<ServerResponse['assignSocket']>[0])
    app.routing(request, response)
  })
  await app.ready()
  return {
    connections,
    port: () => boundPort(app),
    listen: async (host, port) => {
      const [first = host, ...others] = await addressesFor(host)
      await app.listen({ host: first, port })
      // One address of a name is enough.
      for (const other of others) await connections.listenAlso(other, boundPort(app)!).catch(() => {})
    },
    close: async () => {
      await connections.stop()
      await app.close()
    },
  }
}

/** What every request but those about health gets until the bus is open. */
function recoveringError({ state, percent, reason }: Health): MmsbError {
  const detail = `the server is starting (${percent} %)${reason === undefined ? '' : `: ${reason}`}`
  return new MmsbError('OVERLOADED', detail, { state, percent })
}
