/**
 * Calls over HTTP with a fetch and a clock that the test plays: what is sent, what is tried again and when,
 * what ends it.
 */
import t, { type Test } from 'tap'
import { baseOf, type Call, type RestOptions, readJson, restOf } from '../../../src/client/http/rest.js'
import { turns } from '../../lib/wait.js'
import { clockOf, fate } from '../played.js'

interface Sent {
  readonly url: string
  readonly init: RequestInit
  readonly headers: Readonly<Record<string, string>>
  readonly answer: (
    status: number,
    body?: unknown,
    headers?: Readonly<Record<string, string>>,
  ) => Promise<void>
  readonly give: (response: Response) => Promise<void>
  readonly fail: (error: unknown) => Promise<void>
}

/** Calls, and the requests that they send. */
function calling(t: Test, options: RestOptions = {}, whenBack?: () => Promise<void> | undefined) {
  const clock = clockOf(t)
  t.intercept(Math, 'random', { value: () => 1 })
  const sent: Sent[] = []
  const histories: string[] = []
  const send = (url: string, init: RequestInit): Promise<Response> =>
    new Promise((resolve, reject) => {
      init.signal!.addEventListener('abort', () => reject(init.signal!.reason))
      sent.push({
        url,
        init,
        headers: init.headers as Record<string, string>,
        answer: (status, body = {}, headers = {}) => {
          const text = typeof body === 'string' ? body : JSON.stringify(body)
          resolve(new Response(text, { status, headers: { 'content-length': `${text.length}`, ...headers } }))
          return turns()
        },
        give: (response) => {
          resolve(response)
          return turns()
        },
        fail: (error) => {
          reject(error)
          return turns()
        },
      })
    })
  const rest = restOf(
    'http://x',
    { fetch: send as typeof fetch, ...options },
    (history) => histories.push(history),
    whenBack,
  )
  const call = (given: Partial<Call<unknown>> = {}): Promise<unknown> => {
    const made = rest.call({ method: 'GET', path: '/p', isRepeatable: true, read: readJson, ...given })
    made.catch(() => {})
    return made
  }
  return { clock, sent, histories, rest, call }
}

const NETWORK = new TypeError('fetch failed', {
  cause: Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }),
})

t.test('a request says what it carries', async (t) => {
  const { sent, call, histories } = calling(t, { headers: { 'X-Mine': '1', accept: 'text/x' } })
  const query = { a: 1, b: undefined, c: 'x y', d: false }
  call({ method: 'PATCH', query, body: '{}', headers: { 'if-match': '"v1"' } })
  call({ body: Uint8Array.of(1) })
  call({ headers: { accept: 'application/octet-stream', 'x-mine': '2' } })
  t.same(
    sent.map(({ url }) => url),
    ['http://x/p?a=1&c=x+y&d=false', 'http://x/p', 'http://x/p'],
  )
  t.same(sent[0]!.headers, {
    accept: 'text/x',
    'content-type': 'application/json',
    'x-mine': '1',
    'if-match': '"v1"',
  })
  t.same([sent[0]!.init.method, sent[0]!.init.body], ['PATCH', '{}'])
  t.equal(sent[1]!.headers['content-type'], 'application/octet-stream')
  t.same(sent[2]!.headers, { accept: 'application/octet-stream', 'x-mine': '2' })
  t.notOk('body' in sent[2]!.init)
  await sent[0]!.answer(200, {}, { 'mmsb-history': 'h1' })
  await sent[1]!.answer(200)
  t.same(histories, ['h1'])
  const plain = calling(t)
  const answered = plain.call()
  t.same(plain.sent[0]!.headers, { accept: 'application/json' })
  await plain.sent[0]!.answer(200, { a: 1 })
  t.same(await answered, { a: 1 })
  for (const wrong of ['5', 'null', '<html>']) {
    const call = plain.call()
    await plain.sent.at(-1)!.answer(200, wrong)
    await t.rejects(call, { code: 'PROTOCOL', detail: /^GET http:\/\/x\/p: the answer is not JSON/ })
  }
})

