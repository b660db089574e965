/**
 * The OpenAPI document is valid (as far as that can be checked offline), complete, and matches the server.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { ERRORS } from '../../../src/errors.js'
import { serve } from '../helpers.js'

interface Operation {
  readonly summary?: string
  readonly tags?: string[]
  readonly parameters?: { name: string; in: string; required?: boolean; schema: object }[]
  readonly requestBody?: { content: Record<string, { schema: object }> }
  readonly responses: Record<string, { description: string; content?: Record<string, { schema?: object }> }>
}

/** Method and path of every public route of this version. */
const ROUTES = [
  'PUT /v1/pages/{name}',
  'POST /v1/pages',
  'GET /v1/pages',
  'GET /v1/pages/{name}',
  'DELETE /v1/pages/{name}',
  'GET /v1/pages/{name}/data',
  'PATCH /v1/pages/{name}/data',
  'PUT /v1/pages/{name}/data',
  'GET /v1/read',
  'POST /v1/transactions',
  'POST /v1/whatif',
  'GET /v1/epochs',
  'GET /v1/epochs/{epoch}',
  'GET /v1/diff',
  'GET /v1/pages/{name}/history',
  'POST /v1/verify',
  'PUT /v1/functions/{name}',
  'GET /v1/functions',
  'GET /v1/functions/{name}',
  'DELETE /v1/functions/{name}',
  'GET /v1/graph',
  'GET /v1/status',
  'GET /v1/stats',
  'POST /v1/checkpoints',
  'GET /v1/checkpoints',
  'GET /v1/stream',
  'GET /v1/events',
  'GET /v1/subscriptions',
  'GET /v1/subscriptions/{name}',
  'DELETE /v1/subscriptions/{name}',
  'GET /livez',
  'GET /startupz',
  'GET /readyz',
  'GET /metrics',
]

async function document(t: Parameters<typeof serve>[0]) {
  const { call } = await serve(t)
  const { body, headers } = await call('GET', '/openapi.json')
  t.match(headers['content-type'], /^application\/json/)
  const paths = body.paths as Record<string, Record<string, Operation>>
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      route: `${method.toUpperCase()} ${path}`,
      path,
      operation,
    })),
  )
  return { call, body, operations }
}

t.test('every route is in it, and nothing else', async (t) => {
  const { operations } = await document(t)
  const routes = operations.map(({ route }) => route).filter((route) => !route.startsWith('HEAD '))
  t.same(routes.sort(), [...ROUTES].sort())
})

t.test('it is OpenAPI 3.1', async (t) => {
  const { body, operations } = await document(t)
  t.match(body, {
    openapi: /^3\.1\.\d$/,
    info: { title: 'MMSB', version: /^\d/, license: { identifier: 'Apache-2.0' } },
  })
  for (const { route, path, operation } of operations) {
    const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
    const inPath = (operation.parameters ?? []).filter((p) => p.in === 'path').map((p) => p.name)
    t.same(inPath.sort(), named.sort(), `${route}: path parameters`)
    t.ok(
      (operation.parameters ?? []).every((p) => p.in !== 'path' || p.required === true),
      `${route}: required`,
    )
    t.type(operation.summary, 'string', `${route}: summary`)
    t.ok((operation.tags ?? []).length > 0, `${route}: tags`)
    const statuses = Object.keys(operation.responses)
    t.ok(
      statuses.every((s) => /^[1-5]\d\d$/.test(s)),
      `${route}: statuses ${statuses}`,
    )
    t.ok(
      Object.values(operation.responses).every((r) => r.description.length > 0),
      `${route}: descriptions`,
    )
    t.ok(
      statuses.some((s) => s < '400'),
      `${route}: says what comes when all is well`,
    )
    t.match(
      operation.responses['400']?.content,
      { 'application/problem+json': { schema: Object } },
      `${route}: problems`,
    )
    t.equal(
      operation.requestBody !== undefined,
      /^(PUT|PATCH) |^POST .v1.pages|transactions|whatif|verify/.test(route),
      `${route}: body`,
    )
  }
})

t.test('its schemas are JSON Schema that refuses unknown fields', async (t) => {
  const { operations } = await document(t)
  let objects = 0
  const walk = (schema: unknown, where: string): void => {
    if (typeof schema !== 'object' || schema === null) return
    if ('nullable' in schema) t.fail(`${where}: nullable is of OpenAPI 3.0`)
    const { type, additionalProperties } = schema as { type?: string; additionalProperties?: unknown }
    if (type === 'object' && 'properties' in schema) {
      objects++
      const isOpen = /derive|Problem|problem|stats/.test(where)
      if (!isOpen) t.equal(additionalProperties, false, where)
    }
    for (const [key, value] of Object.entries(schema)) walk(value, `${where}/${key}`)
  }
  for (const { route, operation } of operations) walk(operation.requestBody, `${route} body`)
  t.ok(objects >= 6, `${objects} objects`)
})

t.test('its errors are those of the table', async (t) => {
  const { operations } = await document(t)
  for (const { route, operation } of operations) {
    for (const [status, { description }] of Object.entries(operation.responses)) {
      if (status < '400') continue
      for (const [, code] of description.matchAll(/`([A-Z_]+)`/g)) {
        t.equal(String(ERRORS[code as keyof typeof ERRORS]?.status), status, `${route} ${code}`)
      }
    }
  }
})

t.test('its pages and their scripts come from this server alone', async (t) => {
  const { call } = await document(t)
  t.match(
    await call('GET', '/'),
    { status: 302, headers: { location: '/docs' } },
    'who looks at the root is led there',
  )
  const docs = await call('GET', '/docs/')
  t.equal(docs.status, 200)
  t.match(docs.headers['content-type'], /^text\/html/)
  t.notMatch(String(docs.raw), /(src|href)="https?:/)
})

t.test('package.json and the document agree on the version', async (t) => {
  const { body } = await document(t)
  const manifest = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'))
  t.equal((body.info as { version: string }).version, manifest.version)
})
