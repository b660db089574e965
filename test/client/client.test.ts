/** The client over HTTP against the real server: every call, every kind of value, refusals and retries. */

import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { emptyArray } from '../../src/client/codec/values.js'
import { type Client, connect, MmsbError } from '../../src/client/node.js'
import { DTYPES } from '../../src/wire/dtype.js'
import { listen, type Served, serve } from '../http/helpers.js'
import { bytesOf } from '../lib/bytes.js'
import { sleep } from '../lib/wait.js'
import { startProxy } from './proxy.js'

async function started(t: Test): Promise<{ served: Served; bus: Client; url: string; port: number }> {
  const served = await serve(t, { dataDir: t.testdir(), fsync: 'off' })
  const { url, port } = await listen(served)
  const bus = connect(url)
  t.teardown(() => bus.close())
  return { served, bus, url, port }
}

const code = (code: string, status?: number) => ({ code, ...(status === undefined ? {} : { status }) })

t.test('pages: create, derive, list, describe, delete', async (t) => {
  const { bus } = await started(t)
  const page = await bus.create('prices', { dtype: 'f32', shape: [5], fill: 2 })
  t.match(page, { name: 'prices', kind: 'source', dtype: 'f32', shape: [5], version: 1 })
  t.same(await bus.create('prices', { dtype: 'f32', shape: [5], fill: 2 }), page, 'again the same')
  t.match(await bus.derive('twice', { op: 'map', inputs: { p: 'prices' }, expr: 'p * 2' }), {
    kind: 'derived',
  })
  const { epoch, pages } = await bus.createMany([
    { name: 'b', dtype: 'u8', shape: [] },
    { name: 'c', derive: { op: 'map', inputs: { b: 'b' }, expr: 'b + 1' } },
  ])
  t.equal(epoch, 3)
  t.equal(pages.length, 2)
  t.same(
    (await bus.pages({ limit: 2 })).pages.map(({ name }) => name),
    ['b', 'c'],
  )
  t.equal((await bus.pages({ prefix: 'tw' })).next, null)
  t.equal((await bus.page('twice')).inputs[0], 'prices')
  await t.rejects(bus.create('prices', { dtype: 'u8', shape: [5] }), code('PAGE_EXISTS', 409))
  await t.rejects(bus.delete('prices'), code('PAGE_IN_USE', 409))
  t.equal((await bus.delete('prices', { cascade: true })).epoch, 4)
  await t.rejects(bus.page('prices'), code('PAGE_NOT_FOUND', 404))
  t.equal((await bus.graph()).nodes.length, 2)
})

t.test('every dtype goes there and comes back the same, as array, octets and list', async (t) => {
  const { bus } = await started(t)
  for (const dtype of DTYPES) {
    const values = emptyArray(dtype, 3)
    const isWide = dtype === 'u64' || dtype === 'i64'
    ;(values as { [i: number]: unknown })[1] = isWide ? 2n ** 62n + 1n : 1
    await bus.create(dtype, { dtype, shape: [3] })
    await bus.write(dtype, values)
    const data = await bus.read(dtype)
    t.same(data.values, values, `${dtype}, whole`)
    t.match(data, { name: dtype, dtype, shape: [3], version: data.epoch })
    t.equal(data.values.constructor, values.constructor)
    const zero = isWide ? 0n : 0
    await bus.patch(dtype, { offset: 1, values: [zero] })
    t.same((await bus.read(dtype)).values[1], zero, `${dtype}, list`)
    await bus.patch(dtype, { offset: 1, octets: new Uint8Array(values.buffer, values.BYTES_PER_ELEMENT) })
    t.same((await bus.read(dtype, { offset: 1, count: 2 })).values, values.subarray(1), `${dtype}, octets`)
    t.same((await bus.readMany([dtype])).pages[dtype]!.values, values, `${dtype}, JSON`)
  }
  await bus.create('scalar', { dtype: 'f64', shape: [] })
  await bus.write('scalar', [-0])
  t.ok(Object.is((await bus.read('scalar')).values[0], -0))
  t.same((await bus.read('scalar')).shape, [])
  await bus.create('wide', { dtype: 'i64', shape: [1], fill: -(2n ** 63n) })
  t.same((await bus.read('wide')).values, BigInt64Array.of(-(2n ** 63n)))
})

