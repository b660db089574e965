/** Rates of a principal: bytes written, cost of steps, and time of replays, whatever way it uses. */
import t, { type Test } from 'tap'
import type { PrincipalLimits } from '../../../src/auth/limits/principal-limits.js'
import type { PrincipalUsage } from '../../../src/auth/limits/usage.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { isProblem, listen } from '../../http/helpers.js'
import { until } from '../../lib/wait.js'
import { Client } from '../../stream/helpers.js'
import { type Guarded, serveTo } from '../helpers.js'

const SCOPES = ['read:*', 'define:*', 'write:*', 'history:*', 'functions:*']

interface Limited extends Guarded {
  readonly usage: PrincipalUsage
  patch(id?: string, headers?: Record<string, string>): ReturnType<Guarded['call']>
}

/** A page `a` and one derived from it, and a principal with limits beside one without. */
async function limited(t: Test, limits: PrincipalLimits): Promise<Limited> {
  const guarded = await serveTo(t, { desk: SCOPES, free: SCOPES }, {}, { desk: limits })
  const { call, as, bus, server, authenticator } = guarded
  await bus.create('a', { dtype: 'f64', shape: [100_000] })
  await bus.derive('sum', { op: 'map', inputs: { x: 'a' }, expr: 'sqrt(x) + exp(x)' })
  await call('GET', '/v1/status', undefined, as('desk'))
  const { principal } = authenticator.login(guarded.tokens.desk as string)
  return {
    ...guarded,
    usage: server.usages?.of(principal) as PrincipalUsage,
    patch: (id = 'desk', headers = {}) =>
      call('PATCH', '/v1/pages/a/data', { offset: 0, values: [1] }, { ...as(id), ...headers }),
  }
}

const frame = (id: number, key?: string): Buffer => {
  const frames = new FrameWriter(key === undefined ? {} : { key })
  frames.delta(id, 'f64', 100_000, { offset: 1, values: [5] })
  return Buffer.from(frames.finish())
}

t.test('bytes written count together, over REST, transactions and frames', async (t) => {
  const limited_ = await limited(t, { writeBytesPerSecond: 1 })
  const { patch, call, as, bus } = limited_
  const { port } = await listen(limited_)
  const first = await patch('desk', { 'idempotency-key': 'k' })
  t.equal(first.status, 200, 'what is too large is let in while anything is left')
  const { epoch } = bus
  const refused = await patch()
  isProblem(t, refused, 'RATE_LIMITED')
  t.match(refused.body, { limit: 'writeBytesPerSecond', max: 1 })
  const waitS = Number(refused.headers['retry-after'])
  t.ok(waitS > 30 && waitS < 1000, `${waitS} s`)
  t.equal(refused.body.retryAfterS, waitS)
  t.same((await patch('desk', { 'idempotency-key': 'k' })).body, first.body, 'a repeat writes nothing')
  const ops = [{ page: 'a', offset: 0, values: [1] }]
  isProblem(t, await call('POST', '/v1/transactions', { ops }, as('desk')), 'RATE_LIMITED')
  isProblem(t, await call('PUT', '/v1/pages/b', { dtype: 'f64', shape: [1] }, as('desk')), 'RATE_LIMITED')
  const large = Buffer.alloc(800_000)
  isProblem(t, await call('PUT', '/v1/pages/a/data', large, as('desk')), 'RATE_LIMITED')
  const json = await Client.open(port, ['mmsb.v1.json'], { headers: as('desk') })
  t.match(await json.ask({ type: 'transaction', id: 't', ops }), {
    type: 'error',
    code: 'RATE_LIMITED',
    retryAfterS: Number,
  })
  const binary = await Client.open(port, ['mmsb.v1.bin'], { headers: as('desk') })
  binary.send(Buffer.concat([frame(bus.peek('a').id), frame(bus.peek('a').id, 'key')]))
  const refusals = (): number =>
    Buffer.concat(binary.binary).toString('latin1').split('RATE_LIMITED').length - 1
  await binary.until(() => refusals() === 2, 'refusals of both frames')
  t.equal(bus.epoch, epoch, 'nothing was written')
  t.equal((await patch('free')).status, 200, 'another principal is not concerned')
  await Promise.all([json.close(), binary.close()])
})

t.test('plain frames count, and are let in while something is left', async (t) => {
  const limited_ = await limited(t, { writeBytesPerSecond: 1_000 })
  const { as, bus } = limited_
  const { port } = await listen(limited_)
  const one = frame(bus.peek('a').id)
  const binary = await Client.open(port, ['mmsb.v1.bin'], { headers: as('desk') })
  const { epoch } = bus
  binary.send(Buffer.concat(Array.from({ length: 50 }, () => one)))
  const text = (): string => Buffer.concat(binary.binary).toString('latin1')
  const atOnce = Math.ceil(1_000 / one.length)
  const refused = (): number => text().split('"code":"RATE_LIMITED"').length - 1
  await binary.until(() => refused() >= 50 - atOnce - 5, 'most are refused')
  t.ok(refused() <= 50 - atOnce, `${refused()} of 50 refused, ${atOnce} fit`)
  await until(() => bus.epoch > epoch, 'what was let in')
  await binary.close()
})

