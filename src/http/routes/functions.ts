/** Functions that expressions can call: define, list, describe, delete. */
import type { ClientBus } from '../../auth/guarded-bus.js'
import type { App, AppContext } from '../context.js'
import { joined, listed, slicedBody } from '../reply/sliced-body.js'
import { NameParams } from '../schemas/common.js'
import { NoQuery } from '../schemas/data.js'
import { FunctionAnswer, FunctionBody, FunctionList, FunctionView } from '../schemas/functions.js'
import type { Type } from '../typebox.js'

export function functionRoutes(app: App, { answers }: AppContext): void {
  app.put(
    '/v1/functions/:name',
    {
      schema: {
        operationId: 'defineFunction',
        summary: 'Define or redefine a function',
        description:
          'Every page that uses it, directly or through other functions, is recomputed in the same epoch.',
        tags: ['functions'],
        params: NameParams,
        querystring: NoQuery,
        body: FunctionBody,
        response: { 200: FunctionAnswer },
      },
      config: {
        needs: ['functions', 'define'],
        problems: ['INVALID_EXPRESSION', 'SHAPE_MISMATCH', 'COST_EXCEEDED', 'QUOTA_EXCEEDED', 'LOG_FULL'],
      },
    },
    (request) => request.bus.defineFunction(request.params.name, request.body),
  )

  app.get(
    '/v1/functions',
    {
      schema: {
        operationId: 'listFunctions',
        summary: 'List the functions',
        tags: ['functions'],
        querystring: NoQuery,
      },
      config: {
        needs: 'login',
        produces: { 'application/json': FunctionList },
        statuses: { 200: 'The functions' },
      },
    },
    (request, reply) => {
      const list = request.bus.functionList()
      answers.watch(reply)
      void reply.type('application/json; charset=utf-8').send(slicedBody(joined(listText(list))))
    },
  )

  app.get(
    '/v1/functions/:name',
    {
      schema: {
        operationId: 'getFunction',
        summary: 'Describe a function and list the pages that use it',
        tags: ['functions'],
        params: NameParams,
        querystring: NoQuery,
        response: { 200: FunctionView },
      },
      config: { needs: 'login', problems: ['NOT_FOUND'] },
    },
    (request, reply) => {
      void reply.send(request.bus.function(request.params.name) as Type.Static<typeof FunctionView>)
    },
  )

  app.delete(
    '/v1/functions/:name',
    {
      schema: {
        operationId: 'deleteFunction',
        summary: 'Delete a function',
        description: 'Refused while a page or another function uses it.',
        tags: ['functions'],
        params: NameParams,
        querystring: NoQuery,
        response: { 200: FunctionAnswer },
      },
      config: { needs: ['functions'], problems: ['NOT_FOUND', 'PAGE_IN_USE', 'LOG_FULL'] },
    },
    (request) => request.bus.deleteFunction(request.params.name),
  )
}

/** `{"worldAge":1,"functions":[...]}`, a function at a time. */
function* listText({ worldAge, functions }: ReturnType<ClientBus['functionList']>): Generator<string> {
  yield `{"worldAge":${worldAge},"functions":[`
  yield* listed(functions)
  yield ']}'
}
