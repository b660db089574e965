/** Tickets for WebSockets and event streams of browsers (src/auth/tickets.ts). */
import { MmsbError } from '../../errors.js'
import type { App, AppContext } from '../context.js'
import { NoQuery } from '../schemas/data.js'
import { Ticket } from '../schemas/stream.js'

export function ticketRoutes(app: App, { tickets }: AppContext): void {
  app.post(
    '/v1/tickets',
    {
      schema: {
        operationId: 'createTicket',
        summary: 'Get a ticket for a WebSocket or an event stream',
        description:
          'Browsers cannot send a header with these. `?ticket=` in the URL of one of them counts as the token of this request, once.',
        tags: ['stream'],
        querystring: NoQuery,
        response: { 201: Ticket },
      },
      config: {
        needs: 'login',
        audited: true,
        onlyAsks: true,
        answers: { 201: 'Made' },
        problems: ['NOT_FOUND'],
      },
    },
    ({ login }, reply) => {
      if (login === undefined)
        throw new MmsbError('NOT_FOUND', 'this server has no authentication, so it needs no tickets')
      void reply.code(201).header('cache-control', 'no-store').send(tickets.issue(login))
    },
  )
}