t.test('the cost of steps counts for writes, definitions and what-if', async (t) => {
  const { patch, call, as } = await limited(t, { stepCostPerSecond: 1 })
  const read = { ops: [{ page: 'a', offset: 0, values: [2] }], read: ['sum'] }
  const statuses: number[] = []
  for (let i = 0; i < 100 && !statuses.includes(429); i++) statuses.push((await patch()).status)
  t.equal(statuses[0], 200)
  t.equal(statuses.at(-1), 429, `${statuses.length} writes`)
  const whatIf = await call('POST', '/v1/whatif', read, as('desk'))
  isProblem(t, whatIf, 'RATE_LIMITED')
  t.match(whatIf.body, { limit: 'stepCostPerSecond', max: 1 })
  t.equal((await call('POST', '/v1/whatif', read, as('free'))).status, 200)
})

t.test('what-if and definitions use the cost up too', async (t) => {
  for (const use of ['whatif', 'define']) {
    const { patch, call, as } = await limited(t, { stepCostPerSecond: 1 })
    const once = (i: number): ReturnType<typeof call> =>
      use === 'whatif'
        ? call(
            'POST',
            '/v1/whatif',
            { ops: [{ page: 'a', values: [2], offset: 0 }], read: ['sum'] },
            as('desk'),
          )
        : call(
            'PUT',
            `/v1/pages/d${i}`,
            { derive: { op: 'map', inputs: { x: 'a' }, expr: `exp(x) + ${i}` } },
            as('desk'),
          )
    let status = 0
    for (let i = 0; i < 100 && status !== 429; i++) status = (await once(i)).status
    t.equal(status, 429, use)
    t.equal((await patch()).status, 429)
  }
})

t.test('the time of replays counts, for requests and for subscriptions that resume', async (t) => {
  const limited_ = await limited(t, { replaySecondsPerMinute: 30 })
  const { call, as, usage, bus } = limited_
  for (let i = 0; i < 20; i++) await bus.patch('a', { offset: i, values: [i] })
  const past = (): ReturnType<typeof call> =>
    call('GET', '/v1/pages/sum/data?epoch=5&count=1', undefined, as('desk'))
  t.equal((await past()).status, 206)
  t.equal(usage.replayWaitMs, 0, 'a short one leaves something')
  t.notOk(usage.isIdle, 'but it was counted')
  usage.replayed(100_000)
  const refused = await past()
  isProblem(t, refused, 'RATE_LIMITED')
  t.match(refused.body, { limit: 'replaySecondsPerMinute', max: 30 })
  for (const url of ['/v1/epochs', '/v1/epochs/3', '/v1/diff?from=1&to=3', '/v1/read?pages=a&epoch=3'])
    t.equal((await call('GET', url, undefined, as('desk'))).status, 429, url)
  t.equal((await call('GET', '/v1/pages/a/data?count=1', undefined, as('desk'))).status, 206, 'the present')
})

t.test('a subscription that resumes waits while its principal has used up its replays', async (t) => {
  const limited_ = await limited(t, { replaySecondsPerMinute: 60 })
  const { as, usage, bus } = limited_
  for (let i = 0; i < 20; i++) await bus.patch('a', { offset: i, values: [i] })
  const { port } = await listen(limited_)
  const client = await Client.open(port, ['mmsb.v1.json'], { headers: as('desk') })
  usage.replayed(62_000)
  const startMs = performance.now()
  client.send({ type: 'subscribe', id: 's', pages: ['a'], from: 0, data: 'none' })
  await client.next(({ type, epoch }) => type === 'change' && epoch === bus.epoch, 'the newest epoch')
  const tookMs = performance.now() - startMs
  t.ok(tookMs >= 1_900, `${tookMs} ms`)
  t.notOk(usage.isIdle, 'and the replay was counted')
  await client.close()
})

t.test('limits that change count at once, for streams that are open too', async (t) => {
  const guarded = await serveTo(t, { desk: SCOPES }, {}, {})
  const { as, limits, call, server, authenticator, tokens } = guarded
  const { port } = await listen(guarded)
  const client = await Client.open(port, ['mmsb.v1.json'], { headers: as('desk') })
  t.equal((await client.ask({ type: 'subscribe', id: 'a', pages: ['*'] })).type, 'subscribed')
  authenticator.reload()
  limits.replace({ defaults: { subscriptions: 1, pages: 0 }, own: authenticator.limits })
  t.match(await client.ask({ type: 'subscribe', id: 'b', pages: ['*'] }), { code: 'QUOTA_EXCEEDED' })
  t.equal((await call('PUT', '/v1/pages/x', { dtype: 'f64', shape: [1] }, as('desk'))).status, 507)
  limits.replace({ defaults: {} })
  t.equal((await client.ask({ type: 'subscribe', id: 'c', pages: ['*'] })).type, 'subscribed')
  t.equal((await call('PUT', '/v1/pages/x', { dtype: 'f64', shape: [1] }, as('desk'))).status, 201)
  const { principal } = authenticator.login(tokens.desk as string)
  t.equal(server.usages?.of(principal).held.subscriptions, 2)
  await client.close()
})
