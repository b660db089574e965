/** What principals see of the stream, and what they may send on it. */
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { ANYBODY } from '../../src/auth/principals.js'
import { Tickets } from '../../src/auth/tickets.js'
import { revokeToken } from '../../src/auth/token-file.js'
import { TICKET_MS, TICKETS_MAX } from '../../src/limits.js'
import { FrameWriter } from '../../src/state/frame/writer.js'
import { listen } from '../http/helpers.js'
import { Client, type Message } from '../stream/helpers.js'
import { type Guarded, serveTo } from './helpers.js'

interface Streaming extends Guarded {
  connect(id: string, protocol?: string): Promise<Client>
}

async function streaming(t: Test): Promise<Streaming> {
  const guarded = await serveTo(t, {
    mine: ['read:mine.*', 'write:mine.*'],
    writer: ['write:mine.*', 'write:only.*'],
    all: ['read:*', 'write:*', 'define:*', 'admin:*', 'history:*'],
  })
  const { bus, as } = guarded
  for (const name of ['mine.a', 'only.a', 'theirs.a']) await bus.create(name, { dtype: 'f64', shape: [2] })
  await bus.derive('mine.d', { op: 'map', inputs: { a: 'mine.a', b: 'theirs.a' }, expr: 'a + b' })
  const { port } = await listen(guarded)
  const connect = async (id: string, protocol = 'mmsb.v1.json'): Promise<Client> => {
    const client = await Client.open(port, [protocol], { headers: as(id) })
    t.teardown(() => client.socket.terminate())
    return client
  }
  return { ...guarded, connect }
}

const pagesIn = (messages: readonly Message[]): string[] => [
  ...new Set(
    messages.flatMap(({ changes = [], pages = {} }) => [
      ...changes.map(({ page }) => page),
      ...Object.keys(pages),
    ]),
  ),
]

t.test(
  'a subscription shows what its principal may read, live, in its snapshot and from the log',
  async (t) => {
    const { bus, connect } = await streaming(t)
    const client = await connect('mine')
    for (const [i, pages] of [['*'], ['theirs.*', 'theirs.a', 'mine.a'], ['*.a']].entries()) {
      client.send({ type: 'subscribe', id: `now${i}`, pages })
      client.send({ type: 'subscribe', id: `snapshot${i}`, pages, from: 'snapshot' })
      client.send({ type: 'subscribe', id: `log${i}`, pages, from: 0 })
    }
    await bus.patch('theirs.a', { offset: 0, values: [7] })
    await bus.create('theirs.new', { dtype: 'f64', shape: [1] })
    await bus.create('mine.new', { dtype: 'f64', shape: [1] })
    const { epoch } = await bus.patch('mine.a', { offset: 0, values: [1] })
    for (const [i, wanted] of [['mine.a', 'mine.d', 'mine.new'], ['mine.a'], ['mine.a']].entries()) {
      for (const kind of ['now', 'snapshot', 'log']) {
        const id = `${kind}${i}`
        await client.next((message) => message.id === id && message.epoch === epoch, id)
        const shown = pagesIn(client.messages.filter((message) => message.id === id)).sort()
        t.same(shown, wanted, id)
      }
    }
    t.notMatch(JSON.stringify(client.messages), /theirs/)
  },
)

t.test('a window on a page that may not be read is refused as one on a page that is not there', async (t) => {
  const { connect } = await streaming(t)
  const client = await connect('mine')
  const refusal = async (page: string): Promise<Message> =>
    client.ask({ type: 'subscribe', id: page, pages: ['*'], slice: { [page]: [[0, 1]] } })
  const [foreign, none] = [await refusal('theirs.a'), await refusal('theirs.x')]
  t.equal(foreign.type, 'error')
  t.equal(foreign.detail?.replace('theirs.a', 'theirs.x'), none.detail)
})

