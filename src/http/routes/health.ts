/** For monitoring: liveness, readiness, metrics. */
import Type from 'typebox'
import { MmsbError } from '../../errors.js'
import type { App, AppContext } from '../context.js'
import { createMetrics } from '../metrics.js'
import { NoQuery } from '../schemas/data.js'
import { Alive, Ready } from '../schemas/state.js'

export function healthRoutes(app: App, context: AppContext): void {
  const { bus } = context
  const metrics = createMetrics(context)

  app.get(
    '/livez',
    {
      schema: {
        summary: 'Check that the process is alive',
        tags: ['health'],
        querystring: NoQuery,
        response: { 200: Alive },
      },
    },
    (_request, reply) => {
      void reply.send({ alive: true })
    },
  )

  app.get(
    '/readyz',
    {
      schema: {
        summary: 'Check that the bus accepts writes and reads',
        tags: ['health'],
        querystring: NoQuery,
        response: { 200: Ready },
      },
      config: { problems: ['BUS_FAILED'] },
    },
    (_request, reply) => {
      if (bus.failure !== null) throw new MmsbError('BUS_FAILED', bus.failure)
      if (context.isStopping) throw new MmsbError('BUS_FAILED', 'the server is stopping')
      void reply.send({ ready: true, epoch: bus.epoch })
    },
  )

  app.get(
    '/metrics',
    {
      schema: { summary: 'Read the Prometheus metrics', tags: ['health'], querystring: NoQuery },
      config: { produces: { 'text/plain': Type.String() }, statuses: { 200: 'Text format 0.0.4' } },
    },
    async (_request, reply) => reply.type(metrics.contentType).send(await metrics.metrics()),
  )
}
