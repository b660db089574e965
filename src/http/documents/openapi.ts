/**
 * The OpenAPI 3.1 document, made from the schemas that validate requests.
 *
 * Headers, binary answers and the errors a route can answer do not fit into its schema. They stand in its
 * `config` and are added to its schema here, for the document only.
 */
import fastifySwagger from '@fastify/swagger'
import fastifySwaggerUi from '@fastify/swagger-ui'
import type { RouteOptions } from 'fastify'
import { ERRORS, type ErrorCode } from '../../errors.js'
import type { App } from '../context.js'
import { writes } from '../reply/read-only.js'
import { withNulls } from '../request/optional-nulls.js'
import { Problem } from '../schemas/common.js'
import type { TSchema } from '../typebox.js'
import { COMPONENTS, withReferences } from './components.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Errors the route can answer, besides COMMON_PROBLEMS. */
    readonly problems?: readonly ErrorCode[]
    /** Descriptions of the statuses of the response schemas. */
    readonly answers?: Readonly<Record<number, string>>
    /** Answers that are not serialised from a schema: media type -> content. */
    readonly produces?: Readonly<Record<string, TSchema>>
    /** Descriptions of the statuses of those answers. */
    readonly statuses?: Readonly<Record<number, string>>
    /** Request headers the route reads: name -> description. */
    readonly headers?: Readonly<Record<string, string>>
  }
}

/** Errors any route can answer. */
const COMMON_PROBLEMS: readonly ErrorCode[] = [
  'INVALID_REQUEST',
  'FORBIDDEN',
  'INTERNAL',
  'RATE_LIMITED',
  'OVERLOADED',
  'BUS_FAILED',
  'AUDIT_FAILED',
]

type Config = NonNullable<RouteOptions['config']>
type Responses = Record<string, { description?: string; content?: object }>

export async function registerOpenApi(app: App, version: string): Promise<void> {
  await app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'MMSB',
        version,
        description:
          'Memory-Mapped State Bus: durable typed array pages, propagation, events. The stream is a WebSocket at /v1/stream.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      servers: [{ url: '/' }],
      tags: ['pages', 'data', 'functions', 'graph', 'time', 'state', 'stream', 'health'].map((name) => ({
        name,
      })),
      components: { schemas: COMPONENTS as Record<string, TSchema> },
    },
    transformObject: (made) => withReferences('openapiObject' in made ? made.openapiObject : {}),
    transform: ({ schema, url, route }) => ({
      schema: documented((schema ?? {}) as RouteSchema, withReadOnly(route)),
      url,
    }),
  })
}

/** The document, and a page that shows it. */
export async function openApiRoutes(scope: App): Promise<void> {
  await scope.register(fastifySwaggerUi, { routePrefix: '/docs' })
  scope.get('/', HIDDEN, (_request, reply) => {
    void reply.redirect('/docs')
  })
  let text: string | undefined
  scope.get('/openapi.json', HIDDEN, (_request, reply) => {
    // All routes are there by the first request, and none comes later.
    text ??= JSON.stringify(scope.swagger())
    void reply.type('application/json; charset=utf-8').send(text)
  })
}

const HIDDEN = { schema: { hide: true } }

/** The config of a route. A route that writes can also answer READ_ONLY. */
function withReadOnly({ method, config = {} }: RouteOptions): Config {
  return writes(method, config) ? { ...config, problems: [...(config.problems ?? []), 'READ_ONLY'] } : config
}

interface RouteSchema {
  readonly hide?: boolean
  readonly response?: unknown
  readonly [part: string]: unknown
}

/** The schema of a route together with its config. */
function documented(schema: RouteSchema, config: Config): RouteSchema {
  if (schema.hide === true) return schema
  return {
    ...schema,
    ...(schema.body === undefined ? {} : { body: documentedBody(schema.body as TSchema & Bodies) }),
    ...(config.headers === undefined ? {} : { headers: headerSchema(config.headers) }),
    response: {
      ...describedAnswers(schema.response as Record<string, object> | undefined, config.answers ?? {}),
      ...rawAnswers(config),
      ...problemAnswers([...COMMON_PROBLEMS, ...(config.problems ?? [])]),
    },
  }
}

interface Bodies {
  readonly content?: Readonly<Record<string, { readonly schema: TSchema }>>
}

/** The body as clients may send it: see optional-nulls.ts. */
function documentedBody(body: TSchema & Bodies): object {
  if (body.content === undefined) return withNulls(body)
  const entries = Object.entries(body.content).map(([type, { schema }]) => [
    type,
    { schema: withNulls(schema) },
  ])
  return { content: Object.fromEntries(entries) }
}

const headerSchema = (headers: Readonly<Record<string, string>>): object => ({
  type: 'object',
  properties: Object.fromEntries(
    Object.entries(headers).map(([name, description]) => [name, { type: 'string', description }]),
  ),
})

function describedAnswers(
  response: Record<string, object> | undefined,
  answers: Record<number, string>,
): Responses {
  const entries = Object.entries(response ?? {}).map(([status, schema]) => [
    status,
    { description: answers[Number(status)] ?? 'Done', content: { 'application/json': { schema } } },
  ])
  return Object.fromEntries(entries)
}

function rawAnswers({ produces, statuses = {} }: Config): Responses {
  const content = Object.fromEntries(
    Object.entries(produces ?? {}).map(([type, schema]) => [type, { schema }]),
  )
  const hasBody = (status: string): boolean => produces !== undefined && status !== '304'
  return Object.fromEntries(
    Object.entries(statuses).map(([status, description]) => [
      status,
      hasBody(status) ? { description, content } : { description, type: 'null' },
    ]),
  )
}

/** One answer for each status. Its description names the error codes with this status. */
function problemAnswers(codes: readonly ErrorCode[]): Responses {
  const byStatus = new Map<number, string[]>()
  for (const code of new Set(codes)) {
    const { status, title } = ERRORS[code]
    byStatus.set(status, [...(byStatus.get(status) ?? []), `\`${code}\`: ${title}`])
  }
  return Object.fromEntries(
    [...byStatus].map(([status, lines]) => [
      status,
      { description: lines.join('. '), content: { 'application/problem+json': { schema: Problem } } },
    ]),
  )
}
