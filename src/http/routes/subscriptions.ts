/** Named durable subscriptions: list, describe, delete. The stream creates them and moves their cursors. */
import type { FastifyRequest } from 'fastify'
import { readerOf } from '../../auth/guarded-bus.js'
import type { App, AppContext } from '../context.js'
import { NoQuery } from '../schemas/data.js'
import { DurableGone, DurableList, DurableParams, DurableSubscription } from '../schemas/stream.js'
import type { Type } from '../typebox.js'

type SubscriptionView = Type.Static<typeof DurableSubscription>

export function subscriptionRoutes(app: App, { hub }: AppContext): void {
  app.get(
    '/v1/subscriptions',
    {
      schema: {
        operationId: 'listSubscriptions',
        summary: 'List the durable subscriptions',
        description: 'Each with the last epoch its reader committed, and how many epochs it is behind.',
        tags: ['stream'],
        querystring: NoQuery,
        response: { 200: DurableList },
      },
      config: { needs: 'login' },
    },
    (request, reply) => {
      const { shows, shownName } = namesOf(request)
      const own = hub.durables.list().filter(({ name }) => shows(name))
      const subscriptions = own.map((reader) => ({ ...reader, name: shownName(reader.name) }))
      void reply.send({ subscriptions: subscriptions as SubscriptionView[] })
    },
  )

  app.get(
    '/v1/subscriptions/:name',
    {
      schema: {
        operationId: 'getSubscription',
        summary: 'Describe a durable subscription',
        tags: ['stream'],
        params: DurableParams,
        querystring: NoQuery,
        response: { 200: DurableSubscription },
      },
      config: { needs: 'login', problems: ['NOT_FOUND'] },
    },
    (request, reply) => {
      const { name } = request.params
      const reader = hub.durables.view(namesOf(request).storedName(name))
      void reply.send({ ...reader, name } as SubscriptionView)
    },
  )

  app.delete(
    '/v1/subscriptions/:name',
    {
      schema: {
        operationId: 'deleteSubscription',
        summary: 'Delete a durable subscription',
        description:
          'The server then keeps no history for it. A connected reader gets an error and its subscription ends.',
        tags: ['stream'],
        params: DurableParams,
        querystring: NoQuery,
        response: { 200: DurableGone },
      },
      config: { needs: 'login', audited: true, problems: ['NOT_FOUND'] },
    },
    async (request) => {
      const { name } = request.params
      await hub.durables.remove(namesOf(request).storedName(name))
      return { name }
    },
  )
}

/** Durable subscriptions are stored as `principal/name`. Others than one's own are for those with `admin`. */
function namesOf({ bus, login }: FastifyRequest): {
  shows(stored: string): boolean
  shownName(stored: string): string
  storedName(shown: string): string
} {
  const { ownName } = readerOf(bus)
  if (login === undefined) return { shows: () => true, shownName: (name) => name, storedName: (name) => name }
  const prefix = ownName.call(bus, '')
  const isAdmin = login.principal.scopes.allowsAll('admin')
  return {
    shows: (stored) => isAdmin || stored.startsWith(prefix),
    shownName: (stored) => (stored.startsWith(prefix) ? stored.slice(prefix.length) : stored),
    // What another principal has is not there.
    storedName: (shown) => (isAdmin && shown.includes('/') ? shown : `${prefix}${shown}`),
  }
}
