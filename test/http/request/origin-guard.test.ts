/**
 * Without authentication, a server answers programs on this machine, and no web page of another site.
 */
import t from 'tap'
import {
  guardFor,
  isLoopback,
  loopbackGuard,
  NO_ORIGINS,
  openGuard,
} from '../../../src/http/request/origin-guard.js'

t.test('loopback addresses', async (t) => {
  for (const host of ['127.0.0.1', '127.1.2.3', 'localhost', 'LOCALHOST', '::1', '[::1]'])
    t.ok(isLoopback(host), host)
  for (const host of [
    '0.0.0.0',
    '::',
    '192.168.1.1',
    'example.com',
    '127.0.0.1.example.com',
    '128.0.0.1',
    '',
  ]) {
    t.notOk(isLoopback(host), host)
  }
})

const guard = loopbackGuard('127.0.0.1', () => 7411)
const isLet = (host: string | undefined, origin?: string): boolean =>
  guard({ ...(host === undefined ? {} : { host }), ...(origin === undefined ? {} : { origin }) }) ===
  undefined

t.test('Host must be a name of this machine; its port is free, for tunnels', async (t) => {
  for (const host of ['localhost', 'localhost:7411', '127.0.0.1:7411', '[::1]:7411', 'LocalHost:8080']) {
    t.ok(isLet(host), host)
    t.ok(isLet(host), `${host}, again`)
  }
  const foreign = [
    'example.com',
    'example.com:7411',
    'localhost.example.com',
    '127.0.0.1.nip.io',
    '10.0.0.1',
    '',
    'localhost:x',
    'user@localhost',
  ]
  for (const host of [undefined, ...foreign]) {
    t.match(guard(host === undefined ? {} : { host }), { code: 'FORBIDDEN' }, String(host))
  }
})

t.test('Origin must be the server itself', async (t) => {
  t.ok(isLet('localhost:7411', 'http://localhost:7411'))
  t.ok(isLet('127.0.0.1:7411', 'http://localhost:7411'), 'another name of the same server')
  t.ok(isLet('localhost:8080', 'http://localhost:8080'), 'through a tunnel')
  const foreign = [
    'http://example.com',
    'https://example.com:7411',
    'http://localhost:3000',
    'http://localhost',
    'null',
    '',
    'file://',
    'http://localhost:7411/x',
    'http://localhost:7411.example.com',
  ]
  for (const origin of foreign) t.notOk(isLet('localhost:7411', origin), origin)
})

t.test('the host the server is bound to counts as its own', async (t) => {
  const own = loopbackGuard('127.0.0.2', () => 1)
  t.equal(own({ host: '127.0.0.2:1' }), undefined)
  t.equal(loopbackGuard('::1', () => 1)({ host: '[::1]:1' }), undefined)
  t.equal(openGuard({ host: 'example.com', origin: 'http://elsewhere' }), undefined)
})

t.test('names that were allowed, such as that of a proxy', async (t) => {
  const allowedHosts = new Set(['bus.example.com', '10.0.0.7', '[fd00::7]'])
  const judged = (isInsecure: boolean, host: string, origin?: string): boolean => {
    const one = guardFor(
      { isInsecure, host: '0.0.0.0', allowedOrigins: NO_ORIGINS, allowedHosts },
      () => 7411,
    )
    return one({ host, ...(origin === undefined ? {} : { origin }) }) === undefined
  }
  for (const isInsecure of [false, true]) {
    for (const host of [
      'bus.example.com',
      'BUS.example.com:443',
      '10.0.0.7:1',
      '[fd00::7]',
      'localhost:7411',
    ])
      t.ok(judged(isInsecure, host), `${host} ${isInsecure}`)
    for (const host of ['example.com', 'x.bus.example.com', 'bus.example.com.evil', '10.0.0.8', ''])
      t.notOk(judged(isInsecure, host), `${host} ${isInsecure}`)
  }
  t.ok(judged(false, 'bus.example.com', 'https://bus.example.com'), 'its own pages, behind TLS')
  t.notOk(judged(false, 'bus.example.com', 'https://example.com'))
  t.ok(judged(true, 'bus.example.com', 'https://example.com'), 'whoever logs in may come from anywhere')
  const any = guardFor({ isInsecure: true, host: '0.0.0.0', allowedOrigins: NO_ORIGINS }, () => 7411)
  t.equal(any({ host: 'elsewhere' }), undefined, 'with a login and without a list')
})
