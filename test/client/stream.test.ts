/**
 * The client's stream against the real server, in both subprotocols, while its connections are cut at random: every change once, mirrors
 * that are what they say, writes that happen once.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { ClientOptions } from '../../src/client/client.js'
import { type Change, type Client, connect, MmsbError } from '../../src/client/node.js'
import type { AppOptions } from '../../src/http/app.js'
import { loopbackGuard } from '../../src/http/guard.js'
import type { Bus } from '../../src/index.js'
import { listen, serve } from '../http/helpers.js'
import { type CuttingProxy, startProxy } from './proxy.js'

interface Started {
  readonly bus: Bus
  readonly proxy: CuttingProxy
  /** A client that goes through the proxy. */
  client(options?: ClientOptions): Client
}

async function started(t: Test, appOptions: Partial<AppOptions> = {}): Promise<Started> {
  const served = await serve(t, { dataDir: t.testdir(), fsync: 'off' }, appOptions)
  const { port } = await listen(served)
  const proxy = await startProxy(t, port)
  const client = (options: ClientOptions = {}): Client => {
    const made = connect(proxy.url, options)
    t.teardown(() => made.close())
    return made
  }
  return { bus: served.bus, proxy, client }
}

const SIZE = 64
const code = (code: string) => ({ code })

async function makePages(bus: Bus): Promise<void> {
  await bus.create('src', { dtype: 'i32', shape: [SIZE] })
  await bus.create('wide', { dtype: 'u64', shape: [2] })
  await bus.derive('twice', { op: 'map', inputs: { s: 'src' }, expr: 's * 2' })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'src' }, fn: 'sum' })
}

/** Writes until `signal`, at random places; now and then deletes a page and makes another of its name. */
async function writeOn(bus: Bus, signal: AbortSignal, pauseMs: number): Promise<void> {
  for (let i = 1; !signal.aborted; i++) {
    const offset = Math.floor(Math.random() * (SIZE - 3))
    const ops = [{ page: 'src', offset, values: [i, -i, i], merge: 'add' as const }]
    await bus.transact({ ops: i % 3 === 0 ? [...ops, { page: 'wide', values: [BigInt(i), 1n] }] : ops })
    if (i % 40 === 0) {
      if (i % 80 === 0)
        await bus.create('extra', { dtype: i % 160 === 0 ? 'u8' : 'f64', shape: [2], fill: 3 })
      else await bus.delete('extra').catch(() => {})
    }
    await sleep(pauseMs)
  }
}

/** Cuts all connections at random moments until `signal`. */
async function cutOn(
  proxy: CuttingProxy,
  signal: AbortSignal,
  mostMs: number,
  counted = { cuts: 0 },
): Promise<number> {
  while (!signal.aborted) {
    await sleep(Math.random() * mostMs)
    counted.cuts += proxy.cut()
  }
  return counted.cuts
}

