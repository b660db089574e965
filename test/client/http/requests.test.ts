/** What each kind of request hands to the calls over HTTP, and which options it refuses. */
import t from 'tap'
import { newKey, Requests } from '../../../src/client/http/requests.js'
import type { Call, Rest } from '../../../src/client/http/rest.js'

/** Requests, and the calls that they make. */
function requesting() {
  const calls: Call<unknown>[] = []
  const call = async (made: Call<unknown>): Promise<unknown> => {
    calls.push(made)
    return 'answer'
  }
  return { requests: new Requests({ call, close: () => {} } as Rest), calls }
}

t.test('reads are repeated; other JSON requests only where that is said', async (t) => {
  const { requests, calls } = requesting()
  const { signal } = new AbortController()
  t.equal(await requests.get('/a', { signal, timeoutMs: 5 }, { limit: 3 }), 'answer')
  await requests.get('/b', {})
  await requests.json('POST', '/c', {}, { body: '{}' })
  await requests.json('PUT', '/d', {}, { body: '[]', isRepeatable: true })
  await requests.json('DELETE', '/e', { timeoutMs: 7 })
  t.match(calls, [
    { method: 'GET', path: '/a', signal, timeoutMs: 5, query: { limit: 3 }, isRepeatable: true },
    { method: 'GET', path: '/b', query: {}, isRepeatable: true },
    { method: 'POST', path: '/c', body: '{}', isRepeatable: false },
    { method: 'PUT', path: '/d', body: '[]', isRepeatable: true },
    { method: 'DELETE', path: '/e', timeoutMs: 7, isRepeatable: false },
  ])
  for (const { read } of calls) t.type(read, 'function')
  t.throws(() => requests.get('/a', { key: 'k' } as object), { code: 'INVALID_REQUEST', detail: /^key: / })
  t.throws(() => requests.json('POST', '/a', { timeoutMs: -1 }), { detail: /^timeoutMs: -1/ } as never)
  t.equal(calls.length, 5)
})

t.test('a write has a key, so it is repeated', async (t) => {
  const { requests, calls } = requesting()
  const { signal } = new AbortController()
  await requests.write('PATCH', '/a', '{}', {}, {})
  await requests.write('PATCH', '/a', '{}', {}, {})
  await requests.write(
    'PUT',
    '/b',
    Uint8Array.of(1),
    { key: 'mine', expectVersion: 0, signal, timeoutMs: 9 },
    { query: { offset: 2 }, headers: { 'mmsb-dtype': 'u8' } },
  )
  const [first, second, third] = calls
  t.match(first, { method: 'PATCH', path: '/a', body: '{}', isRepeatable: true })
  t.same(Object.keys(first!.headers!), ['idempotency-key'])
  t.not(first!.headers!['idempotency-key'], second!.headers!['idempotency-key'])
  t.match(third, {
    method: 'PUT',
    body: Uint8Array.of(1),
    query: { offset: 2 },
    signal,
    timeoutMs: 9,
    isRepeatable: true,
  })
  t.same(third!.headers, { 'idempotency-key': 'mine', 'if-match': '"v0"', 'mmsb-dtype': 'u8' })
  for (const [options, detail] of [
    [{ key: '' }, /^key: is empty/],
    [{ key: 'ключ' }, /^key: .* header/],
    [{ expectVersion: -1 }, /^expectVersion: -1/],
    [{ odd: 1 }, /^odd: /],
  ] as const)
    t.throws(() => requests.write('PUT', '/b', '{}', options as object, {}), {
      code: 'INVALID_REQUEST',
      detail,
    })
  t.equal(calls.length, 3)
})

t.test('keys are long, and no two are alike', (t) => {
  const keys = Array.from({ length: 100 }, newKey)
  t.equal(new Set(keys).size, 100)
  for (const key of keys) t.match(key, /^[0-9a-z]{28}$/)
  t.intercept(crypto, 'getRandomValues', { value: (words: Uint32Array) => words.fill(35) })
  t.equal(newKey(), '000000z'.repeat(4))
  t.end()
})
