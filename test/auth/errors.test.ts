/** What errors say of pages that a principal may not read, and what passes once its token is gone. */
import t from 'tap'
import { GuardedBus } from '../../src/auth/guarded-bus.js'
import { Scopes } from '../../src/auth/scopes.js'
import { revokeToken } from '../../src/auth/token-file.js'
import type { EngineBus } from '../../src/engine/bus.js'
import { createCommand, sourceRecord } from '../../src/engine/pages/page-records.js'
import { MmsbError } from '../../src/errors.js'
import { FrameWriter } from '../../src/state/frame/writer.js'
import { PAGE_ID_UNASSIGNED } from '../../src/wire/frame.js'
import { listen } from '../http/helpers.js'
import { Client } from '../stream/helpers.js'
import { serveTo } from './helpers.js'

const FEW_BYTES = { limits: { maxPageBytes: 4 * 1024 ** 2 } }
const MINE = ['read:mine.*', 'write:mine.*', 'define:mine.*']

t.test('a frame that deletes or creates does not learn of foreign pages', async (t) => {
  const guarded = await serveTo(t, { mine: MINE }, FEW_BYTES)
  const { bus, as } = guarded
  await bus.create('mine.a', { dtype: 'f64', shape: [2] })
  await bus.create('theirs.a', { dtype: 'f64', shape: [1000] })
  await bus.derive('theirs.d', { op: 'map', inputs: { a: 'mine.a' }, expr: 'a' })
  const { port } = await listen(guarded)
  const client = await Client.open(port, ['mmsb.v1.bin'], { headers: as('mine') })
  t.teardown(() => client.socket.terminate())
  const text = (): string => Buffer.concat(client.binary).toString('latin1')

  const deleting = new FrameWriter({})
  deleting.deletePage(bus.peek('mine.a').id)
  client.send(Buffer.from(deleting.finish()))
  await client.until(() => text().includes('PAGE_IN_USE'))

  const creating = new FrameWriter({})
  const large = { dtype: 'f64', shape: [2 ** 20], location: 'cpu' } as const
  creating.createPage(createCommand(sourceRecord(PAGE_ID_UNASSIGNED, 'mine.large', large)))
  client.send(Buffer.from(creating.finish()))
  await client.until(() => text().includes('QUOTA_EXCEEDED'))
  t.notMatch(text(), /theirs|The pages have/)
})

t.test('the text of a quota does not say how much all pages use', async (t) => {
  const { bus, call, as } = await serveTo(t, { mine: MINE, all: ['read:*', 'define:*'] }, FEW_BYTES)
  await bus.create('theirs.a', { dtype: 'f64', shape: [1000] })
  const create = async (id: string): Promise<string> =>
    JSON.stringify(
      (await call('PUT', '/v1/pages/mine.large', { dtype: 'f64', shape: [2 ** 20] }, as(id))).body,
    )
  const shown = await create('mine')
  t.match(shown, /"code":"QUOTA_EXCEEDED"/)
  t.match(shown, /"limit":"--max-page-bytes"/)
  t.notMatch(shown, /The pages have/)
  t.match(await create('all'), /The pages have \d+ bytes/)
})

t.test('a write that costs too much does not name the pages that it would compute', async (t) => {
  const costly = (): Promise<never> =>
    Promise.reject(new MmsbError('COST_EXCEEDED', 'To compute page "theirs.a"', { estimateMs: 7 }))
  const failing = { transact: costly, writeOnce: costly } as unknown as EngineBus
  const principal = { id: 'mine', scopes: new Scopes(MINE), expiresMs: undefined }
  const bus = new GuardedBus(failing, principal)
  const plain = (error: MmsbError): boolean =>
    error.code === 'COST_EXCEEDED' && !error.message.includes('theirs') && error.extra === undefined
  const ops = [{ page: 'mine.a', offset: 0, values: [1] }]
  t.ok(plain(await bus.transact({ ops }).catch((error) => error)))
  t.ok(plain(await bus.writeOnce('mine.a', undefined, () => ({ delta: { values: [1] } })).catch((e) => e)))
})