/** Until it is so, on whatever machine; the assertions after it say if it never was. */
async function enough(isSo: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 25_000
  while (!isSo() && performance.now() < deadlineMs) await sleep(50)
}

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: every change comes once, in order, whatever is cut`, async (t) => {
    const { bus, proxy, client } = await started(t)
    await makePages(bus)
    const expected: Change[] = []
    const live = bus.subscribe({ pages: ['*'], data: 'values' })
    const recorded = (async () => {
      for await (const change of live) expected.push(change as Change)
    })()
    const from = bus.epoch
    const subscription = client({ protocol }).subscribe({ pages: ['*'], from })
    const done = new AbortController()
    const counted = { cuts: 0 }
    const work = [writeOn(bus, done.signal, 2), cutOn(proxy, done.signal, 400, counted)] as const
    const seen: Change[] = []
    let last = Number.POSITIVE_INFINITY
    const reading = (async () => {
      for await (const change of subscription) {
        seen.push(change)
        if (change.epoch >= last) break
      }
    })()
    await enough(() => seen.length > 200 && counted.cuts > 5)
    done.abort()
    const [, cuts] = await Promise.all(work)
    last = bus.epoch + 1
    await bus.patch('src', { values: [1], merge: 'add' })
    await reading
    await live.return?.()
    await recorded
    t.ok(cuts >= 3, `${cuts} connections were cut`)
    t.ok(seen.length > 50, `${seen.length} changes`)
    t.equal(subscription.epoch, last)
    t.same(
      seen.map(({ epoch }) => epoch),
      expected.map(({ epoch }) => epoch),
    )
    for (const [i, change] of seen.entries()) {
      const parts = (c: Change) =>
        c.changes.map(({ page, kind, dtype, ranges, values }) =>
          kind === 'deleted' ? { page, kind } : { page, kind, dtype, ranges: [...ranges], values },
        )
      if (equal(parts(change), parts(expected[i]!))) continue
      t.same(parts(change), parts(expected[i]!), `epoch ${change.epoch}`)
      break
    }
  })

  t.test(`${protocol}: a mirror is the server's page at every epoch it claims`, async (t) => {
    const { bus, proxy, client } = await started(t)
    await makePages(bus)
    const set = await client({ protocol }).mirrorAll(['*'])
    const one = await client({ protocol }).mirror('twice', { maxRate: 20 })
    const claims: { epoch: number; pages: Record<string, string> }[] = []
    const claim = (epoch: number, pages: Iterable<{ name: string; values: ArrayLike<unknown> }>): void => {
      const shown = [...pages].map(({ name, values }) => [name, Array.from(values).join()] as const)
      claims.push({ epoch, pages: Object.fromEntries(shown) })
    }
    set.onChange(() => claim(set.epoch, set.pages.values()))
    one.onChange(() => claim(one.epoch, [one]))
    const { values } = one
    const done = new AbortController()
    const counted = { cuts: 0 }
    const work = [writeOn(bus, done.signal, 2), cutOn(proxy, done.signal, 400, counted)] as const
    await enough(() => claims.length > 100 && counted.cuts > 5)
    done.abort()
    const [, cuts] = await Promise.all(work)
    const last = (await bus.patch('src', { values: [1], merge: 'add' })).epoch
    await Promise.all([set.until(last), one.until(last)])
    t.ok(cuts >= 3, `${cuts} connections were cut`)
    t.ok(claims.length > 30, `${claims.length} claims`)
    t.equal(one.values, values, 'the array is the same object as before')
    t.ok(set.isConnected)
    let wrong = 0
    for (const { epoch, pages } of claims) {
      const truth = await bus.readMany(Object.keys(pages), { epoch })
      for (const [name, shown] of Object.entries(pages)) {
        if (Array.from(truth.pages[name]!.values as ArrayLike<unknown>).join() !== shown) wrong++
      }
    }
    t.equal(wrong, 0)
    t.same(
      [...set.pages.keys()].sort(),
      bus
        .pages()
        .pages.map(({ name }) => name)
        .sort(),
    )
  })

  t.test(`${protocol}: writes over the stream happen once, in order`, async (t) => {
    const { bus, proxy, client } = await started(t)
    await bus.create('log', { dtype: 'u32', shape: [1] })
    await bus.create('last', { dtype: 'u32', shape: [1] })
    const writer = client({ protocol }).writer()
    const done = new AbortController()
    const cutting = cutOn(proxy, done.signal, 120)
    const total = 600
    const epochs: Promise<{ epoch: number }>[] = []
    for (let i = 1; i <= total; i++) {
      epochs.push(
        writer.transact({
          ops: [
            { page: 'log', values: [1], merge: 'add' },
            { page: 'last', values: [i] },
          ],
        }),
      )
      if (i % 8 === 0) await sleep(10)
    }
    const answers = await Promise.all(epochs)
    done.abort()
    t.ok((await cutting) >= 2)
    t.same(bus.read('log'), Uint32Array.of(total), 'each once')
    t.same(bus.read('last'), Uint32Array.of(total), 'the last one last')
    t.ok(
      answers.every(({ epoch }, i) => i === 0 || epoch >= answers[i - 1]!.epoch),
      'epochs ascend',
    )
    await t.rejects(writer.patch('log', { values: [-1] }), code('INVALID_DELTA'))
    await t.rejects(writer.patch('none', { values: [1] }), code('PAGE_NOT_FOUND'))
    await t.rejects(
      writer.transact({ ops: [], expect: [{ page: 'log', version: 1 }] }),
      code('PRECONDITION_FAILED'),
    )
    t.match(await writer.transact({ ops: [], source: 's', intent: { a: 1 } }, { key: 'once' }), {
      epoch: Number,
    })
    t.equal(writer.pending, 0)
    await writer.close()
    await t.rejects(writer.patch('log', { values: [1] }), code('CLOSED'))
  })

  t.test(`${protocol}: snapshot first; names alone; ranges; what is wrong is told`, async (t) => {
    const { bus, client } = await started(t)
    await makePages(bus)
    const mine = client({ protocol })
    const first = mine.subscribe({ pages: ['src'], from: 'snapshot' })
    const { value } = await first.next()
    t.match(value, { type: 'snapshot', epoch: 4, changes: [{ page: 'src', ranges: [[0, SIZE]] }] })
    t.equal(first.epoch, 4)
    const next = first.next()
    const ranges = mine.subscribe({ pages: ['t*'], from: 4, data: 'ranges' })
    const names = mine.subscribe({ pages: ['t*'], from: 4, data: 'none' })
    await bus.patch('src', { offset: 3, values: [5] })
    t.match((await next).value, { type: 'change', epoch: 5, changes: [{ values: Int32Array.of(5) }] })
    const expected = { page: 'twice', kind: 'derived', dtype: 'i32', shape: [SIZE] }
    t.same((await ranges.next()).value.changes, [{ ...expected, ranges: [[3, 1]] }])
    t.same((await names.next()).value.changes, [{ ...expected, ranges: [] }])
    first.close()
    t.same(await first.next(), { done: true, value: undefined })
    const later = mine.subscribe({ pages: ['src'], from: 99 })
    await t.rejects(later.next(), code('EPOCH_NOT_FOUND'))
    t.same(await later.next(), { done: true, value: undefined }, 'an error is told once')
    await t.rejects(mine.subscribe({ pages: ['no way'] }).next(), code('INVALID_REQUEST'))
    await t.rejects(mine.mirror('none'), code('PAGE_NOT_FOUND'))
    const mirror = await mine.mirror('twice')
    await bus.delete('twice')
    await mirror.until(bus.epoch)
    t.ok(mirror.isDeleted)
    t.equal(mirror.values[3], 10, 'what it was last')
    t.ok((await ranges.next()).value.changes.some(({ kind }: { kind: string }) => kind === 'deleted'))
  })
}

