/** Traces: what a collector gets of requests and transactions, and of the epochs that answer them. */
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import t, { type Test } from 'tap'
import { parseFlags, StartError } from '../../../src/cli/flags.js'
import { otlpEndpointOf, startTracing, TRACING_FLAGS } from '../../../src/cli/serving/tracing.js'
import { REAL_HOST } from '../../../src/engine/host.js'
import { createLogger } from '../../../src/http/observe/logging.js'
import { RecentEpochs } from '../../../src/http/observe/tracing.js'
import { TRACED_EPOCHS_MAX } from '../../../src/limits.js'
import { call, run, serve as serveProcess } from '../../cli/process.js'
import { folder } from '../../lib/folder.js'
import { until } from '../../lib/wait.js'
import { Client } from '../../stream/helpers.js'
import { listen, type Served, SOURCE, serve } from '../helpers.js'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const PARENT = 'b7ad6b7169203331'
const TRACEPARENT = `00-${TRACE}-${PARENT}-01`

/** A span as OTLP writes it in JSON. */
interface Sent {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: readonly { key: string; value: { stringValue?: string; intValue?: number } }[]
}

/** A collector of OTLP over HTTP. */
async function collector(
  t: Test,
): Promise<{ url: string; spans: Sent[]; bodies: string[]; paths: string[] }> {
  const spans: Sent[] = []
  const bodies: string[] = []
  const paths: string[] = []
  const server = createServer(async (request: IncomingMessage, response) => {
    const body = Buffer.concat(await request.toArray()).toString()
    paths.push(`${request.method} ${request.url}`)
    bodies.push(body)
    const { resourceSpans } = JSON.parse(body) as { resourceSpans: { scopeSpans: { spans: Sent[] }[] }[] }
    for (const { scopeSpans } of resourceSpans) spans.push(...scopeSpans.flatMap((scope) => scope.spans))
    response.setHeader('content-type', 'application/json').end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans, bodies, paths }
}

const attribute = ({ attributes }: Sent, key: string): unknown => {
  const { stringValue, intValue } = attributes.find((one) => one.key === key)?.value ?? {}
  return stringValue ?? intValue
}

t.test('a server sends a span for each request, with the stages of its epoch below', async (t) => {
  const { url: endpoint, spans, bodies, paths } = await collector(t)
  const server = serveProcess(t, ['--data-dir', join(folder(t), 'data'), '--otlp-endpoint', endpoint])
  const url = await server.ready()
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [2] })
  const answer = await fetch(`${url}/v1/pages/a/data`, {
    method: 'PATCH',
    headers: { 'content-type': 'application/json', traceparent: TRACEPARENT, 'x-request-id': 'mine' },
    body: '{"offset":0,"values":[77]}',
  })
  const { epoch } = (await answer.json()) as { epoch: number }
  await call(url, 'GET', '/livez')
  await call(url, 'GET', '/v1/pages/none')
  const client = await Client.open(Number(new URL(url).port))
  client.send({
    type: 'transaction',
    id: 't',
    ops: [{ page: 'a', offset: 1, values: [78] }],
    traceparent: TRACEPARENT,
  })
  await client.until(() => client.messages.length === 1)
  client.socket.terminate()
  t.equal(await server.end(), 0, 'the stop sends what is left')
  t.ok(paths.length > 0 && paths.every((path) => path === 'POST /v1/traces'), paths.join())

  const named = (name: string): Sent => {
    const found = spans.filter((span) => span.name === name)
    t.equal(found.length, 1, name)
    return found[0] as Sent
  }
  const patch = named('PATCH /v1/pages/:name/data')
  t.match(patch, { traceId: TRACE, parentSpanId: PARENT })
  t.equal(attribute(patch, 'mmsb.request_id'), 'mine')
  t.equal(attribute(patch, 'mmsb.epoch'), epoch)
  t.equal(attribute(patch, 'http.response.status_code'), 200)
  const below = (parent: Sent): Sent[] => spans.filter(({ parentSpanId }) => parentSpanId === parent.spanId)
  for (const parent of [patch, named('transaction'), named('PUT /v1/pages/:name')]) {
    const stages = below(parent)
    t.same(
      stages.map(({ name }) => name),
      ['queue', 'append', 'execute', 'publish'],
      parent.name,
    )
    for (const stage of stages) {
      t.equal(stage.traceId, parent.traceId)
      t.equal(attribute(stage, 'mmsb.epoch'), attribute(parent, 'mmsb.epoch'))
      const [from, to] = [BigInt(stage.startTimeUnixNano), BigInt(stage.endTimeUnixNano)]
      t.ok(from <= to, `${stage.name} has a length`)
      // The clocks of spans and stages are read at different moments.
      const slack = 5_000_000n
      t.ok(from >= BigInt(parent.startTimeUnixNano) - slack, `${stage.name} begins inside ${parent.name}`)
      t.ok(to <= BigInt(parent.endTimeUnixNano) + slack, `${stage.name} ends inside ${parent.name}`)
    }
  }
  t.match(named('transaction'), { traceId: TRACE, parentSpanId: PARENT })
  t.equal(attribute(named('GET /v1/pages/:name'), 'error.type'), 'PAGE_NOT_FOUND')
  t.notOk(spans.some(({ name }) => name.includes('livez')))
  t.match(bodies.join(), /"service\.name"[^}]*"mmsb"/)
  t.notMatch(bodies.join(), /"values"/)
})

