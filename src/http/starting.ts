/**
 * The server before its bus is open: it listens, says how far recovery has come, and puts every other request
 * off until later. Then the real app takes over its listeners and connections; no client notices.
 *
 * Invariants: no request waits for the bus, and none has an effect. The same Host and Origin are refused as
 * later.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { MmsbError } from '../errors.js'
import type { LimitGuard } from '../operator-limits.js'
import type { AppOptions, Serving } from './app.js'
import { admitRequests, boundPort, createFastify, isRead, listenOn, routeUpgrades } from './framework.js'
import { type Health, type Report, startingError } from './health.js'
import { createStartingMetrics } from './metrics.js'
import { pathOf, sendProblem } from './reply/problem.js'

export interface StartingOptions
  extends Pick<AppOptions, 'allowedOrigins' | 'guard' | 'logger' | 'tls' | 'trustedProxies'> {
  readonly limits: LimitGuard
  readonly health: () => Health
  /** Metrics are then for those with a token, whom nothing here knows. */
  readonly needsLogin?: boolean
}

export interface StartingApp extends Serving {
  readonly report: Report
  /** The port it listens on; undefined before that. */
  readonly port: () => number | undefined
  /** Listens on one port of `host`; for `localhost` on each of its addresses. */
  listen(host: string, port: number): Promise<void>
  /** Stops listening, and closes the connections. */
  close(): Promise<void>
}

/** Builds the app; it is ready for `inject` and `listen` when this resolves. */
export async function buildStartingApp(options: StartingOptions): Promise<StartingApp> {
  const { health, needsLogin = false } = options
  const bare = createFastify(options.limits, options)
  const { app, connections } = bare
  admitRequests(bare, options.limits, options)
  const metrics = createStartingMetrics(health)
  const answer = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    switch (isRead(request.raw) ? pathOf(request.url) : '') {
      case '/livez':
        return reply.send({ alive: true })
      case '/metrics':
        if (needsLogin) return sendProblem(reply, startingError(health()))
        return reply.type(metrics.contentType).send(await metrics.metrics())
      case '/readyz':
        return sendProblem(reply, new MmsbError('OVERLOADED', 'the server is not ready'))
      default:
        return sendProblem(reply, startingError(health()))
    }
  }
  app.route({
    method: ['GET', 'HEAD', 'PUT', 'PATCH', 'POST', 'DELETE', 'OPTIONS'],
    url: '/*',
    // The answer comes before a body is read.
    onRequest: answer,
    handler: answer,
  })
  routeUpgrades(bare)
  await app.ready()
  return {
    connections,
    port: () => boundPort(app),
    listen: (host, port) => listenOn(bare, host, port),
    report: { health, metrics: () => metrics.metrics() },
    close: async () => {
      await connections.stop()
      await app.close()
    },
  }
}