t.test('a refusal is what the server said; one without its code is PROTOCOL', async (t) => {
  const { sent, call, clock } = calling(t)
  const refused = async (status: number, body: unknown, headers = {}): Promise<unknown> => {
    const made = call()
    await sent.at(-1)!.answer(status, body, headers)
    return made.catch((error: unknown) => error)
  }
  t.match(await refused(404, { code: 'PAGE_NOT_FOUND', detail: 'none' }), {
    code: 'PAGE_NOT_FOUND',
    status: 404,
  })
  t.match(await refused(502, '<html>'), {
    code: 'PROTOCOL',
    status: 502,
    detail: 'GET http://x/p: status 502',
  })
  t.match(await refused(502, 'null'), { code: 'PROTOCOL', status: 502 })
  t.match(await refused(400, '"text"'), { code: 'PROTOCOL', status: 400 })
  t.match(
    await refused(503, { code: 'BUS_FAILED', detail: '' }),
    { code: 'BUS_FAILED' },
    'it does not say when',
  )
  t.match(await refused(422, { code: 'INTERNAL', detail: '' }, { 'retry-after': '1' }), { code: 'INTERNAL' })
  t.equal(sent.length, 6, 'none is tried again')
  t.same(clock.waits, [], 'and nothing is left of any')
})

t.test('a call that was put off took no effect, and is tried again when the server says', async (t) => {
  const { sent, call, clock } = calling(t)
  const made = call({ isRepeatable: false })
  await sent[0]!.answer(503, { code: 'OVERLOADED', detail: '' }, { 'retry-after': '2' })
  clock.pass(2_049)
  await turns()
  t.equal(sent.length, 1)
  clock.pass(1)
  await turns()
  t.equal(sent.length, 2)
  await sent[1]!.answer(429, { code: 'RATE_LIMITED', detail: '' }, { 'retry-after': '7' })
  clock.pass(7_099)
  await turns()
  t.equal(sent.length, 2)
  clock.pass(1)
  await turns()
  await sent[2]!.answer(200)
  t.equal(await fate(made), 'done')
  const late = call({ isRepeatable: false, timeoutMs: 1_000 })
  await sent[3]!.answer(503, { code: 'OVERLOADED', detail: '' }, { 'retry-after': '2' })
  t.equal(await fate(late), 'OVERLOADED', 'there is no time for it')
})

t.test('without an answer only what is harmless is tried again, later each time', async (t) => {
  const { sent, call, clock } = calling(t)
  const made = call()
  const waits: number[] = []
  for (let i = 0; i < 4; i++) {
    await sent[i]!.fail(NETWORK)
    waits.push(clock.waits[0]!)
    clock.pass(waits.at(-1)!)
    await turns()
  }
  t.same(waits, [50, 100, 200, 400])
  await sent[4]!.answer(200)
  t.equal(await fate(made), 'done')
  const once = call({ isRepeatable: false })
  await sent.at(-1)!.fail(NETWORK)
  t.equal(await fate(once), 'NETWORK')
  await t.rejects(once, { detail: 'GET http://x/p: no answer: ECONNREFUSED: refused', status: 0 } as never)
  for (const [reason, detail] of [
    [new Error('plain'), /no answer: plain$/],
    ['text', /no answer: text$/],
    [new Error('x', { cause: Object.assign(new Error('x'), { code: 'EX', message: '' }) }), /no answer: EX$/],
    [new Error('x', { cause: Object.assign(new Error('it is EX'), { code: 'EX' }) }), /no answer: it is EX$/],
  ] as const) {
    const failing = call({ isRepeatable: false })
    await sent.at(-1)!.fail(reason)
    await t.rejects(failing, { code: 'NETWORK', detail })
  }
  const few = calling(t, { retries: 1 })
  const limited = few.call()
  await few.sent[0]!.fail(NETWORK)
  clock.pass(50)
  await turns()
  await few.sent[1]!.fail(NETWORK)
  t.equal(await fate(limited), 'NETWORK')
  t.same(clock.waits, [])
})

