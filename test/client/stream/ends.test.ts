/**
 * How subscriptions of the client start and end: starts, windows, durable and slow readers, silence,
 * refusals, aborts, closes.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Client } from '../../../src/client/client.js'
import { type Change, connect, MmsbError } from '../../../src/client/node.js'
import type { SocketLike } from '../../../src/client/stream/connection.js'
import { matches } from '../../../src/client/stream/large-snapshot.js'
import { bytesOf } from '../../../src/http/request/octet-stream.js'
import { loopbackGuard } from '../../../src/http/request/origin-guard.js'
import { STREAM_SNAPSHOT_MAX_BYTES } from '../../../src/limits.js'
import { patternSet } from '../../../src/state/pattern.js'
import type { TypedArray } from '../../../src/wire/dtype.js'
import { listen, serve } from '../../http/helpers.js'
import { code, makePages, SIZE, started } from '../started.js'

for (const protocol of ['binary', 'json'] as const) {
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
    await t.rejects(later.next(), { code: 'EPOCH_NOT_FOUND', status: 404 })
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

for (const protocol of ['binary', 'json'] as const) {
  t.test(
    `${protocol}: a durable subscription goes on after what it committed; a window is a window`,
    async (t) => {
      const { bus, proxy, client } = await started(t)
      await bus.create('a', { dtype: 'u32', shape: [4, 4] })
      const mine = client({ protocol })
      const first = mine.subscribe({ pages: ['a'], durable: 'reader', from: 0 })
      t.equal((await first.next()).value.epoch, 1)
      for (let i = 1; i <= 4; i++) await bus.patch('a', { offset: i, values: [i] })
      const seen = []
      for (let i = 0; i < 4; i++) {
        const { value } = await first.next()
        seen.push(value.epoch)
        if (i === 1) await first.commit()
        if (i === 2) proxy.cut()
      }
      t.same(seen, [2, 3, 4, 5], 'uncommitted ones do not come twice to the same reader')
      await t.rejects(first.commit(9), code('INVALID_REQUEST'))
      t.match((await mine.durables()).subscriptions, [{ name: 'reader', epoch: 3, lag: 2 }])
      proxy.cut()
      await first.commit(4)
      await mine.close()
      const other = client({ protocol })
      const again = other.subscribe({ pages: ['a'], durable: 'reader' })
      t.equal((await again.next()).value.epoch, 5, 'another process goes on there')
      again.close()
      await other.deleteDurable('reader')
      t.same((await other.durables()).subscriptions, [])

      const window = other.subscribe({
        pages: ['a'],
        slice: {
          a: [
            [1, 3],
            [0, 2],
          ],
        },
        from: bus.epoch,
      })
      const next = window.next()
      await bus.patch('a', { indices: [3, 4, 9, 15], values: [1, 2, 3, 4] })
      t.match((await next).value.changes, [{ page: 'a', shape: [2, 2], values: Uint32Array }])
      const ranges = (await next).value.changes[0].ranges.flat()
      t.same(ranges.slice(0, 1), [0], 'element 4 of the page is element 0 of the window')
      window.close()
    },
  )
}

t.test('a subscription to an epoch that is gone: EPOCH_COMPACTED', async (t) => {
  const served = await serve(t, {})
  const { port } = await listen(served)
  const { bus } = served
  await bus.create('a', { dtype: 'u32', shape: [1] })
  const mine = connect(`http://127.0.0.1:${port}`)
  t.teardown(() => mine.close())
  // A bus without a log keeps recent epochs in memory only.
  const big = new Float64Array(1024 * 1024)
  await bus.create('big', { dtype: 'f64', shape: [big.length] })
  for (let i = 0; i < 40; i++) await bus.write('big', big.fill(i))
  const error = await mine
    .subscribe({ pages: ['*'], from: 1 })
    .next()
    .then(
      () => undefined,
      (error: unknown) => error,
    )
  t.match(error, { code: 'EPOCH_COMPACTED', minEpoch: Number })
})

t.test(
  'a mirror begins anew where the server has lost what it was built on; a subscription says so',
  async (t) => {
    const { bus, proxy, client } = await started(t)
    await bus.create('a', { dtype: 'u32', shape: [2] })
    for (let i = 0; i < 5; i++) await bus.patch('a', { values: [i] })
    const mirror = await client().mirror('a')
    const subscription = client().subscribe({ pages: ['a'], from: 'snapshot' })
    // Only a subscription that has begun has a history to lose.
    t.match((await subscription.next()).value, { type: 'snapshot', epoch: 6 })
    const refused = t.rejects(subscription.next(), code('HISTORY_CHANGED'))
    const changed = new Promise<Change>((resolve) => mirror.onChange(resolve))
    // As after a crash with --fsync off: a different, shorter history.
    const other = await serve(t, {})
    await other.bus.create('a', { dtype: 'u32', shape: [2], fill: 9 })
    proxy.target = (await listen(other)).port
    proxy.cut()
    t.match(await changed, { type: 'snapshot', epoch: 1 })
    t.same(mirror.values, Uint32Array.of(9, 9))
    t.equal(mirror.epoch, 1)
    await refused
  },
)

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
  // No connection is cut: the client has to notice by itself.
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

t.test('one signal for many subscriptions, mirrors and calls has one listener', async (t) => {
  const { bus, client } = await started(t)
  await makePages(bus)
  const mine = client()
  const { signal, listeners, abort } = countedSignal()
  const subscriptions = Array.from({ length: 12 }, () => mine.subscribe({ pages: ['src'], signal }))
  const calls = Array.from({ length: 12 }, () => mine.status({ signal }))
  const mirrors = await Promise.all(Array.from({ length: 12 }, () => mine.mirror('src', { signal })))
  await Promise.all(calls)
  t.equal(listeners.size, 1)
  for (const subscription of subscriptions.slice(1)) subscription.close()
  for (const mirror of mirrors.slice(1)) mirror.close()
  t.equal(listeners.size, 1)
  const reason = new Error('enough')
  const waiting = [subscriptions[0]!.next(), mirrors[0]!.until(1e9)] as const
  abort(reason)
  for (const promise of waiting) await t.rejects(promise as Promise<unknown>, reason)
  const other = countedSignal()
  mine.subscribe({ pages: ['src'], signal: other.signal }).close()
  await mirrors[0]!.until(0, { signal: other.signal })
  await mine.status({ signal: other.signal })
  t.equal(other.listeners.size, 0, 'nor is one left behind')
})

/** An AbortSignal that counts its listeners. */
function countedSignal() {
  const controller = new AbortController()
  const { signal } = controller
  const listeners = new Set<unknown>()
  const add = signal.addEventListener.bind(signal)
  const remove = signal.removeEventListener.bind(signal)
  signal.addEventListener = (type: string, listener: never, options?: never) => {
    listeners.add(listener)
    add(type, listener, options)
  }
  signal.removeEventListener = (type: string, listener: never, options?: never) => {
    listeners.delete(listener)
    remove(type, listener, options)
  }
  return { signal, listeners, abort: (reason: unknown) => controller.abort(reason) }
}

