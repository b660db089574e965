/** The dependency graph, as JSON for programs or as text for drawing. */

import type { App, AppContext } from '../context.js'
import { toDot, toJson, toMermaid } from '../reply/graph-text.js'
import { joined, slicedBody } from '../reply/sliced-body.js'
import { GraphAnswer, GraphQuery } from '../schemas/state.js'
import { Type } from '../typebox.js'

const Text = Type.String()

export function graphRoutes(app: App, { answers }: AppContext): void {
  app.get(
    '/v1/graph',
    {
      schema: {
        operationId: 'getGraph',
        summary: 'Read the dependency graph of the pages',
        tags: ['graph'],
        querystring: GraphQuery,
      },
      config: {
        needs: ['read'],
        produces: { 'application/json': GraphAnswer, 'text/vnd.graphviz': Text, 'text/vnd.mermaid': Text },
        statuses: { 200: 'The graph' },
      },
    },
    (request, reply) => {
      const graph = request.bus.graphLists()
      const { format = 'json' } = request.query
      const { type, textOf } = FORMATS[format]
      answers.watch(reply)
      void reply.type(type).send(slicedBody(joined(textOf(graph))))
    },
  )
}

const FORMATS = {
  json: { type: 'application/json; charset=utf-8', textOf: toJson },
  dot: { type: 'text/vnd.graphviz; charset=utf-8', textOf: toDot },
  mermaid: { type: 'text/vnd.mermaid; charset=utf-8', textOf: toMermaid },
}