t.test('an attempt has its time, and all of them together have theirs', async (t) => {
  const { sent, call, clock } = calling(t)
  const made = call()
  clock.pass(9_999)
  await turns()
  t.equal(sent[0]!.init.signal!.aborted, false)
  clock.pass(1)
  await turns()
  t.equal(sent[0]!.init.signal!.aborted, true, 'a third of 30 s')
  clock.pass(50)
  await turns()
  t.equal(sent.length, 2)
  clock.pass(10_000)
  await turns()
  clock.pass(100)
  await turns()
  t.equal(sent.length, 3)
  clock.pass(9_849)
  t.equal(await fate(made), 'pending')
  clock.pass(1)
  t.equal(await fate(made), 'TIMEOUT')
  const short = call({ timeoutMs: 3_000 })
  clock.pass(1_999)
  await turns()
  t.equal(sent.at(-1)!.init.signal!.aborted, false)
  clock.pass(1)
  await turns()
  t.equal(sent.at(-1)!.init.signal!.aborted, true, 'at least 2 s')
  clock.pass(1_000)
  t.equal(await fate(short), 'TIMEOUT')
  const single = call({ isRepeatable: false, timeoutMs: 60_000 })
  clock.pass(59_999)
  t.equal(await fate(single), 'pending', 'what may not be repeated has one attempt')
  clock.pass(1)
  t.equal(await fate(single), 'TIMEOUT')
  const unbounded = calling(t, { timeoutMs: Infinity, tryTimeoutMs: 10 })
  const patient = unbounded.call({ isRepeatable: false })
  t.same(clock.waits, [])
  unbounded.rest.close()
  t.equal(await fate(patient), 'CLOSED')
  const none = call({ timeoutMs: 0 })
  t.equal(await fate(none), 'TIMEOUT')
  const own = calling(t, { timeoutMs: 500, tryTimeoutMs: 100 })
  const quick = own.call()
  clock.pass(100)
  await turns()
  await t.rejects(Promise.race([quick, Promise.reject(own.sent[0]!.init.signal!.reason)]), {
    code: 'TIMEOUT',
  })
  t.equal(own.sent[0]!.init.signal!.aborted, true)
  const last = calling(t, { tryTimeoutMs: 100, retries: 0 }).call()
  clock.pass(100)
  await t.rejects(last, { code: 'NETWORK', detail: 'GET http://x/p: no answer: none within 100 ms' })
})

t.test(
  'an answer has the time of an attempt for each of its parts; one that stops is tried again',
  async (t) => {
    const { sent, call, clock } = calling(t, { tryTimeoutMs: 1_000 })
    const read = async (response: Response): Promise<string> => response.text()
    let body!: ReadableStreamDefaultController<Uint8Array>
    const parts = (number: number): Promise<void> => {
      const start = (controller: typeof body): void => {
        body = controller
        sent[number]!.init.signal!.addEventListener('abort', () => controller.error(new Error('cut')))
      }
      return sent[number]!.give(new Response(new ReadableStream({ start })))
    }
    const made = call({ read: read as Call<unknown>['read'] })
    clock.pass(900)
    await parts(0)
    for (const part of ['a', 'b', 'c']) {
      clock.pass(900)
      body.enqueue(Buffer.from(part))
      await turns()
    }
    t.equal(await fate(made), 'pending')
    clock.pass(1_000)
    await turns()
    clock.pass(50)
    await turns()
    t.equal(sent.length, 2, 'nothing came for so long')
    await parts(1)
    body.enqueue(Buffer.from('whole'))
    await turns()
    body.close()
    t.equal(await made, 'whole')
    const again = call({ read: () => Promise.reject(new Error('lost in its middle')) })
    await sent[2]!.answer(200)
    clock.pass(50)
    await turns()
    t.equal(sent.length, 4, 'the connection was lost')
    t.equal(await fate(again), 'pending')
  },
)

