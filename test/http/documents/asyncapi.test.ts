/** The AsyncAPI document is complete and describes what the stream accepts and sends. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { MmsbError } from '../../../src/errors.js'
import { compileCheck } from '../../../src/http/request/validation.js'
import { SERVER_MESSAGES } from '../../../src/http/schemas/stream-messages.js'
import type { TSchema } from '../../../src/http/typebox.js'
import { jsonHead, jsonTail } from '../../../src/stream/messages.js'
import { ROOT } from '../../lib/place.js'
import { Client } from '../../stream/helpers.js'
import { isProblem, listen, serve } from '../helpers.js'

interface Document {
  readonly asyncapi: string
  readonly info: { title: string; version: string }
  readonly servers: Record<string, { host: string; protocol: string }>
  readonly channels: { stream: { address: string; messages: Record<string, { $ref: string }> } }
  readonly operations: Record<
    string,
    { action: string; channel: { $ref: string }; messages: { $ref: string }[] }
  >
  readonly components: { messages: Record<string, { name: string; contentType: string; payload: TSchema }> }
}

async function document(t: Parameters<typeof serve>[0]) {
  const served = await serve(t)
  const { port } = await listen(served)
  const response = await fetch(`http://127.0.0.1:${port}/asyncapi.json`)
  t.match(response.headers.get('content-type'), /^application\/json/)
  return { ...served, port, api: (await response.json()) as Document }
}

/** The schema that a reference points to. */
const follow = (api: Document, ref: string): unknown =>
  ref
    .replace(/^#\//, '')
    .split('/')
    .reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], api)

const nameOf = ({ $ref }: { $ref: string }): string => $ref.split('/').at(-1)!
const JSON_ONLY = (name: string) => name !== 'frames' && name !== 'binary'

t.test('it is AsyncAPI 3.0, and every reference leads somewhere', async (t) => {
  const { api, port, call } = await document(t)
  t.equal(api.asyncapi, '3.0.0')
  t.equal(api.info.version, (await call('GET', '/v1/status')).body.version)
  t.same(api.servers, { here: { host: `127.0.0.1:${port}`, protocol: 'ws' } })
  t.equal(api.channels.stream.address, '/v1/stream')
  const refs = [...JSON.stringify(api).matchAll(/"\$ref":"([^"]+)"/g)].map(([, ref]) => ref!)
  t.ok(refs.length > 20)
  for (const ref of refs) t.ok(follow(api, ref), ref)
  const named = Object.values(api.operations).flatMap(({ messages }) => messages.map(nameOf))
  t.same(named.sort(), Object.keys(api.channels.stream.messages).sort(), 'each message goes one way')
  t.same(Object.keys(api.components.messages).sort(), named)
  isProblem(t, await call('GET', '/asyncapi.json/x'), 'NOT_FOUND')
})

t.test('what the server receives are the messages it takes', async (t) => {
  const { api, port } = await document(t)
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  const { detail } = await client.ask({ type: 'none', id: 'x' })
  const taken = /one of (.*)$/.exec(detail!)![1]!.split(', ')
  const received = api.operations.receive!.messages.map(nameOf).filter(JSON_ONLY)
  t.same(received.sort(), taken.sort())
})

t.test('what the server sends fits what the document says of it', async (t) => {
  const { api, port, bus } = await document(t)
  const sent = new Map(
    api.operations
      .send!.messages.map(nameOf)
      .filter(JSON_ONLY)
      .map((name) => [name, compileCheck(api.components.messages[name]!.payload, name)]),
  )
  await bus.create('old', { dtype: 'u8', shape: [1] })
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  const { epoch } = await bus.create('a', { dtype: 'u64', shape: [2, 2] })
  client.send({ type: 'subscribe', id: 'gone', pages: ['*'], from: epoch - 1 })
  client.send({ type: 'subscribe', id: 'v', pages: ['*'], from: 'snapshot' })
  client.send({ type: 'subscribe', id: 'n', pages: ['*'], data: 'none' })
  await client.ask({ type: 'subscribe', id: 'r', pages: ['*'], data: 'ranges' })
  await client.ask({ type: 'transaction', id: 't', ops: [{ page: 'a', values: [1] }] })
  await bus.create('f', { dtype: 'f32', shape: [] })
  await bus.patch('f', { values: [Number.NaN] })
  await bus.delete('f')
  await client.until(() => ['v', 'n', 'r'].every((id) => client.changes(id).length === 4))
  await client.ask({ type: 'unsubscribe', id: 'n' })
  client.send('{')
  await client.until(() => client.messages.some((m) => m.type === 'error'))
  const others = [
    { type: 'progress', epoch: 4 },
    { type: 'overflow', resumeFrom: 3 },
    { type: 'committed', epoch: 3 },
    { type: 'error', error: new MmsbError('EPOCH_COMPACTED', 'gone', { minEpoch: 4 }) },
  ] as const
  const said = others.map((message) => JSON.parse(jsonHead(message.type, 's') + jsonTail(message)) as object)
  const seen = new Set<string>()
  for (const message of [...client.messages, ...said] as { type: string }[]) {
    t.doesNotThrow(() => sent.get(message.type)!(message), JSON.stringify(message))
    seen.add(message.type)
  }
  t.same([...seen].sort(), [...sent.keys()].sort())
  t.throws(() => sent.get('change')!({ type: 'change', id: 's', epoch: 1, first: 1, changes: [{}] }))
})

t.test('docs/guide/STREAM.md says what each message means, in the words of the document', async (t) => {
  const text = readFileSync(`${ROOT}docs/guide/STREAM.md`, 'utf8')
  for (const [name, schema] of Object.entries<TSchema & { description?: string }>(SERVER_MESSAGES))
    t.ok(text.includes(`\n| \`${name}\` | ${schema.description} |\n`), name)
})
