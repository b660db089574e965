/** Named durable subscriptions: list, look at, delete. They are made and moved over the stream. */
import type Type from 'typebox'
import type { App, AppContext } from '../context.js'
import { NameParams } from '../schemas/common.js'
import { NoQuery } from '../schemas/data.js'
import { DurableGone, DurableList, DurableSubscription } from '../schemas/stream.js'

type View = Type.Static<typeof DurableSubscription>

export function subscriptionRoutes(app: App, { hub }: AppContext): void {
  app.get(
    '/v1/subscriptions',
    {
      schema: {
        summary: 'List the durable subscriptions',
        description: 'Each with the epoch its reader committed last, and how far behind that is.',
        tags: ['stream'],
        querystring: NoQuery,
        response: { 200: DurableList },
      },
    },
    (_request, reply) => {
      void reply.send({ subscriptions: hub.durables.list() as View[] })
    },
  )

  app.get(
    '/v1/subscriptions/:name',
    {
      schema: {
        summary: 'How far a durable subscription has come',
        tags: ['stream'],
        params: NameParams,
        querystring: NoQuery,
        response: { 200: DurableSubscription },
      },
      config: { problems: ['NOT_FOUND'] },
    },
    (request, reply) => {
      void reply.send(hub.durables.view(request.params.name) as View)
    },
  )

  app.delete(
    '/v1/subscriptions/:name',
    {
      schema: {
        summary: 'Delete a durable subscription',
        description: 'It holds nothing back any more; who reads under the name is told and ended.',
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