t.test('a signal or the end of the client ends a call, also one that waits to be tried again', async (t) => {
  for (const isWaiting of [false, true]) {
    const { sent, call, rest, clock } = calling(t)
    const controller = new AbortController()
    const [given, closed] = [call({ signal: controller.signal }), call()]
    if (isWaiting) for (const one of sent.slice(0, 2)) await one.fail(NETWORK)
    controller.abort('enough')
    t.same([await fate(given), await fate(closed)], ['enough', 'pending'])
    rest.close()
    t.equal(await fate(closed), 'CLOSED')
    t.equal(await fate(call()), 'CLOSED')
    t.equal(await fate(call({ signal: controller.signal })), 'enough')
    t.same([sent.length, clock.waits], [2, []], 'nothing more is sent, and no timer is left')
  }
})

t.test('a call waits while somebody else looks for the server', async (t) => {
  let back = (): void => {}
  let asked = 0
  const { sent, call, clock } = calling(t, {}, () => {
    asked++
    return new Promise((resolve) => {
      back = resolve
    })
  })
  const made = call()
  await sent[0]!.fail(NETWORK)
  clock.pass(5_000)
  await turns()
  t.equal(sent.length, 1)
  back()
  await turns()
  clock.pass(50)
  await turns()
  t.equal(sent.length, 2)
  await sent[1]!.answer(200)
  t.equal(await fate(made), 'done')
  const late = call({ timeoutMs: 1_000 })
  await sent[2]!.fail(NETWORK)
  clock.pass(949)
  t.equal(await fate(late), 'pending')
  clock.pass(1)
  t.equal(await fate(late), 'NETWORK', 'why it did not come, not that it is late')
  t.equal(asked, 2)
  call({ isProbe: true })
  await sent[3]!.fail(NETWORK)
  clock.pass(50)
  await turns()
  t.equal(sent.length, 5, 'the one that looks for it does not wait')
  const busy = call()
  await sent[5]!.answer(503, { code: 'OVERLOADED', detail: '' }, { 'retry-after': '0' })
  t.equal(asked, 2, 'it is there')
  t.equal(await fate(busy), 'pending')
})

t.test('a body is refused above 64 MiB, and a bad address or header at once', async (t) => {
  const { sent, call } = calling(t)
  const most = 64 * 1024 ** 2
  t.equal(await fate(call({ body: new Uint8Array(most + 1) })), 'PAYLOAD_TOO_LARGE')
  t.equal(await fate(call({ body: `${'é'.repeat(most / 2)}1` })), 'PAYLOAD_TOO_LARGE')
  t.equal(sent.length, 0)
  call({ body: new Uint8Array(most) })
  t.equal(sent.length, 1)
  t.equal(baseOf('http://x:1/a//'), 'http://x:1/a')
  t.equal(baseOf(new URL('https://x')), 'https://x')
  for (const [url, detail] of [
    ['x', /^url: "x" is not a URL/],
    ['ftp://x', /does not begin with http/],
    ['http://u@x', /must not contain a user/],
    ['http://:p@x', /must not contain a user/],
    ['http://x?a', /must not contain "\?a"/],
    ['http://x#b', /must not contain "#b"/],
  ] as const)
    t.throws(() => baseOf(url), { code: 'INVALID_REQUEST', detail })
  for (const [headers, detail] of [
    [5, /^options.headers: 5/],
    [{ a: 5 }, /^options.headers.a: 5 is not a string/],
    [{ 'a b': '' }, /^options.headers: /],
  ] as const)
    t.throws(() => restOf('http://x', { headers: headers as never }), { code: 'INVALID_REQUEST', detail })
})