t.test('an array of another dtype is refused, and nothing changes', async (t) => {
  const { bus } = await started(t)
  await bus.create('a', { dtype: 'f32', shape: [2] })
  await t.rejects(bus.write('a', Float64Array.of(1)), code('INVALID_DELTA', 400))
  await t.rejects(bus.patch('a', { values: Int32Array.of(1) }), code('INVALID_DELTA', 400))
  await t.rejects(bus.patch('a', { values: [1, 2, 3] }), code('INVALID_DELTA', 400))
  await t.rejects(bus.patch('a', { values: [1], indices: [2] }), code('INVALID_DELTA', 400))
  t.equal((await bus.status()).epoch, 1)
})

t.test('sparse, masked, merged; transactions, expectations, what-if', async (t) => {
  const { bus } = await started(t)
  await bus.create('a', { dtype: 'i32', shape: [10] })
  await bus.create('b', { dtype: 'f64', shape: [2] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' })
  await bus.patch('a', { indices: Uint32Array.of(0, 9), values: [5, 7], merge: 'add' })
  await bus.patch('a', { mask: Uint8Array.of(0b110, 0), values: Int32Array.of(1, 2) })
  t.same((await bus.read('a')).values, Int32Array.of(5, 1, 2, 0, 0, 0, 0, 0, 0, 7))
  const { epoch, pages } = await bus.transact({
    ops: [
      { page: 'a', offset: 3, values: [10] },
      { page: 'b', values: Float64Array.of(0.5) },
    ],
    source: 'test',
    intent: { why: 'because' },
    expect: [{ page: 'a', version: 5 }],
  })
  t.same({ epoch, pages }, { epoch: 6, pages: { a: 6, b: 6 } })
  await t.rejects(
    bus.transact({ ops: [{ page: 'b', values: [9] }], expect: [{ page: 'a', version: 5 }] }),
    code('PRECONDITION_FAILED', 412),
  )
  await t.rejects(bus.write('b', [1, 2], { expectVersion: 2 }), code('PRECONDITION_FAILED', 412))
  t.match(await bus.patch('b', { values: [1] }, { expectVersion: 6 }), { epoch: 7, page: 'b' })
  const trial = await bus.whatIf({ ops: [{ page: 'a', values: Int32Array.of(100) }], read: ['sum', 'a'] })
  t.same(trial.pages.sum!.values, BigInt64Array.of(120n))
  t.same((await bus.read('sum')).values, BigInt64Array.of(25n), 'nothing was committed')
  await t.rejects(bus.patch('sum', { values: [1] }), code('PAGE_READ_ONLY', 409))
})

t.test('time: past reads, epochs, history, diff, checkpoints, verify; functions; figures', async (t) => {
  const { bus } = await started(t)
  await bus.create('a', { dtype: 'u8', shape: [4] })
  await bus.transact({ ops: [{ page: 'a', values: [1] }], source: 'feed', intent: [1] })
  await bus.patch('a', { offset: 2, values: [9] })
  t.same((await bus.read('a', { epoch: 2 })).values, Uint8Array.of(1, 0, 0, 0))
  t.same((await bus.readMany(['a'], { epoch: 1 })).pages.a!.values, new Uint8Array(4))
  t.match(await bus.epoch(2), { epoch: 2, changed: ['a'], transactions: [{ source: 'feed', intent: [1] }] })
  t.same(
    (await bus.epochs({ page: 'a', from: 2 })).epochs.map(({ epoch }) => epoch),
    [2, 3],
  )
  t.same(
    (await bus.history('a')).versions.map(({ epoch }) => epoch),
    [1, 2, 3],
  )
  t.same((await bus.diff({ from: 1, pages: ['a'] })).pages.a!.ranges, [
    [0, 1],
    [2, 1],
  ])
  await t.rejects(bus.read('a', { epoch: 99 }), code('EPOCH_NOT_FOUND', 404))
  t.equal((await bus.checkpoint()).epoch, 3)
  t.equal((await bus.checkpoints()).checkpoints.length >= 1, true)
  t.match(await bus.verify(), { ok: true, to: 3, divergence: null })
  t.match(await bus.defineFunction('double', { params: ['x'], expr: 'x * 2' }), { worldAge: 1 })
  t.equal((await bus.functions()).functions.length, 1)
  t.equal((await bus.function('double')).expr, 'x * 2')
  t.equal((await bus.deleteFunction('double')).worldAge, 2)
  t.equal((await bus.status()).epoch, 5)
  t.equal((await bus.stats()).epoch, 5)
})

t.test('an error says what the server said', async (t) => {
  const { bus } = await started(t)
  const error = await bus.page('none').then(
    () => undefined,
    (error: unknown) => error,
  )
  t.ok(error instanceof MmsbError)
  t.match(error, {
    name: 'MmsbError',
    code: 'PAGE_NOT_FOUND',
    status: 404,
    detail: /none/,
    hint: /\/v1\/pages/,
    minEpoch: undefined,
  })
  await t.rejects(bus.create('bad name', { dtype: 'u8', shape: [] }), code('INVALID_REQUEST', 400))
})

t.test('a write whose answer is lost happens once', async (t) => {
  const { bus: direct, port } = await started(t)
  await direct.create('count', { dtype: 'u32', shape: [1] })
  const proxy = await startProxy(t, port)
  const bus = connect(proxy.url, { retries: 50 })
  t.teardown(() => bus.close())
  const cutting = setInterval(() => proxy.cut(), 15)
  t.teardown(() => clearInterval(cutting))
  const total = 60
  for (let i = 0; i < total; i++) await bus.patch('count', { values: [1], merge: 'add' })
  clearInterval(cutting)
  t.same((await direct.read('count')).values, Uint32Array.of(total))
  t.ok(proxy.accepted > 5, `${proxy.accepted} connections were needed`)
})

t.test('a call waits for a server that restarts, as long as it has time', async (t) => {
  const { port } = await started(t)
  const proxy = await startProxy(t, port)
  const bus = connect(proxy.url, { timeoutMs: 20_000 })
  t.teardown(() => bus.close())
  proxy.isDown = true
  setTimeout(() => {
    proxy.isDown = false
  }, 2_000)
  const startedMs = performance.now()
  t.match(await bus.status(), { epoch: 0 })
  t.ok(performance.now() - startedMs >= 1_900)
})

t.test('a connection that is dead costs one try, and the write happens once', async (t) => {
  const { bus: direct, port } = await started(t)
  await direct.create('count', { dtype: 'u32', shape: [1] })
  const proxy = await startProxy(t, port)
  const bus = connect(proxy.url, { tryTimeoutMs: 300, timeoutMs: 20_000 })
  t.teardown(() => bus.close())
  await bus.status()
  proxy.freeze()
  const write = bus.patch('count', { values: [1], merge: 'add' })
  setTimeout(() => proxy.thaw(), 1_000)
  await write
  t.same((await direct.read('count')).values, Uint32Array.of(1))
  t.ok(proxy.accepted >= 2, `${proxy.accepted} connections were needed`)
  proxy.freeze()
  const once = connect(proxy.url, { tryTimeoutMs: 100, timeoutMs: 20_000, retries: 0 })
  t.teardown(() => once.close())
  await t.rejects(once.status(), { code: 'NETWORK', detail: /none within 100 ms/ })
})

t.test('an answer that stops in its middle costs one try; a slow one does not', async (t) => {
  const { bus: direct, port } = await started(t)
  const values = Float64Array.from({ length: 2 ** 20 }, (_, i) => i)
  await direct.create('large', { dtype: 'f64', shape: [values.length] })
  await direct.write('large', values)
  for (const protocol of ['binary', 'json'] as const) {
    // A proxy of its own: a connection to the same address that is still open would be used again.
    const proxy = await startProxy(t, port)
    const bus = connect(proxy.url, { protocol, tryTimeoutMs: 1_000, timeoutMs: 60_000 })
    t.teardown(() => bus.close())
    proxy.freezeOneAfter(2 ** 20)
    t.ok(bytesOf((await bus.read('large')).values).equals(bytesOf(values)), protocol)
    t.ok(proxy.accepted >= 2, 'another connection was needed')
  }
  // Each part comes in time, all of them together take longer than a try.
  const slow: typeof fetch = async () => {
    const parts = new ReadableStream({
      async start(out) {
        for (let i = 0; i < 6; i++) {
          await sleep(250)
          out.enqueue(new Uint8Array(8).fill(i))
        }
        out.close()
      },
    })
    const headers = { 'content-type': 'application/octet-stream', 'mmsb-epoch': '2', etag: '"0.v2"' }
    return new Response(parts, { headers: { ...headers, 'mmsb-dtype': 'u8', 'mmsb-shape': '48' } })
  }
  const patient = connect('http://127.0.0.1:1', { fetch: slow, tryTimeoutMs: 1_000, retries: 0 })
  t.teardown(() => patient.close())
  t.equal((await patient.read('large')).values.length, 48)
})

t.test('without a server: NETWORK; a silent one: TIMEOUT; given up: the reason', async (t) => {
  const { port } = await started(t)
  const proxy = await startProxy(t, port)
  const bus = connect(proxy.url, { retries: 1, timeoutMs: 400 })
  t.teardown(() => bus.close())
  proxy.isDown = true
  await t.rejects(bus.status(), code('NETWORK', 0))
  proxy.isDown = false
  proxy.freeze()
  await t.rejects(bus.status(), code('TIMEOUT', 0))
  const abort = new AbortController()
  const call = bus.status({ signal: abort.signal, timeoutMs: 60_000 })
  const reason = new Error('enough')
  abort.abort(reason)
  await t.rejects(call, reason)
  await t.rejects(bus.status({ signal: AbortSignal.abort(reason) }), reason)
  const open = bus.status({ timeoutMs: 60_000 })
  await bus.close()
  await t.rejects(open, code('CLOSED'))
  await t.rejects(bus.status(), code('CLOSED'))
  t.throws(() => bus.subscribe({ pages: ['a'] }), code('CLOSED'))
})

t.test(
  '503 with Retry-After is repeated, even where a repeat would not be safe; without, it is not',
  async (t) => {
    const answers: { status: number; retryAfter?: string }[] = []
    const seen: string[] = []
    const server = createServer((request, response) => {
      seen.push(`${request.method} ${request.headers['idempotency-key'] ?? ''}`)
      const { status, retryAfter } = answers.shift() ?? { status: 200 }
      const problem = { code: status === 200 ? undefined : 'OVERLOADED', status, detail: 'busy' }
      response.writeHead(status, {
        'content-type': 'application/json',
        ...(retryAfter === undefined ? {} : { 'retry-after': retryAfter }),
      })
      response.end(JSON.stringify(status === 200 ? { epoch: 1 } : problem))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => {
      server.closeAllConnections()
      server.close()
    })
    const bus = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    t.teardown(() => bus.close())
    answers.push({ status: 503, retryAfter: '0' }, { status: 503, retryAfter: '0' })
    t.same(await bus.delete('a'), { epoch: 1 })
    t.equal(seen.length, 3)
    answers.push({ status: 503, retryAfter: '0' })
    await bus.patch('a', { values: [1] })
    t.equal(seen[3], seen[4], 'under the same key')
    t.match(seen[3], /^PATCH .{20,}$/)
    await bus.patch('a', { values: [1] })
    t.not(seen[5], seen[4], 'another call, another key')
    answers.push({ status: 503 })
    await t.rejects(bus.status(), code('OVERLOADED', 503))
    answers.push({ status: 503, retryAfter: '600' })
    await t.rejects(bus.status({ timeoutMs: 1_000 }), code('OVERLOADED', 503), 'not within the time there is')
  },
)
