/** The log: no credentials in it, in whatever they come; a line for each request at `debug`. */
import t from 'tap'
import { newToken } from '../../../src/auth/tokens.js'
import { createLogger, withoutCredentials } from '../../../src/http/observe/logging.js'
import { serve } from '../helpers.js'

function logged(log: (logger: ReturnType<typeof createLogger>) => void): string {
  const lines: string[] = []
  log(createLogger('trace', { write: (line) => void lines.push(line) }))
  for (const line of lines) JSON.parse(line)
  return lines.join('')
}

t.test('what looks like a credential is struck out', async (t) => {
  const token = newToken('desk')
  const jwt = 'eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl'
  const secrets = ['hush-hush', token, jwt, 'c2VjcmV0LXRva2Vu']
  const texts = [
    '/v1/stream?ticket=hush-hush&x=1',
    '/v1/events?pages=*&TICKET=hush-hush',
    'a%3Fticket%3Dhush-hush',
    'Bearer hush-hush',
    'authorization: BEARER   hush-hush',
    'Basic hush-hush',
    `see ${token}, and ${jwt}.`,
    'mmsb.v1.json, mmsb.bearer.c2VjcmV0LXRva2Vu',
  ]
  for (const text of texts) {
    const shown = withoutCredentials(text)
    t.notOk(
      secrets.some((secret) => shown.includes(secret)),
      shown,
    )
    const line = logged((logger) => logger.info({ text, deep: { list: [text] } }, text))
    t.notOk(
      secrets.some((secret) => line.includes(secret)),
      line,
    )
  }
  t.equal(withoutCredentials('/v1/stream?ticket=a&x=1'), '/v1/stream?ticket=[redacted]&x=1', 'and no more')
  t.equal(withoutCredentials('/v1/pages/ticket.sales'), '/v1/pages/ticket.sales')
  t.equal(withoutCredentials('mmsb_epoch 7'), 'mmsb_epoch 7')
})

t.test('headers with credentials are struck out by name, whatever they hold', async (t) => {
  const headers = {
    authorization: 'Custom hush',
    cookie: 'hush',
    'proxy-authorization': 'hush',
    'sec-websocket-protocol': 'hush',
    'set-cookie': ['hush'],
  }
  for (const object of [
    headers,
    { headers },
    { req: { headers } },
    { res: { headers } },
    { any: { headers } },
    { any: headers },
  ])
    t.notMatch(
      logged((logger) => logger.info({ ...object, shown: 'yes' })),
      /hush/,
    )
})

t.test('of an error its kind, text, code and stack are written', async (t) => {
  const cause = Object.assign(new TypeError('deep'), { request: 'hush' })
  const error = Object.assign(new Error('parse error', { cause }), {
    code: 'HPE_INVALID',
    rawPacket: Buffer.from('GET / HTTP/1.1\r\nauthorization: hush'),
    headers: { authorization: 'hush' },
  })
  const line = logged((logger) => logger.error({ err: error }, 'internal error'))
  t.match(JSON.parse(line), {
    err: { type: 'Error', message: 'parse error', code: 'HPE_INVALID', stack: /logging\.test/ },
  })
  t.match(JSON.parse(line), { err: { cause: { type: 'TypeError', message: 'deep' } } })
  t.notMatch(line, /hush|rawPacket/)
  t.match(
    logged((logger) => logger.error({ err: 'text' })),
    /"err":"text"/,
  )
})

t.test('at debug a request has a line, without its query', async (t) => {
  const lines: string[] = []
  const logger = createLogger('debug', { write: (line) => void lines.push(line) })
  const { call } = await serve(t, {}, { logger: logger as never })
  await call('GET', '/v1/pages/none?epoch=7', undefined, { 'x-request-id': 'r1' })
  await call('GET', '/livez')
  const requests = lines.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'request')
  t.match(requests, [
    {
      requestId: 'r1',
      ip: '127.0.0.1',
      method: 'GET',
      path: '/v1/pages/none',
      code: /^[A-Z_]+$/,
      ms: Number,
      level: 20,
    },
    { requestId: /^[0-9a-f-]{36}$/, path: '/livez', status: 200 },
  ])
  const quiet: string[] = []
  const silent = createLogger('info', { write: (line) => void quiet.push(line) })
  const other = await serve(t, {}, { logger: silent as never })
  await other.call('GET', '/livez')
  t.same(quiet, [])
})

t.test('a fault of the server is logged under the id of its request', async (t) => {
  const lines: string[] = []
  const logger = createLogger('error', { write: (line) => void lines.push(line) })
  const { call, bus } = await serve(t, {}, { logger: logger as never })
  bus.stats = () => {
    throw new Error('a fault')
  }
  const { status, headers, raw } = await call('GET', '/v1/stats')
  t.equal(status, 500)
  t.notMatch(raw.toString(), /a fault/)
  t.match(JSON.parse(lines[0] as string), { requestId: headers['x-request-id'], err: { message: 'a fault' } })
})