t.test('a collector that is not there costs no request, and the log says so', async (t) => {
  const { url: endpoint } = await collector(t)
  const gone = endpoint.replace(/\d+$/, '1')
  const server = serveProcess(t, ['--data-dir', join(folder(t), 'data'), '--otlp-endpoint', gone])
  const url = await server.ready()
  t.match(await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [2] }), { name: 'a' })
  t.equal(await server.end(), 0)
  t.match(server.stderr, /"level":40.*traces: /)
})

interface Traced extends Served {
  readonly exporter: InMemorySpanExporter
}

async function traced(t: Test): Promise<Traced> {
  const exporter = new InMemorySpanExporter()
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  const epochs = new RecentEpochs()
  const tracing = { tracer: provider.getTracer('test'), epochs }
  const served = await serve(t, {}, { tracing }, { ...REAL_HOST, onEpoch: epochs.note })
  return { ...served, exporter }
}

t.test('the parent is what the caller gives, if it is sound', async (t) => {
  const { inject, exporter } = await traced(t)
  const parentOf = async (traceparent: string | undefined): Promise<string | undefined> => {
    exporter.reset()
    await inject({
      url: '/v1/pages',
      headers: traceparent === undefined ? {} : { traceparent, tracestate: 'a=1' },
    })
    await until(() => exporter.getFinishedSpans().length === 1, 'the span')
    return exporter.getFinishedSpans()[0]?.parentSpanContext?.spanId
  }
  t.equal(await parentOf(TRACEPARENT), PARENT)
  t.equal(exporter.getFinishedSpans()[0]?.spanContext().traceId, TRACE)
  t.equal(exporter.getFinishedSpans()[0]?.spanContext().traceState?.serialize(), 'a=1')
  t.equal(await parentOf(`01-${TRACE}-${PARENT}-01-later`), PARENT, 'a later version')
  for (const odd of [
    undefined,
    '',
    'x',
    `ff-${TRACE}-${PARENT}-01`,
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `${TRACEPARENT}-more`,
    `00-${TRACE}-${PARENT}`,
  ])
    t.equal(await parentOf(odd), undefined, String(odd))
  exporter.reset()
  await inject({ url: '/v1/pages', headers: { traceparent: TRACEPARENT.replace(/01$/, '00') } })
  await inject({ url: '/v1/stats' })
  await until(() => exporter.getFinishedSpans().length === 1, 'a later span')
  t.equal(exporter.getFinishedSpans()[0]?.name, 'GET /v1/stats', 'a caller that takes no sample gets none')
})