t.test('a client closed while it connects leaves no timer that would hold the process', async (t) => {
  const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const socket: SocketLike = {
    binaryType: '',
    onopen: null,
    onmessage: null,
    onerror: null,
    onclose: null,
    send: () => {},
    close: () => socket.onclose?.(undefined as never),
  }
  const mine = new Client('http://127.0.0.1:9', () => socket)
  const before = timers()
  const next = mine.subscribe({ pages: ['a'] }).next()
  t.ok(timers() > before, 'it is waiting for the socket to open')
  const closed = mine.close()
  t.equal(timers(), before)
  await closed
  t.same(await next, { done: true, value: undefined })
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

t.test('a mirror of more than a message carries: read whole, then followed', async (t) => {
  const { bus, client } = await started(t)
  const elements = STREAM_SNAPSHOT_MAX_BYTES / 8 + 4096
  await bus.create('bytes', { dtype: 'u8', shape: [elements] })
  await bus.derive('big', { op: 'map', inputs: { x: 'bytes' }, expr: 'f64(x)' })
  await bus.create('n', { dtype: 'i32', shape: [4] })
  await bus.derive('twice', { op: 'map', inputs: { n: 'n' }, expr: 'n * 2' })
  await bus.patch('bytes', { offset: 70, values: [7] })
  const isWhole = (values: TypedArray): boolean => bytesOf(values).equals(bytesOf(bus.read('big')))
  const mine = client()

  const one = await mine.mirror('big')
  t.ok(isWhole(one.values))
  const { values } = one
  await one.until((await bus.patch('bytes', { offset: elements - 1, values: [9] })).epoch)
  t.equal(values[elements - 1], 9)
  await one.until((await bus.write('bytes', new Uint8Array(elements).fill(3))).epoch)
  t.ok(isWhole(one.values), 'a change that no message carries')
  t.equal(one.values, values, 'the array is the same object as before')
  one.close()

  let [writes, isOver] = [0, false]
  const writing = (async () => {
    for (; !isOver; writes++) {
      await bus.transact({ ops: ['n', 'bytes'].map((page) => ({ page, values: [1], merge: 'add' })) })
      await sleep(1)
    }
  })()
  const set = await mine.mirrorAll(['bi*', '*n*', 'twice'])
  const wrong: number[] = []
  const look = (): void => {
    const [n, twice, big] = ['n', 'twice', 'big'].map((name) => Number(set.pages.get(name)?.values[0]))
    if (twice !== 2 * n! || big !== (3 + n!) % 256) wrong.push(set.epoch)
  }
  look()
  set.onChange(look)
  const after = writes
  for (let i = 0; i < 300 && writes < after + 50; i++) await sleep(10)
  isOver = true
  await writing
  await set.until(bus.epoch)
  t.same(wrong, [], 'all pages of one epoch, whenever one looks')
  t.ok(isWhole(set.pages.get('big')!.values))
  await bus.delete('big')
  await set.until(bus.epoch)
  t.same([...set.pages.keys()].sort(), ['n', 'twice'])
})

t.test('patterns match as the server has them', async (t) => {
  const names = ['a', 'ab', 'abc', 'b', 'a.b', 'a.b.c', 'aXbXa', 'aa']
  for (const pattern of ['a', '*', 'a*', '*a', 'a*a', '*b*', 'a*b*c', 'a**', 'ab*b', '*.b*', 'aa*a'])
    for (const name of names)
      t.equal(matches(pattern, name), patternSet([pattern]).matches(name), `${pattern} ${name}`)
})