t.test('nothing passes a WebSocket whose token is gone, even if it stays open', async (t) => {
  for (const protocol of ['mmsb.v1.json', 'mmsb.v1.bin']) {
    const guarded = await serveTo(t, { mine: MINE })
    const { bus, as, file, authenticator } = guarded
    await bus.create('mine.a', { dtype: 'f64', shape: [2] })
    const { port } = await listen(guarded)
    const client = await Client.open(port, [protocol], { headers: as('mine') })
    t.teardown(() => client.socket.terminate())
    client.send({ type: 'subscribe', id: 's', pages: ['*'] })
    await client.until(() => client.messages.length + client.binary.length > 0)
    const connection = (client.socket as unknown as { _socket: import('node:net').Socket })._socket
    const received: Buffer[] = []
    // From here on nobody answers the closing handshake.
    connection.removeAllListeners('data')
    connection.on('data', (bytes) => received.push(bytes))
    revokeToken(file, 'mine', 'all')
    authenticator.reload()
    const frame = new FrameWriter({})
    frame.delta(bus.peek('mine.a').id, 'f64', 2, { offset: 0, values: [7] })
    const message = { type: 'transaction', id: 'late', ops: [{ page: 'mine.a', offset: 0, values: [7] }] }
    client.socket.send(protocol === 'mmsb.v1.bin' ? Buffer.from(frame.finish()) : JSON.stringify(message))
    await bus.patch('mine.a', { offset: 1, values: [5] })
    for (let i = 0; i < 50 && (received.length === 0 || i < 10); i++)
      await new Promise((resolve) => setTimeout(resolve, 10))
    const all = Buffer.concat(received)
    t.equal(all[0], 0x88, 'a closing frame')
    t.equal(all.length, 2 + (all[1] as number), `and nothing behind it, ${protocol}`)
    t.same([...bus.read('mine.a')], [0, 5], `nothing is written, ${protocol}`)
  }
})

t.test('who may define a page or a function does not read foreign pages with that', async (t) => {
  const { bus, call, as } = await serveTo(t, { definer: ['functions:*', 'define:*'] })
  const source = { dtype: 'f64', shape: [2] } as const
  await bus.create('theirs.a', source)
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' })
  await bus.derive('theirs.f', { op: 'map', inputs: { a: 'theirs.a' }, expr: 'f(a)' })
  const put = async (url: string, body: object): Promise<string> =>
    JSON.stringify((await call('PUT', url, body, as('definer'))).body)
  const again = await put('/v1/pages/theirs.a', source)
  t.match(again, /PAGE_EXISTS/)
  t.notMatch(again, /"version"|"digest"/)
  const other = await put('/v1/functions/f', { params: ['x', 'y'], expr: 'x + y' })
  t.match(other, /INVALID_EXPRESSION/)
  const dtype = await put('/v1/functions/f', { params: ['x'], expr: 'x > 1' })
  t.match(dtype, /SHAPE_MISMATCH/)
  t.notMatch(other + dtype, /theirs|f64/)
})

t.test('a transaction without deltas shows its source and intent to those who see everything', async (t) => {
  const { bus, call, as } = await serveTo(t, { mine: [...MINE, 'history:*'], all: ['read:*', 'history:*'] })
  await bus.create('mine.a', { dtype: 'f64', shape: [2] })
  const { epoch } = await bus.transact({ ops: [], source: 'owner', intent: { about: 'theirs.a' } })
  const shown = async (id: string): Promise<unknown> =>
    (await call('GET', `/v1/epochs/${epoch}`, undefined, as(id))).body.transactions
  t.same(await shown('mine'), [])
  t.match(await shown('all'), [{ source: 'owner', intent: { about: 'theirs.a' } }])
})

t.test('refusals for what all share do not say how much others use', async (t) => {
  const guarded = await serveTo(
    t,
    { mine: MINE, all: ['read:*'] },
    { limits: { maxSubscriptions: 3, maxConnections: 2, maxPatterns: 3 } },
  )
  const { port, url } = await listen(guarded)
  const connect = (id: string): Promise<Client> =>
    Client.open(port, ['mmsb.v1.json'], { headers: guarded.as(id) })
  const [mine, all] = [await connect('mine'), await connect('all')]
  await all.ask({ type: 'subscribe', id: 'a', pages: ['a', 'b'] })
  const patterns = await mine.ask({ type: 'subscribe', id: 'b', pages: ['c', 'd'] })
  for (const id of ['c', 'd']) await all.ask({ type: 'subscribe', id, pages: [id] })
  const subscriptions = await mine.ask({ type: 'subscribe', id: 'e', pages: ['e'] })
  const events = await fetch(`${url}/v1/events?pages=*`, { headers: guarded.as('mine') })
  const connections = (await events.json()) as { code: string; detail: string }
  for (const { code, detail } of [patterns, subscriptions, connections]) {
    t.equal(code, 'OVERLOADED')
    t.notMatch(detail, /\d/)
  }
  await Promise.all([mine.close(), all.close()])
})
