/** The stream as server-sent events. */
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import t from 'tap'
import type { BusOptions } from '../../../src/engine/types.js'
import { hubOf } from '../../../src/stream/hub.js'
import { folder } from '../../lib/folder.js'
import { sleep } from '../../lib/wait.js'
import { Mirror } from '../../stream/helpers.js'
import { isProblem, listen, type Served, serve } from '../helpers.js'

type Test = Parameters<typeof serve>[0]

interface Event {
  readonly id: string | undefined
  readonly data: Parameters<Mirror['apply']>[0]
}

class Source {
  readonly events: Event[] = []
  readonly response: Promise<IncomingMessage>
  readonly ended: Promise<void>
  #request: ClientRequest

  constructor(port: number, query: string, headers: Record<string, string> = {}) {
    this.#request = request({ host: '127.0.0.1', port, path: `/v1/events?${query}`, headers })
    this.response = new Promise((resolve, reject) => {
      this.#request.on('response', resolve)
      this.#request.on('error', reject)
    })
    this.ended = this.response.then((response) => this.#read(response)).catch(() => {})
    this.#request.end()
  }

  async #read(response: IncomingMessage): Promise<void> {
    let text = ''
    for await (const chunk of response) {
      text += chunk
      const blocks = text.split('\n\n')
      text = blocks.pop()!
      for (const block of blocks) this.#parse(block)
    }
  }

  #parse(block: string): void {
    const fields = new Map(
      block.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
    )
    this.events.push({ id: fields.get('id'), data: JSON.parse(fields.get('data')!) as Event['data'] })
  }

  async until(isMet: () => boolean): Promise<void> {
    for (let i = 0; i < 1000 && !isMet(); i++) await sleep(10)
    if (!isMet()) throw new Error(`not met: ${JSON.stringify(this.events)}`)
  }

  close(): void {
    this.#request.destroy()
  }
}

async function stream(
  t: Test,
  options: BusOptions = {},
): Promise<Served & { open(query: string, headers?: Record<string, string>): Source }> {
  const served = await serve(t, options)
  const { port } = await listen(served)
  await served.bus.create('risk.a', { dtype: 'u8', shape: [2] })
  const open = (query: string, headers?: Record<string, string>): Source => {
    const source = new Source(port, query, headers)
    t.teardown(() => source.close())
    return source
  }
  return { ...served, open }
}

t.test('the same messages as the WebSocket, with the epoch as id', async (t) => {
  const { bus, open } = await stream(t)
  const source = open('pages=risk.*&from=snapshot&data=values')
  const { headers, statusCode } = await source.response
  t.match(
    [statusCode, headers['content-type'], headers['cache-control']],
    [200, /^text\/event-stream/, 'no-store'],
  )
  await source.until(() => source.events.length === 2)
  await bus.patch('risk.a', { values: [7] })
  await bus.create('risk.b', { dtype: 'u8', shape: [1] })
  await source.until(() => source.events.length === 4)
  t.same(
    source.events.map(({ id, data }) => [id, data.type]),
    [
      ['1', 'subscribed'],
      ['1', 'snapshot'],
      ['2', 'change'],
      ['3', 'change'],
    ],
  )
  const mirror = new Mirror()
  for (const { data } of source.events) mirror.apply(data)
  t.same(
    [...mirror.pages],
    [
      ['risk.a', [7, 0]],
      ['risk.b', [0]],
    ],
  )
})

t.test('Last-Event-ID resumes; what is gone is said, with where to go on', async (t) => {
  const { bus, open } = await stream(t)
  await bus.patch('risk.a', { values: [1] })
  const source = open('pages=*&from=snapshot', { 'last-event-id': '2' })
  await source.until(() => source.events.length === 1)
  t.match(source.events[0], { id: '2', data: { type: 'subscribed', epoch: 2 } })
  const late = open('pages=*', { 'last-event-id': '1' })
  await late.ended
  t.match(late.events, [{ id: '2', data: { type: 'compacted', minEpoch: 2 } }])
})

/** All but progress, which appears only when the test is slow. */
const said = ({ events }: Source): Event[] => events.filter(({ data }) => data.type !== 'progress')

