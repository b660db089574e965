/**
 * The OpenAPI document is valid (as far as that can be checked offline), complete, and matches the server.
 */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { ERRORS } from '../../../src/errors.js'
import { ROOT } from '../../lib/place.js'
import { serve } from '../helpers.js'

interface Operation {
  readonly operationId?: string
  readonly summary?: string
  readonly tags?: string[]
  readonly parameters?: { name: string; in: string; required?: boolean; schema: object }[]
  readonly requestBody?: { content: Record<string, { schema: object }> }
  readonly responses: Record<string, { description: string; content?: Record<string, { schema?: object }> }>
}

/** Every public route of this version with its name. Clients are generated from the names: they stay. */
const OPERATIONS = {
  'PUT /v1/pages/{name}': 'createPage',
  'POST /v1/pages': 'createPages',
  'GET /v1/pages': 'listPages',
  'GET /v1/pages/{name}': 'getPage',
  'DELETE /v1/pages/{name}': 'deletePage',
  'GET /v1/pages/{name}/data': 'readPage',
  'PATCH /v1/pages/{name}/data': 'patchPage',
  'PUT /v1/pages/{name}/data': 'writePage',
  'GET /v1/read': 'readPages',
  'POST /v1/transactions': 'commitTransaction',
  'POST /v1/tickets': 'createTicket',
  'POST /v1/whatif': 'whatIf',
  'GET /v1/epochs': 'listEpochs',
  'GET /v1/epochs/{epoch}': 'getEpoch',
  'GET /v1/diff': 'diffEpochs',
  'GET /v1/pages/{name}/history': 'getPageHistory',
  'POST /v1/verify': 'verifyLog',
  'PUT /v1/functions/{name}': 'defineFunction',
  'GET /v1/functions': 'listFunctions',
  'GET /v1/functions/{name}': 'getFunction',
  'DELETE /v1/functions/{name}': 'deleteFunction',
  'GET /v1/graph': 'getGraph',
  'GET /v1/status': 'getStatus',
  'GET /v1/stats': 'getStats',
  'POST /v1/checkpoints': 'createCheckpoint',
  'GET /v1/checkpoints': 'listCheckpoints',
  'GET /v1/stream': 'openStream',
  'GET /v1/events': 'streamEvents',
  'GET /v1/subscriptions': 'listSubscriptions',
  'GET /v1/subscriptions/{name}': 'getSubscription',
  'DELETE /v1/subscriptions/{name}': 'deleteSubscription',
  'GET /livez': 'getLiveness',
  'GET /startupz': 'getStartup',
  'GET /readyz': 'getReadiness',
  'GET /metrics': 'getMetrics',
}

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
  const { schemas } = body.components as { schemas: Record<string, object> }
  return { call, body, operations, schemas }
}