function equal(a: unknown, b: unknown): boolean {
  const text = (value: unknown): string =>
    JSON.stringify(value, (_, v) =>
      typeof v === 'bigint' ? `${v}n` : ArrayBuffer.isView(v) ? [...(v as Uint8Array)] : v,
    )
  return text(a) === text(b)
}

t.test('a reader that is slow is put aside and misses nothing', async (t) => {
  const { bus, client } = await started(t)
  await bus.create('big', { dtype: 'u8', shape: [1000] })
  const subscription = client({ queueMaxBytes: 20_000 }).subscribe({ pages: ['big'], from: bus.epoch })
  const first = subscription.next()
  const total = 120
  for (let i = 1; i <= total; i++) {
    await bus.write('big', new Uint8Array(1000).fill(i))
    if (i % 20 === 0) await sleep(20)
  }
  const { value } = await first
  const seen = [value.changes[0].values[0]]
  await sleep(200)
  for await (const { changes } of subscription) {
    seen.push((changes[0]!.values as Uint8Array)[999])
    if (seen.length === total) break
  }
  t.same(
    seen,
    Array.from({ length: total }, (_, i) => i + 1),
  )
})

t.test('a connection gone silent is made anew', async (t) => {
  const { bus, proxy, client } = await started(t)
  await bus.create('a', { dtype: 'u8', shape: [1] })
  const mirror = await client({ silenceMaxMs: 7_000 }).mirror('a')
  proxy.freeze()
  await bus.patch('a', { values: [7] })
  const before = proxy.accepted
  const waiting = mirror.until(bus.epoch)
  await sleep(100)
  t.equal(mirror.values[0], 0)
  // Nothing is cut: the client itself has to notice.
  const noticed = (async () => {
    while (proxy.accepted === before) await sleep(50)
    proxy.thaw()
  })()
  await Promise.all([noticed, waiting])
  t.equal(mirror.values[0], 7)
})

t.test('what ends a subscription, a mirror, a writer', async (t) => {
  const { bus, client } = await started(t)
  await makePages(bus)
  const mine = client()
  const abort = new AbortController()
  const reason = new Error('enough')
  const subscription = mine.subscribe({ pages: ['src'], signal: abort.signal })
  const mirror = await mine.mirror('src', { signal: abort.signal })
  const waiting: Promise<unknown>[] = [subscription.next(), mirror.until(1e9)]
  abort.abort(reason)
  for (const promise of waiting) await t.rejects(promise as Promise<void>, reason)
  await t.rejects(mine.subscribe({ pages: ['src'], signal: abort.signal }).next(), reason)
  await t.rejects(mine.mirror('src', { signal: AbortSignal.abort(reason) }), reason)
  const limited = await mine.mirror('src')
  await t.rejects(limited.until(1e9, { signal: AbortSignal.timeout(30) }), { name: 'TimeoutError' })
  await limited.until(bus.epoch)

  const open = mine.subscribe({ pages: ['src'] })
  const next = open.next()
  const writer = mine.writer()
  const write = writer.patch('src', { values: [1] })
  await mine.close()
  t.same(await next, { done: true, value: undefined })
  await t.rejects(write, code('CLOSED'))
  await t.rejects(limited.until(1e9), code('CLOSED'))
  await t.rejects(mine.mirror('src'), code('CLOSED'))
  t.throws(() => mine.writer(), code('CLOSED'))
})

t.test('a server that will not have us is not asked for ever; one that is away is', async (t) => {
  const guard = loopbackGuard('127.0.0.1', () => undefined)
  const refusing = await started(t, { guard: (headers) => guard({ ...headers, host: 'example.com' }) })
  await t.rejects(
    refusing
      .client()
      .subscribe({ pages: ['a'] })
      .next(),
    code('FORBIDDEN'),
  )
  await t.rejects(refusing.client().mirror('a'), code('FORBIDDEN'))
  const { bus, proxy, client } = await started(t)
  await bus.create('a', { dtype: 'u8', shape: [1], fill: 3 })
  proxy.isDown = true
  const mirror = client({ timeoutMs: 500 }).mirror('a')
  await sleep(300)
  proxy.isDown = false
  t.same((await mirror).values, Uint8Array.of(3))
  const error = new MmsbError({ code: 'NETWORK', detail: 'x' })
  t.equal(error.message, 'NETWORK: x')
})
