/**
 * What the admin listener answers: liveness, readiness with its reason, start and metrics.
 *
 * Invariants: no request waits for the main thread for longer than ADMIN_METRICS_WAIT_MS. What the main
 * thread said last is told with its age.
 */
import type { FastifyBaseLogger, FastifyReply } from 'fastify'
import { Gauge, Registry } from 'prom-client'
import { MmsbError } from '../../errors.js'
import { ADMIN_STALLED_MS } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import {
  type Admission,
  admitRequests,
  boundPort,
  createFastify,
  listenOn,
  routeUpgrades,
} from '../framework.js'
import { type Health, startingError } from '../health.js'
import { sendProblem } from '../reply/problem.js'
import type { MetricsSnapshot } from './messages.js'

export interface AdminAppOptions extends Admission {
  readonly limits: LimitGuard
  readonly logger?: FastifyBaseLogger
  /** What the main thread said last. */
  readonly health: () => Health
  /** How long the main thread's event loop has been held. */
  readonly stalledMs: () => number
  /** The newest metrics of the main thread, after a short wait. */
  readonly metrics: () => Promise<MetricsSnapshot>
}

export interface AdminApp {
  readonly port: () => number | undefined
  listen(host: string, port: number): Promise<void>
  close(): Promise<void>
}

/** Builds the app; it is ready to listen when this resolves. */
export async function buildAdminApp(options: AdminAppOptions): Promise<AdminApp> {
  const { health, stalledMs } = options
  const bare = createFastify(options.limits, options)
  const { app, connections } = bare
  admitRequests(bare, options.limits, options)
  app.get('/livez', (_request, reply) => reply.send({ alive: true, stalledMs: stalledMs() }))
  app.get('/readyz', (_request, reply) => answerReady(reply, health(), stalledMs()))
  app.get('/startupz', (_request, reply) => {
    const now = health()
    if (now.state === 'recovering') return sendProblem(reply, startingError(now))
    return reply.send({ state: now.state, percent: now.percent })
  })
  const own = ownMetrics(stalledMs)
  app.get('/metrics', async (_request, reply) => {
    const snapshot = await options.metrics()
    return reply.type(own.contentType).send(snapshot.text + (await own.text(snapshot)))
  })
  routeUpgrades(bare)
  await app.ready()
  return {
    port: () => boundPort(app),
    listen: (host, port) => listenOn(bare, host, port),
    close: async () => {
      await connections.stop()
      await app.close()
    },
  }
}

function answerReady(reply: FastifyReply, now: Health, stalledMs: number): FastifyReply {
  if (now.state === 'recovering') return sendProblem(reply, startingError(now))
  const { state, reason = 'the server is not ready' } = now
  if (state !== 'ready') return sendProblem(reply, new MmsbError('BUS_FAILED', reason, { state }))
  if (stalledMs < ADMIN_STALLED_MS) return reply.send({ ready: true })
  const seconds = (stalledMs / 1e3).toFixed(1)
  return sendProblem(
    reply,
    new MmsbError('OVERLOADED', `the main thread has been held for ${seconds} s`, { state, stalledMs }),
  )
}

interface OwnMetrics {
  readonly contentType: string
  text(snapshot: MetricsSnapshot): Promise<string>
}

/** What this thread knows by itself. */
function ownMetrics(stalledMs: () => number): OwnMetrics {
  const registry = new Registry()
  const registers = [registry]
  const stalled = new Gauge({
    name: 'mmsb_event_loop_stalled_seconds',
    help: 'How long the event loop of the main thread has been held; 0 while it runs',
    registers,
    collect() {
      stalled.set(stalledMs() / 1e3)
    },
  })
  const age = new Gauge({
    name: 'mmsb_metrics_age_seconds',
    help: 'Time since the other metrics were read on the main thread',
    registers,
  })
  return {
    contentType: registry.contentType,
    text: (snapshot) => {
      age.set(Number(process.hrtime.bigint() - snapshot.takenNs) / 1e9)
      return registry.metrics()
    },
  }
}
