/**
 * The client's stream against the real server, in both subprotocols, while its connections are cut at random:
 * every change arrives once, mirrors are equal to the pages of their epoch, writes take effect once.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Change } from '../../../src/client/node.js'
import type { Bus } from '../../../src/index.js'
import type { CuttingProxy } from '../proxy.js'
import { code, makePages, SIZE, started } from '../started.js'

/**
 * Writes at random offsets until `signal`; now and then deletes a page and creates another of the same name.
 */
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

/** Waits until `isSo`, also on a slow machine; if it never is, the assertions after it fail. */
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
    t.teardown(() => done.abort())
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
    await enough(() => seen.length > 150 && counted.cuts > 4)
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
    t.teardown(() => done.abort())
    const counted = { cuts: 0 }
    const work = [writeOn(bus, done.signal, 2), cutOn(proxy, done.signal, 400, counted)] as const
    await enough(() => claims.length > 80 && counted.cuts > 4)
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
    t.teardown(() => done.abort())
    const cutting = cutOn(proxy, done.signal, 300)
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
}

function equal(a: unknown, b: unknown): boolean {
  const text = (value: unknown): string =>
    JSON.stringify(value, (_, v) =>
      typeof v === 'bigint' ? `${v}n` : ArrayBuffer.isView(v) ? [...(v as Uint8Array)] : v,
    )
  return text(a) === text(b)
}
