/** Failed logins: what is told to wait, who is not concerned, and that memory is bounded. */
import { Agent, request } from 'node:http'
import t from 'tap'
import { FailedLogins } from '../../../src/auth/limits/failed-logins.js'
import {
  LOGIN_FAILURE_ADDRESSES_MAX,
  LOGIN_FAILURES_AT_ONCE,
  LOGIN_FAILURES_PER_MINUTE,
} from '../../../src/limits.js'
import { isProblem, listen } from '../../http/helpers.js'
import { shortestMs, sleep } from '../../lib/wait.js'
import { type Guarded, serveTo } from '../helpers.js'

t.test('some failures at once, then a rate, by address', async (t) => {
  let nowMs = 0
  const failures = new FailedLogins(() => nowMs)
  for (let i = 0; i < LOGIN_FAILURES_AT_ONCE; i++) t.equal(failures.add('10.0.0.1'), undefined)
  t.equal(failures.add('10.0.0.1'), 1)
  t.equal(failures.add('10.0.0.2'), undefined, 'another address')
  nowMs += 60_000 / LOGIN_FAILURES_PER_MINUTE
  t.equal(failures.add('10.0.0.1'), undefined)
  t.ok((failures.add('10.0.0.1') ?? 0) >= 1)
})

t.test('addresses of one IPv6 network count as one', async (t) => {
  const failures = new FailedLogins(() => 0)
  for (const address of ['2001:db8:1:2::1', '2001:db8:1:2:3:4:5:6', '2001:db8:1:2::']) failures.add(address)
  t.equal(failures.size, 1)
  for (const address of ['2001:db8:1:3::1', '2001:db8::1', '::1', '::ffff:10.0.0.1', '::ffff:10.0.0.2'])
    failures.add(address)
  t.equal(failures.size, 6)
})

t.test('so many addresses are remembered; those that have not failed lately go first', async (t) => {
  let nowMs = 0
  const failures = new FailedLogins(() => nowMs)
  failures.add('old')
  nowMs += 60_000
  for (let i = 0; i <= LOGIN_FAILURES_AT_ONCE; i++) failures.add('bad')
  for (let i = 2; i < LOGIN_FAILURE_ADDRESSES_MAX; i++) failures.add(`a${i}`)
  t.equal(failures.size, LOGIN_FAILURE_ADDRESSES_MAX)
  failures.add('new')
  t.equal(failures.size, LOGIN_FAILURE_ADDRESSES_MAX, 'the old one went')
  t.ok((failures.add('bad') ?? 0) >= 1, 'and none of those that count')
  failures.add('newer')
  t.equal(failures.size, LOGIN_FAILURE_ADDRESSES_MAX, 'if all count, the oldest goes')
  t.equal(failures.add('bad'), undefined)
})

t.test('a good token passes, whoever fails at the same address', async (t) => {
  const { call, as } = await serveTo(t, { desk: ['read:*'] })
  const bad = (authorization: string): ReturnType<typeof call> =>
    call('GET', '/v1/status', undefined, { authorization })
  let failed = 0
  let refused = await bad('Bearer bad')
  for (; refused.status === 401 && failed < 1000; failed++) refused = await bad(`Bearer bad${failed}`)
  t.ok(failed >= LOGIN_FAILURES_AT_ONCE, `${failed} were told that they failed`)
  isProblem(t, refused, 'RATE_LIMITED')
  t.match(refused.body, { login: 'failed', retryAfterS: Number })
  t.equal(refused.headers['retry-after'], String(refused.body.retryAfterS))
  t.equal((await call('GET', '/v1/events?pages=*&ticket=x')).status, 429, 'a ticket is a login too')
  t.equal((await call('GET', '/v1/status')).status, 401, 'who sends none is asked for some')
  t.equal((await call('GET', '/v1/status', undefined, as('desk'))).status, 200)
})

/** The time below which 99 of 100 reads of a polite client stay, in ms. */
async function politeP99({ as }: Guarded, url: string): Promise<number> {
  const times: number[] = []
  for (let i = 0; i < 100; i++) {
    const startMs = performance.now()
    const answer = await fetch(`${url}/v1/status`, { headers: as('desk') })
    await answer.arrayBuffer()
    times.push(performance.now() - startMs)
    await sleep(5)
  }
  return times.sort((a, b) => a - b)[98] as number
}

/** Opens connections for as long as `isGoing`, a thousand a second, each for one bad login. */
async function reconnecting(url: string, isGoing: () => boolean): Promise<number> {
  let sent = 0
  const agent = new Agent({ keepAlive: false })
  const headers = { authorization: 'Bearer bad', connection: 'close' }
  while (isGoing()) {
    for (let i = 0; i < 10; i++) {
      sent++
      request(`${url}/v1/status`, { agent, headers }, (answer) => answer.resume())
        .on('error', () => {})
        .end()
    }
    await sleep(10)
  }
  return sent
}

t.test('a client that reconnects all the time with a bad token delays nobody for long', async (t) => {
  const guarded = await serveTo(t, { desk: ['read:*'] })
  const { url } = await listen(guarded)
  await politeP99(guarded, url)
  let isGoing = true
  const bad = reconnecting(url, () => isGoing)
  // Alone it takes a few ms; client and server share this process, so both work is in it.
  const p99 = await shortestMs(100, () => politeP99(guarded, url))
  isGoing = false
  t.comment(`p99 ${p99.toFixed(1)} ms beside ${await bad} bad logins`)
  t.ok(p99 < 100, `${p99} ms`)
})