t.test('transactions and frames need write on each page, and read for what they expect', async (t) => {
  const { bus, connect } = await streaming(t)
  const client = await connect('mine')
  const transact = (id: string, page: string, more: object = {}): Promise<Message> =>
    client.ask({ type: 'transaction', id, ops: [{ page, offset: 0, values: [1] }], ...more })
  t.equal((await transact('ok', 'mine.a')).type, 'ack')
  t.match(await transact('foreign', 'theirs.a'), { type: 'error', code: 'PAGE_NOT_FOUND' })
  t.match(await transact('none', 'theirs.x'), { type: 'error', code: 'PAGE_NOT_FOUND' })
  const writer = await connect('writer')
  const blind = { type: 'transaction', ops: [{ page: 'mine.a', offset: 0, values: [2] }] }
  t.equal((await writer.ask({ ...blind, id: 'blind' })).type, 'ack')
  const expecting = { ...blind, id: 'expecting', expect: [{ page: 'mine.a', version: 1 }] }
  t.match(await writer.ask(expecting), { type: 'error', code: 'PAGE_NOT_FOUND' }, 'a version is read')

  const frame = (page: string, header: ConstructorParameters<typeof FrameWriter>[0] = {}): Buffer => {
    const frames = new FrameWriter(header)
    frames.delta(bus.peek(page).id, 'f64', 2, { offset: 1, values: [5] })
    return Buffer.from(frames.finish())
  }
  const binary = await connect('mine', 'mmsb.v1.bin')
  const before = bus.peek('theirs.a').version
  const { id: pageId, version } = bus.peek('theirs.a')
  const expecting2 = { expect: [{ pageId, version }] }
  binary.send(Buffer.concat([frame('mine.a'), frame('theirs.a'), frame('mine.a', { key: 'k' })]))
  binary.send(Buffer.concat([frame('mine.a', { key: 'k' }), frame('mine.a', expecting2)]))
  await binary.until(() => Buffer.concat(binary.binary).includes('PAGE_NOT_FOUND'))
  await binary.until(
    () => Buffer.concat(binary.binary).toString('latin1').split('PAGE_NOT_FOUND').length === 3,
  )
  t.equal(bus.peek('theirs.a').version, before)
  t.same([...bus.read('mine.a')], [2, 5])
})

t.test('keys, sources and durable subscriptions belong to their principal', async (t) => {
  const { bus, connect, call, as } = await streaming(t)
  const patch = (id: string, values: number[]) =>
    call('PATCH', '/v1/pages/mine.a/data', { offset: 0, values }, { ...as(id), 'idempotency-key': 'k' })
  const first = await patch('mine', [1])
  t.same((await patch('mine', [1])).body, first.body, 'a repeat')
  t.equal((await patch('mine', [2])).status, 422, 'another content')
  t.equal((await patch('all', [3])).status, 200, 'the same key of another principal is another one')
  const long = 'x'.repeat(256)
  const answers = []
  for (let i = 0; i < 2; i++) {
    const headers = { ...as('mine'), 'idempotency-key': long }
    answers.push((await call('PATCH', '/v1/pages/mine.a/data', { offset: 0, values: [9] }, headers)).body)
  }
  t.same(answers[0], answers[1], 'a key of the greatest length')
  await call(
    'POST',
    '/v1/transactions',
    { ops: [{ page: 'mine.a', values: [1, 1] }], source: 'feed' },
    as('mine'),
  )
  const { epochs } = await bus.epochs({ from: first.body.epoch as number })
  t.same(
    epochs.map(({ transactions }) => transactions[0]?.source),
    ['mine', 'all', 'mine', 'mine/feed'],
  )

  const [mine, all] = [await connect('mine'), await connect('all')]
  await mine.ask({ type: 'subscribe', id: 's', pages: ['*'], durable: 'reader' })
  await all.ask({ type: 'subscribe', id: 's', pages: ['*'], durable: 'reader' })
  const names = async (id: string): Promise<unknown> => {
    const { subscriptions } = (await call('GET', '/v1/subscriptions', undefined, as(id))).body
    return (subscriptions as { name: string }[]).map(({ name }) => name).sort()
  }
  t.same(await names('mine'), ['reader'])
  t.same(await names('writer'), [])
  t.same(await names('all'), ['mine/reader', 'reader'], 'an administrator sees those of others')
  const url = '/v1/subscriptions/mine%2Freader'
  t.equal((await call('DELETE', url, undefined, as('writer'))).status, 404)
  t.equal((await call('DELETE', url, undefined, as('all'))).status, 200)
  t.match(await mine.next(({ type }) => type === 'error'), { code: 'NOT_FOUND' })
})