t.test('in memory there is no append; a refused write has no stages; a repeat has none', async (t) => {
  const { call, exporter } = await traced(t)
  const names = async (count: number): Promise<string[]> => {
    await until(() => exporter.getFinishedSpans().length === count, `${count} spans`)
    const found = exporter.getFinishedSpans().map(({ name }) => name)
    exporter.reset()
    return found
  }
  await call('PUT', '/v1/pages/a', SOURCE)
  t.same(await names(4), ['queue', 'execute', 'publish', 'PUT /v1/pages/:name'])
  await call('PUT', '/v1/pages/a', SOURCE)
  t.same(await names(1), ['PUT /v1/pages/:name'])
  await call('PATCH', '/v1/pages/none/data', { offset: 0, values: [1] })
  t.same(await names(1), ['PATCH /v1/pages/:name/data'])
  const key = { 'idempotency-key': 'k' }
  await call('PATCH', '/v1/pages/a/data', { offset: 0, values: [1] }, key)
  t.equal((await names(4)).length, 4)
  await call('PATCH', '/v1/pages/a/data', { offset: 0, values: [1] }, key)
  t.same(await names(1), ['PATCH /v1/pages/:name/data'])
  await call('POST', '/v1/whatif', { ops: [{ page: 'a', offset: 0, values: [2] }], read: ['a'] })
  t.same(await names(1), ['POST /v1/whatif'])
})

t.test('a transaction of a WebSocket without a parent of its own has that of the handshake', async (t) => {
  const served = await traced(t)
  await served.bus.create('a', SOURCE as never)
  const { port } = await listen(served)
  const client = await Client.open(port, ['mmsb.v1.json'], { headers: { traceparent: TRACEPARENT } })
  const send = (id: string, page: string, more = {}): void =>
    client.send({ type: 'transaction', id, ops: [{ page, offset: 0, values: [1] }], ...more })
  send('one', 'a')
  send('two', 'none', { traceparent: TRACEPARENT.replace(PARENT, '1'.repeat(16)) })
  send('three', 'a', { traceparent: 7 })
  await client.until(() => client.messages.length === 3)
  t.match(
    client.messages.find(({ id }) => id === 'three'),
    { code: 'INVALID_REQUEST' },
  )
  const spans = served.exporter.getFinishedSpans().filter(({ name }) => name === 'transaction')
  t.same(
    spans
      .map(({ parentSpanContext, attributes }) => [parentSpanContext?.spanId, attributes['error.type']])
      .sort(),
    [
      ['1'.repeat(16), 'PAGE_NOT_FOUND'],
      [PARENT, undefined],
    ],
  )
  client.socket.terminate()
})

t.test('the times of so many epochs are kept', async (t) => {
  const epochs = new RecentEpochs()
  const stretch = [0, 1] as const
  for (let epoch = 1; epoch <= TRACED_EPOCHS_MAX + 1; epoch++)
    epochs.note({ epoch, append: undefined, execute: stretch, publish: stretch })
  t.equal(epochs.of(1), undefined)
  t.equal(epochs.of(2)?.epoch, 2)
  t.equal(epochs.of(TRACED_EPOCHS_MAX + 1)?.epoch, TRACED_EPOCHS_MAX + 1)
})

t.test('the flag, and packages that are not installed', async (t) => {
  const judge = (...args: string[]) => otlpEndpointOf(parseFlags(args, TRACING_FLAGS, {}))
  t.equal(judge(), undefined)
  t.equal(judge('--otlp-endpoint', 'http://c:4318'), 'http://c:4318/v1/traces')
  t.equal(judge('--otlp-endpoint', 'https://c/own/path'), 'https://c/own/path')
  for (const odd of ['c:4318', 'ftp://c', 'http://user:hush@c'])
    t.throws(() => judge('--otlp-endpoint', odd), /--otlp-endpoint: /)
  t.throws(() => judge('--otlp-endpoint', 'http://user:hush@c'), /OTEL_EXPORTER_OTLP_HEADERS/)
  const missing = (): Promise<never> =>
    Promise.reject(new Error("Cannot find package '@opentelemetry/resources'"))
  const starting = startTracing('http://c/v1/traces', createLogger('silent'), missing)
  t.ok((await starting.catch((error: unknown) => error)) instanceof StartError)
  await t.rejects(starting, /npm install @opentelemetry\/exporter-trace-otlp-http@.*Cannot find package/)
  const { code, stderr } = await run(['serve', '--otlp-endpoint', 'nonsense'])
  t.equal(code, 2)
  t.match(stderr, /--otlp-endpoint: is not an http or https URL/)
})