t.test('every route is in it under its name, and nothing else', async (t) => {
  const { operations } = await document(t)
  const found = operations.map(({ route, operation }) => [route, operation.operationId])
  t.same(Object.fromEntries(found), OPERATIONS)
  t.equal(new Set(Object.values(OPERATIONS)).size, found.length, 'no name twice')
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

/** Calls back for every schema below a part of the document, the part itself included. */
function walk(part: unknown, where: string, visit: (schema: Schema, where: string) => void): void {
  if (typeof part !== 'object' || part === null) return
  visit(part, where)
  for (const [key, value] of Object.entries(part)) walk(value, `${where}/${key}`, visit)
}

interface Schema {
  readonly $ref?: string
  readonly properties?: object
  readonly additionalProperties?: unknown
}

const hasFields = ({ properties }: Schema): boolean => Object.keys(properties ?? {}).length > 0

t.test('its schemas are JSON Schema that refuses unknown fields', async (t) => {
  const { body, schemas } = await document(t)
  const old: string[] = []
  walk(body, '', (schema, where) => {
    if ('nullable' in schema) old.push(where)
  })
  t.same(old, [], 'nullable is of OpenAPI 3.0')
  const open: string[] = []
  walk(schemas, '', (schema, where) => {
    if (hasFields(schema) && schema.additionalProperties !== false) open.push(where)
  })
  t.same(open.sort(), ['/Derivation', '/LogStats', '/Problem', '/Stats'])
})

t.test('every object with fields is a named schema, and none has two names', async (t) => {
  const { body, schemas } = await document(t)
  const names = new Map<string, string>()
  for (const [name, schema] of Object.entries(schemas)) {
    t.match(name, /^[A-Z][A-Za-z]+$/)
    const text = JSON.stringify(schema)
    t.equal(names.get(text), undefined, `${name} is another schema than ${names.get(text)}`)
    names.set(text, name)
  }
  const references = new Set<string>()
  const nameless: string[] = []
  const named = new Set(Object.keys(schemas).map((name) => `/schemas/${name}`))
  walk({ paths: body.paths, schemas }, '', (schema, where) => {
    if (typeof schema.$ref === 'string') references.add(schema.$ref)
    if (hasFields(schema) && !named.has(where)) nameless.push(where)
  })
  t.same(nameless, [])
  const wanted = Object.keys(schemas).map((name) => `#/components/schemas/${name}`)
  t.same([...references].sort(), wanted.sort(), 'all are used, and all that are used are there')
})

t.test('every body and every answer in JSON is one of them, or a list or map', async (t) => {
  const { operations } = await document(t)
  for (const { route, operation } of operations) {
    const contents = [operation.requestBody, ...Object.values(operation.responses)]
    for (const content of contents.map((part) => part?.content ?? {})) {
      for (const [type, { schema }] of Object.entries(content))
        if (type.endsWith('json')) t.match(schema, { $ref: /^#.components.schemas./ }, `${route} ${type}`)
    }
  }
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
  const manifest = JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8'))
  t.equal((body.info as { version: string }).version, manifest.version)
})

const GENERATOR = join(ROOT, 'node_modules/openapi-typescript/bin/cli.js')
const COMPILER = join(ROOT, 'node_modules/typescript/bin/tsc')

const COMPILER_OPTIONS = { noEmit: true, strict: true, module: 'nodenext', target: 'es2022', types: [] }

/** Programs as a user of the generated types would write them. */
const FITS = `
import type { components, operations } from './mmsb.js'
type Schemas = components['schemas']
const page: Schemas['Page'] = {
  name: 'a', id: 1, kind: 'source', dtype: 'f32', shape: [4], bytes: 16, location: 'cpu', version: 1,
  createdEpoch: 1, inputs: [], dependents: [], digest: '',
}
const { kind }: { kind: Schemas['PageKind'] } = page
const input: Schemas['DerivationInput'] = { prev: 'a' }
const derived: Schemas['PageDefinition'] = { derive: { op: 'map', expr: 'x * 2', inputs: { x: 'a', y: input } } }
const write: Schemas['Delta'] = { offset: 1, values: [1, 'NaN', true], merge: 'add' }
const wanted: operations['readPage']['parameters']['path'] = { name: 'a' }
const answer: operations['createPage']['responses'][201]['content']['application/json'] = page
const code: Schemas['ErrorCode'] = 'PAGE_NOT_FOUND'
const problem: Schemas['Problem'] = { type: '', title: '', status: 404, code, detail: '', hint: '', minEpoch: 3 }
export const all = [kind, derived, write, wanted, answer, problem]
`
const WRONG = {
  'a field of another type': `const page: Pick<Schemas['Page'], 'id'> = { id: 'one' }; export { page }`,
  'an unknown dtype': `export const dtype: Schemas['Dtype'] = 'f16'`,
  'an unknown field': `export const delta: Schemas['Delta'] = { values: [1], merged: 'add' }`,
  'a null in an answer': `export const page: Pick<Schemas['Page'], 'derive'> = { derive: null }`,
}

t.test('a client generated by openapi-typescript has named types', async (t) => {
  const { body } = await document(t)
  const folder = t.testdir({
    'openapi.json': JSON.stringify(body),
    'package.json': '{"type":"module"}',
    'tsconfig.json': JSON.stringify({ compilerOptions: COMPILER_OPTIONS }),
    'fits.ts': FITS,
  })
  const run = promisify(execFile)
  const node = (...words: string[]) => run(process.execPath, words, { cwd: folder })
  await node(GENERATOR, 'openapi.json', '-o', 'mmsb.d.ts')
  const files = Object.entries(WRONG).map(([what, program], at) => {
    const text = `import type { components } from './mmsb.js'\ntype Schemas = components['schemas']\n${program}\n`
    writeFileSync(join(folder, `wrong${at}.ts`), text)
    return { file: `wrong${at}.ts`, what }
  })
  const compiled = await node(COMPILER, '-p', 'tsconfig.json').then(
    () => '',
    (error: { stdout: string }) => error.stdout,
  )
  t.notMatch(compiled, /^(fits|mmsb)/m)
  for (const { file, what } of files) t.ok(compiled.includes(`${file}(`), what)
})
