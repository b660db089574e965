/** The client of this package at a server with authentication. */
import t, { type Test } from 'tap'
import { addToken, revokeToken } from '../../src/auth/token-file.js'
import { type Client, connect } from '../../src/client/node.js'
import { listen } from '../http/helpers.js'
import { type Guarded, serveTo } from './helpers.js'

const SCOPES = ['read:mine.*', 'write:mine.*']

async function served(t: Test): Promise<Guarded & { url: string; client(token: TokenOption): Client }> {
  const guarded = await serveTo(t, { mine: SCOPES, rotating: SCOPES })
  await guarded.bus.create('mine.a', { dtype: 'f64', shape: [2] })
  const { url } = await listen(guarded)
  const client = (token: TokenOption): Client => {
    const made = connect(url, { token })
    t.teardown(() => made.close())
    return made
  }
  return { ...guarded, url, client }
}

type TokenOption = NonNullable<Parameters<typeof connect>[1]>['token']

t.test('calls, subscriptions and writers send the token', async (t) => {
  const { client, tokens } = await served(t)
  const mine = client(tokens.mine)
  const subscription = mine.subscribe({ pages: ['*'] })
  await mine.page('mine.a')
  const first = subscription[Symbol.asyncIterator]().next()
  await mine.patch('mine.a', { offset: 0, values: [1] })
  t.match(await first, { value: { changes: [{ page: 'mine.a' }] } })
  const writer = mine.writer()
  await writer.transact({ ops: [{ page: 'mine.a', values: [3, 4] }] })
  t.same([...(await mine.read('mine.a')).values], [3, 4])
  await t.rejects(mine.page('theirs'), { code: 'PAGE_NOT_FOUND' })
})

t.test('a token that does not count is an error at once, for calls and for subscriptions', async (t) => {
  const { client, tokens } = await served(t)
  for (const token of ['nonsense', `${tokens.mine}0`, undefined]) {
    const wrong = client(token)
    await t.rejects(wrong.page('mine.a'), { code: 'UNAUTHORIZED', status: 401 })
    await t.rejects(
      wrong
        .subscribe({ pages: ['*'] })
        [Symbol.asyncIterator]()
        .next(),
      { code: 'UNAUTHORIZED' },
    )
  }
  t.throws(() => client(''), { code: 'INVALID_REQUEST' })
  t.throws(() => client('a b'), { code: 'INVALID_REQUEST' })
  for (const given of [() => '', () => 'a b', () => 7 as never])
    await t.rejects(client(given).page('mine.a'), { code: 'INVALID_REQUEST' })
  const failing = client(() => Promise.reject(new Error('no issuer')))
  await t.rejects(failing.page('mine.a'), { code: 'UNAUTHORIZED', cause: { message: 'no issuer' } })
  await t.rejects(
    failing
      .subscribe({ pages: ['*'] })
      [Symbol.asyncIterator]()
      .next(),
    { code: 'UNAUTHORIZED' },
  )
})

t.test('tokens are rotated under a subscriber, and nothing is lost', async (t) => {
  const { client, bus, tokens, file, authenticator } = await served(t)
  let token = tokens.rotating as string
  let asked = 0
  const rotating = client(async () => {
    asked++
    return token
  })
  const seen: number[] = []
  const reading = (async () => {
    for await (const change of rotating.subscribe({ pages: ['mine.a'] })) {
      if (change.type !== 'change') continue
      seen.push(Number(change.changes[0]?.values?.[0]))
      if (seen.at(-1) === 40) return
    }
  })()
  await rotating.page('mine.a')
  for (let value = 1; value <= 40; value++) {
    await rotating.patch('mine.a', { offset: 0, values: [value] })
    if (value % 10 !== 0 || value === 40) continue
    token = addToken(file, { id: 'rotating', scopes: [] }).token
    revokeToken(file, 'rotating', 'older')
    authenticator.reload()
  }
  await reading
  const missed = Array.from({ length: 40 }, (_, i) => i + 1).filter((value) => !seen.includes(value))
  t.same(missed, [], 'every change arrived')
  t.equal(new Set(seen).size, seen.length, 'once')
  t.equal(asked, 4, 'one token at first, and one after each rotation')
  t.equal(bus.peek('mine.a').version, bus.epoch)
})

t.test(
  'a function whose tokens no longer count is asked again once, and then the error is given',
  async (t) => {
    const { client, tokens, file, authenticator } = await served(t)
    let asked = 0
    const stuck = client(() => {
      asked++
      return tokens.mine as string
    })
    const subscription = stuck.subscribe({ pages: ['*'], from: 'snapshot' })[Symbol.asyncIterator]()
    t.match(await subscription.next(), { value: { type: 'snapshot' } })
    t.equal(asked, 1)
    const lost = subscription.next()
    lost.catch(() => {})
    revokeToken(file, 'mine', 'all')
    authenticator.reload()
    await t.rejects(lost, { code: 'UNAUTHORIZED' })
    // Once for the new WebSocket, and once for the call that finds out why there is none.
    t.equal(asked, 3)
    await t.rejects(stuck.page('mine.a'), { code: 'UNAUTHORIZED', status: 401 })
    t.ok(asked <= 5, `${asked}`)
  },
)

t.test(
  'where too many logins have failed, another token passes, and the same one is not sent again',
  async (t) => {
    const { client, tokens, url } = await served(t)
    let status = 0
    while (status !== 429) {
      const answer = await fetch(`${url}/v1/status`, { headers: { authorization: 'Bearer bad' } })
      await answer.arrayBuffer()
      status = answer.status
    }
    const startMs = performance.now()
    await t.rejects(client('nonsense').status(), { code: 'RATE_LIMITED', extra: { login: 'failed' } })
    t.ok(performance.now() - startMs < 10_000, 'at once')
    let asked = 0
    const source = (): string => (asked++ === 0 ? 'old' : (tokens.mine as string))
    t.ok(await client(source).status())
    t.equal(asked, 2)
  },
)
