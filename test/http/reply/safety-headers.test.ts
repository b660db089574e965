/** What keeps browsers and caches from misusing an answer; what they may keep and show. */

import { gunzipSync } from 'node:zlib'
import t from 'tap'
import { serve } from '../helpers.js'

const SAFE = {
  'x-content-type-options': 'nosniff',
  'cross-origin-resource-policy': 'same-origin',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
}

t.test('answers to reads, and every problem', async (t) => {
  const { call } = await serve(t)
  await call('PUT', '/v1/pages/a', { dtype: 'u8', shape: [4] })
  const reads = [
    '/v1/pages',
    '/v1/pages/a',
    '/v1/pages/a/data',
    '/v1/status',
    '/v1/graph',
    '/metrics',
    '/livez',
  ]
  for (const path of reads) {
    const { status, headers } = await call('GET', path)
    t.equal(status, 200, path)
    t.match(headers, { ...SAFE, 'cache-control': 'no-store' }, path)
  }
  t.match((await call('HEAD', '/v1/pages/a/data')).headers, { ...SAFE, 'cache-control': 'no-store' })
  const problems = [
    await call('GET', '/v1/pages/b'),
    await call('PATCH', '/v1/pages/a/data', { values: ['x'] }),
    await call('POST', '/v1/transactions', '{'),
    await call('GET', '/nowhere'),
    await call('PUT', '/v1/pages/a', { dtype: 'u8', shape: [5] }),
  ]
  for (const { status, headers } of problems) {
    t.ok(status >= 400)
    t.match(headers, SAFE, String(status))
  }
  const written = await call('PATCH', '/v1/pages/a/data', { values: [1] })
  t.notOk('content-security-policy' in written.headers, 'a write pays nothing')
})

t.test('data is never compressed or kept; a 304 says so too', async (t) => {
  const { call } = await serve(t)
  await call('PUT', '/v1/pages/a', { dtype: 'u8', shape: [100_000] })
  const plain = await call('GET', '/v1/pages/a/data', undefined, { 'accept-encoding': 'gzip, br' })
  t.notOk('content-encoding' in plain.headers)
  const etag = String(plain.headers.etag)
  const same = await call('GET', '/v1/pages/a/data', undefined, { 'if-none-match': etag })
  t.equal(same.status, 304)
  t.match(same.headers, { ...SAFE, 'cache-control': 'no-store', etag })
})

t.test('documents are compressed, and answered with 304 while they stay the same', async (t) => {
  const { call, inject } = await serve(t)
  for (const url of ['/openapi.json', '/asyncapi.json', '/docs/', '/docs/static/swagger-ui.css']) {
    const whole = await call('GET', url)
    t.equal(whole.status, 200, url)
    t.match(whole.headers['cache-control'], /no-cache|max-age=0/, url)
    t.match(whole.headers['content-security-policy'], /script-src 'self'.*frame-ancestors 'none'/, url)
    t.match(whole.headers, {
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
    })
    const { etag } = whole.headers
    t.match(etag, /^(W\/)?".+"$/, url)
    const zipped = await inject({ url, headers: { 'accept-encoding': 'gzip' } })
    if (whole.raw.length > 1024) {
      t.equal(zipped.headers['content-encoding'], 'gzip', url)
      t.match(zipped.headers.vary, /accept-encoding/i, url)
      t.ok(gunzipSync(zipped.rawPayload).equals(whole.raw), url)
    }
    t.equal((await call('GET', url, undefined, { 'if-none-match': String(etag) })).status, 304, url)
  }
  t.notOk('strict-transport-security' in (await call('GET', '/docs/')).headers)
})
