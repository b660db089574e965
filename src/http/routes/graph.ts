/** The dependency graph, as JSON for programs or as text for drawing. */
import Type from 'typebox'
import type { App, AppContext } from '../context.js'
import { toDot, toMermaid } from '../reply/graph-text.js'
import { GraphAnswer, GraphQuery } from '../schemas/state.js'

const Text = Type.String()

export function graphRoutes(app: App, { bus }: AppContext): void {
  app.get(
    '/v1/graph',
    {
      schema: { summary: 'Read the dependency graph of the pages', tags: ['graph'], querystring: GraphQuery },
      config: {
        produces: { 'application/json': GraphAnswer, 'text/vnd.graphviz': Text, 'text/vnd.mermaid': Text },
        statuses: { 200: 'The graph' },
      },
    },
    (request, reply) => {
      const graph = bus.graph()
      const { format = 'json' } = request.query
      if (format === 'json') void reply.send(graph)
      else if (format === 'dot') void reply.type('text/vnd.graphviz; charset=utf-8').send(toDot(graph))
      else void reply.type('text/vnd.mermaid; charset=utf-8').send(toMermaid(graph))
    },
  )
}
