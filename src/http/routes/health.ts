/** For monitoring: liveness, readiness, metrics. */
import type { Registry } from 'prom-client'
import { MmsbError } from '../../errors.js'
import type { App, AppContext } from '../context.js'
import { healthOf } from '../health.js'
import { NoQuery } from '../schemas/data.js'
import { Alive, Ready, Started } from '../schemas/state.js'
import { Type } from '../typebox.js'

export function healthRoutes(app: App, context: AppContext, metrics: Registry): void {
  const { bus } = context

  app.get(
    '/livez',
    {
      schema: {
        operationId: 'getLiveness',
        summary: 'Check that the process is alive',
        tags: ['health'],
        querystring: NoQuery,
        response: { 200: Alive },
      },
      config: { needs: 'nothing' },
    },
    (_request, reply) => {
      void reply.send({ alive: true })
    },
  )

  app.get(
    '/readyz',
    {
      schema: {
        operationId: 'getReadiness',
        summary: 'Check that the bus accepts reads, and writes unless it is read-only',
        tags: ['health'],
        querystring: NoQuery,
        response: { 200: Ready },
      },
      config: { needs: 'nothing', problems: ['BUS_FAILED'] },
    },
    (_request, reply) => {
      // Why stands in /v1/status and on the admin listener: this route is open to everybody.
      if (healthOf(context).state !== 'ready') throw new MmsbError('BUS_FAILED', 'the server is not ready')
      void reply.send({ ready: true, epoch: bus.epoch, readOnly: bus.isReadOnly })
    },
  )

  app.get(
    '/startupz',
    {
      schema: {
        operationId: 'getStartup',
        summary: 'Check that the server has started',
        description: 'While it recovers, the answer is 503 with `state` and `percent`.',
        tags: ['health'],
        querystring: NoQuery,
        response: { 200: Started },
      },
      config: { needs: 'nothing' },
    },
    (_request, reply) => {
      const { state, percent } = healthOf(context)
      void reply.send({ state, percent })
    },
  )

  metricsRoute(app, metrics)
}

function metricsRoute(app: App, metrics: Registry): void {
  app.get(
    '/metrics',
    {
      schema: {
        operationId: 'getMetrics',
        summary: 'Read the Prometheus metrics',
        tags: ['health'],
        querystring: NoQuery,
      },
      config: {
        needs: ['metrics'],
        produces: { 'text/plain': Type.String() },
        statuses: { 200: 'Text format 0.0.4' },
      },
    },
    async (_request, reply) => reply.type(metrics.contentType).send(await metrics.metrics()),
  )
}
