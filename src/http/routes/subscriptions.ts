/** Named durable subscriptions: list, describe, delete. The stream creates them and moves their cursors. */

import type { App, AppContext } from '../context.js'
import { NameParams } from '../schemas/common.js'
import { NoQuery } from '../schemas/data.js'
import { DurableGone, DurableList, DurableSubscription } from '../schemas/stream.js'
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
    },
    (_request, reply) => {
      void reply.send({ subscriptions: hub.durables.list() as SubscriptionView[] })
    },
  )

  app.get(
    '/v1/subscriptions/:name',
    {
      schema: {
        operationId: 'getSubscription',
        summary: 'Describe a durable subscription',
        tags: ['stream'],
        params: NameParams,
        querystring: NoQuery,
        response: { 200: DurableSubscription },
      },
      config: { problems: ['NOT_FOUND'] },
    },
    (request, reply) => {
      void reply.send(hub.durables.view(request.params.name) as SubscriptionView)
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
        params: NameParams,
        querystring: NoQuery,
        response: { 200: DurableGone },
      },
      config: { problems: ['NOT_FOUND'] },
    },
    async (request) => {
      const { name } = request.params
      await hub.durables.remove(name)
      return { name }
    },
  )
}