t.test('a token that is taken away ends what it opened, and nothing else', async (t) => {
  const { connect, file, authenticator, call, as } = await streaming(t)
  const [mine, all] = [await connect('mine'), await connect('all')]
  const closed = new Promise<number>((resolve) => {
    mine.socket.on('close', resolve)
  })
  revokeToken(file, 'mine', 'all')
  t.equal((await call('GET', '/v1/status', undefined, as('mine'))).status, 200, 'not before the server knows')
  authenticator.reload()
  t.equal(await closed, 4401)
  t.equal((await call('GET', '/v1/status', undefined, as('mine'))).status, 401)
  t.match(await all.ask({ type: 'subscribe', id: 'x', pages: ['*'] }), { type: 'subscribed' })
})

t.test('a browser sends its token as a subprotocol, which is not sent back', async (t) => {
  const { tokens, connect, ...guarded } = await streaming(t)
  const { port } = guarded.server.app.server.address() as { port: number }
  const bearer = (token: string): string => `mmsb.bearer.${Buffer.from(token).toString('base64url')}`
  const client = await Client.open(port, ['mmsb.v1.json', bearer(tokens.mine as string)])
  t.equal(client.socket.protocol, 'mmsb.v1.json')
  await client.close()
  const refused = new Client(port, ['mmsb.v1.json', bearer('nonsense')])
  const status = await new Promise((resolve) => {
    refused.socket.on('unexpected-response', (_request, { statusCode }) => resolve(statusCode))
  })
  t.equal(status, 401)
})

t.test('a ticket counts once, for a stream and nothing else', async (t) => {
  const { call, as, server, connect: _, authenticator, file } = await streaming(t)
  const { port } = server.app.server.address() as { port: number }
  const ticket = async (): Promise<string> =>
    (await call('POST', '/v1/tickets', undefined, as('mine'))).body.ticket as string
  const open = async (query: string): Promise<number> => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream${query}`, ['mmsb.v1.json'])
    t.teardown(() => socket.terminate())
    return new Promise((resolve) => {
      socket.on('open', () => resolve(101))
      socket.on('unexpected-response', (_request, { statusCode = 0 }) => resolve(statusCode))
      socket.on('error', () => {})
    })
  }
  const one = await ticket()
  t.equal((await call('GET', `/v1/pages?ticket=${one}`)).status, 401, 'not for other routes')
  t.equal((await call('HEAD', `/v1/events?pages=*&ticket=${one}`)).status, 200)
  t.equal((await call('HEAD', `/v1/events?pages=*&ticket=${one}`)).status, 401, 'only once')
  const other = await ticket()
  t.equal(await open(`?ticket=${other}`), 101)
  t.equal(await open(`?ticket=${other}`), 401)
  t.equal(await open('?ticket=x'), 401)
  t.equal(await open('?ticket=x&ticket=y'), 401)
  const late = await ticket()
  revokeToken(file, 'mine', 'all')
  authenticator.reload()
  t.equal(await open(`?ticket=${late}`), 401, 'not when its principal is gone')
})

t.test('a ticket ends, and only so many wait', async (t) => {
  let nowMs = 0
  const tickets = new Tickets(() => nowMs)
  const login = { principal: ANYBODY, isValid: () => true }
  const first = tickets.issue(login)
  t.equal(first.expiresAt, new Date(TICKET_MS).toISOString())
  nowMs = TICKET_MS - 1
  const second = tickets.issue(login)
  t.equal(tickets.redeem(first.ticket), login)
  const third = tickets.issue(login)
  nowMs = 2 * TICKET_MS - 2
  t.equal(tickets.redeem(second.ticket), login)
  nowMs++
  t.equal(tickets.redeem(third.ticket), undefined)
  for (let i = 0; i < TICKETS_MAX; i++) tickets.issue(login)
  t.throws(() => tickets.issue(login), { code: 'OVERLOADED' })
  nowMs += TICKET_MS
  t.ok(tickets.issue(login).ticket, 'old ones make room')
})