t.test('an epoch gone by: from the log, then live; Last-Event-ID overrides from', async (t) => {
  const dataDir = folder(t)
  const { bus, open } = await stream(t, { dataDir, fsync: 'off' })
  await bus.derive('risk.b', { op: 'map', inputs: { a: 'risk.a' }, expr: 'a*2' })
  for (let i = 1; i <= 5; i++) await bus.patch('risk.a', { values: [i] })
  const from = open('pages=risk.*&from=0&data=values')
  const header = open('pages=risk.*&from=0&data=values', { 'last-event-id': '4' })
  await from.until(() => said(from).length === 8)
  await header.until(() => said(header).length === 4)
  await bus.patch('risk.a', { values: [6] })
  await from.until(() => said(from).length === 9)
  await header.until(() => said(header).length === 5)
  t.same(
    said(from).map(({ id, data }) => [id, data.type]),
    [['0', 'subscribed'], ...[1, 2, 3, 4, 5, 6, 7, 8].map((epoch) => [String(epoch), 'change'])],
  )
  t.same(said(header)[0], {
    id: '4',
    data: { type: 'subscribed', id: 'events', epoch: 4, history: bus.historyId },
  })
  t.same(said(header).slice(1), said(from).slice(5))
  t.same(said(from).at(-1)?.data.changes, [
    { page: 'risk.a', kind: 'source', ranges: [[0, 1]], values: [6] },
    { page: 'risk.b', kind: 'derived', ranges: [[0, 1]], values: [12] },
  ])
})

t.test('what is wrong is a problem document, not a stream', async (t) => {
  const { call } = await stream(t)
  for (const query of [
    '',
    'pages=',
    'pages=a%20b',
    'pages=a&from=then',
    'pages=a&from=-1',
    'pages=a&data=all',
    'pages=a&policy=best',
    'pages=a&maxRate=0',
    'pages=a&maxRate=0.0',
    'pages=a&maxRate=-0.5',
    'pages=a&maxRate=.5',
    'pages=a&maxRate=1001',
    'pages=a&maxRate=fast',
    'pages=a&maxRate=1&policy=lossless',
    'pages=a&x=1',
  ]) {
    isProblem(t, await call('GET', `/v1/events?${query}`), 'INVALID_REQUEST', query)
  }
  isProblem(
    t,
    await call('GET', '/v1/events?pages=a', undefined, { 'last-event-id': 'x' }),
    'INVALID_REQUEST',
  )
  isProblem(t, await call('GET', '/v1/events?pages=a&from=99'), 'EPOCH_NOT_FOUND')
})

t.test('a rate of less than one a second', async (t) => {
  const { open } = await stream(t)
  const slow = open('pages=a&maxRate=0.5')
  await slow.until(() => slow.events.length === 1)
  t.match(slow.events, [{ data: { type: 'subscribed' } }])
  slow.close()
  await slow.ended
})

t.test('HEAD: the headers of the stream, and no stream', async (t) => {
  const { call, bus } = await stream(t)
  const { status, headers, raw } = await call('HEAD', '/v1/events?pages=a')
  t.match([status, headers['content-type'], raw.length], [200, /^text\/event-stream/, 0])
  t.equal((await call('HEAD', '/v1/events')).status, 400)
  t.equal(hubOf(bus).stats().connections, 0)
})

t.test('a client that goes away leaves nothing behind; a server that stops ends the stream', async (t) => {
  const { bus, server, open } = await stream(t)
  const [gone, stays] = [open('pages=*'), open('pages=*')]
  await stays.until(() => gone.events.length === 1 && stays.events.length === 1)
  gone.close()
  await gone.ended
  await server.close()
  await stays.ended
  t.equal(hubOf(bus).stats().connections, 0)
})

t.test('a window on a page, as JSON in the query', async (t) => {
  const { bus, call, open } = await stream(t)
  await bus.create('map', { dtype: 'u8', shape: [8, 8] })
  const query = (slice: string): string =>
    `pages=map&from=snapshot&data=values&slice=${encodeURIComponent(slice)}`
  const source = open(query('{"map":[[2,4],[5,8]]}'))
  await source.until(() => said(source).length === 2)
  await bus.patch('map', { offset: 0, values: [1] })
  await bus.patch('map', { offset: 2 * 8 + 4, values: [7, 8, 9] })
  await source.until(() => said(source).length === 3)
  t.match(
    said(source).map(({ data }) => data),
    [
      { type: 'subscribed' },
      { type: 'snapshot', pages: { map: { shape: [2, 3], values: [0, 0, 0, 0, 0, 0] } } },
      { type: 'change', epoch: 4, changes: [{ page: 'map', ranges: [[0, 2]], values: [8, 9] }] },
    ],
  )
  for (const slice of ['{', '[]', '{"map":[[0]]}', '{"map":[[0,-1],[0,1]]}', '{"other":[[0,1]]}'])
    isProblem(t, await call('GET', `/v1/events?${query(slice)}`), 'INVALID_REQUEST', slice)
  isProblem(t, await call('GET', `/v1/events?${query('{"map":[[0,9],[0,1]]}')}`), 'SHAPE_MISMATCH')
})
