/**
 * Invalid arguments of writers, subscriptions and mirrors: each such call is refused with a code and a
 * sentence that names the argument, and disturbs no other.
 */
import t from 'tap'
import { code, started } from '../started.js'

/** Values that the types forbid. */
const wrong = (value: unknown): never => value as never
const circular: Record<string, unknown> = {}
circular.self = circular

const DELTAS: readonly (readonly [delta: unknown, code: string, says: RegExp])[] = [
  [undefined, 'INVALID_REQUEST', /delta/],
  [null, 'INVALID_REQUEST', /delta/],
  [{}, 'INVALID_DELTA', /values/],
  [{ values: undefined }, 'INVALID_DELTA', /values/],
  [{ values: null }, 'INVALID_DELTA', /values/],
  [{ values: 7 }, 'INVALID_DELTA', /values: 7/],
  [{ values: true }, 'INVALID_DELTA', /values: true/],
  [{ values: '12' }, 'INVALID_DELTA', /values: "12"/],
  [{ values: {} }, 'INVALID_DELTA', /values/],
  [{ values: { length: 1 } }, 'INVALID_DELTA', /values/],
  [{ values: new Set([1]) }, 'INVALID_DELTA', /values.*Set/],
  [{ values: new ArrayBuffer(8) }, 'INVALID_DELTA', /values.*ArrayBuffer/],
  [{ values: new DataView(new ArrayBuffer(8)) }, 'INVALID_DELTA', /values.*DataView/],
  [{ values: Float32Array.of(1) }, 'INVALID_DELTA', /Float32Array.*f64/],
  [{ values: ['1.5'] }, 'INVALID_DELTA', /values\[0\]/],
  [{ values: [1, 2, 3, 4, 5] }, 'INVALID_DELTA', /past the end/],
  [{ values: [1], offset: 1.5 }, 'INVALID_REQUEST', /offset: 1.5/],
  [{ values: [1], offset: 1n }, 'INVALID_REQUEST', /offset: 1/],
  [{ values: [1], indices: [1n] }, 'INVALID_REQUEST', /indices\[0\]/],
  [{ values: [1], indices: 3 }, 'INVALID_REQUEST', /indices: 3/],
  [{ values: [1], mask: [2, 0] }, 'INVALID_REQUEST', /mask/],
  [{ values: [1], merge: 5 }, 'INVALID_REQUEST', /merge/],
  [{ values: [1], unknown: 5 }, 'INVALID_REQUEST', /unknown/],
  [{ octets: new Uint8Array(8) }, 'INVALID_REQUEST', /octets/],
]

const OPS = [{ page: 'a', values: [9] }]
const TRANSACTIONS: readonly (readonly [transaction: unknown, options: unknown, says: RegExp])[] = [
  [undefined, {}, /transaction/],
  [null, {}, /transaction/],
  [{}, {}, /ops/],
  [{ ops: 'a' }, {}, /ops: "a"/],
  [{ ops: [null] }, {}, /ops\[0\]/],
  [{ ops: [{ values: [1] }] }, {}, /ops\[0\]\.page/],
  [{ ops: OPS, expect: 5 }, {}, /expect: 5/],
  [{ ops: OPS, expect: [null] }, {}, /expect\[0\]/],
  [{ ops: OPS, expect: [{ page: 'a', version: 'x' }] }, {}, /version: "x"/],
  [{ ops: OPS, expect: [{ page: 'a' }] }, {}, /version/],
  [{ ops: OPS, expect: [{ version: 1 }] }, {}, /page/],
  [{ ops: OPS, source: 5 }, {}, /source: 5/],
  [{ ops: OPS, intent: circular }, {}, /intent|cannot be sent/],
  [{ ops: OPS, intent: 5n }, {}, /intent|cannot be sent/],
  [{ ops: OPS, unknown: 1 }, {}, /unknown/],
  [{ ops: OPS }, null, /options/],
  [{ ops: OPS }, { key: 5 }, /key: 5/],
  [{ ops: OPS }, { key: '' }, /key/],
]

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: what is wrong is refused alone, and the writer goes on`, async (t) => {
    const { bus, client } = await started(t)
    await bus.create('a', { dtype: 'f64', shape: [4] })
    const writer = client({ protocol }).writer()
    const under = [writer.patch('a', { values: [1] })]
    for (const [delta, code, detail] of DELTAS) {
      await t.rejects(writer.patch('a', wrong(delta)), { code, detail }, `patch ${String(detail)}`)
      under.push(writer.patch('a', { offset: 1, values: [1], merge: 'add' }))
    }
    for (const [transaction, options, detail] of TRANSACTIONS) {
      const expected = { code: 'INVALID_REQUEST', detail }
      await t.rejects(
        writer.transact(wrong(transaction), wrong(options)),
        expected,
        `transact ${String(detail)}`,
      )
    }
    await t.rejects(writer.patch(wrong(null), { values: [1] }), {
      code: 'INVALID_REQUEST',
      detail: /page: null/,
    })
    await t.rejects(writer.patch(wrong(undefined), wrong(undefined)), code('INVALID_REQUEST'))
    await Promise.all(under)
    t.same(bus.read('a'), Float64Array.of(1, DELTAS.length, 0, 0), 'what was right, and nothing else')
    await writer.close()
    await t.rejects(writer.patch('a', { values: [1] }), { code: 'CLOSED', detail: /writer/ })
  })

  t.test(
    `${protocol}: a page that was replaced by a larger one, of another dtype, is asked for again`,
    async (t) => {
      const { bus, client } = await started(t)
      await bus.create('a', { dtype: 'f64', shape: [1] })
      const writer = client({ protocol }).writer()
      await writer.patch('a', { values: Float64Array.of(1) })
      await bus.delete('a')
      await bus.create('a', { dtype: 'f32', shape: [2] })
      await writer.patch('a', { values: Float32Array.of(1, 2) })
      t.same(bus.read('a'), Float32Array.of(1, 2))
      await bus.delete('a')
      await t.rejects(writer.patch('a', { values: Float64Array.of(1) }), code('PAGE_NOT_FOUND'))
    },
  )
}

const OPTIONS: readonly (readonly [options: unknown, says: RegExp])[] = [
  [undefined, /options/],
  [null, /options/],
  ['a', /options: "a"/],
  [{}, /pages/],
  [{ pages: 'a' }, /pages: "a"/],
  [{ pages: [5] }, /pages\[0\]: 5/],
  [{ pages: ['a'], from: 'then' }, /from: "then"/],
  [{ pages: ['a'], from: Number.NaN }, /from: NaN/],
  [{ pages: ['a'], from: 1.5 }, /from: 1.5/],
  [{ pages: ['a'], data: 'all' }, /data: "all"/],
  [{ pages: ['a'], policy: 5 }, /policy: 5/],
  [{ pages: ['a'], maxRate: 0 }, /maxRate: 0/],
  [{ pages: ['a'], slice: 5 }, /slice: 5/],
  [{ pages: ['a'], slice: { a: [0, 1] } }, /slice\.a/],
  [{ pages: ['a'], durable: 5 }, /durable: 5/],
  [{ pages: ['a'], signal: {} }, /signal/],
  [{ pages: ['a'], unknown: 1 }, /unknown/],
]

t.test('wrong options of a subscription; commits that mean nothing leave it as it was', async (t) => {
  const { bus, client } = await started(t)
  await bus.create('a', { dtype: 'u8', shape: [2] })
  const mine = client()
  for (const [options, detail] of OPTIONS) {
    t.throws(() => mine.subscribe(wrong(options)), { code: 'INVALID_REQUEST', detail }, String(detail))
  }
  const plain = mine.subscribe({ pages: ['a'], from: 0 })
  await t.rejects(plain.commit(), { code: 'INVALID_REQUEST', detail: /not durable/ })
  await plain.next()
  await t.rejects(plain.commit(1), { code: 'INVALID_REQUEST', detail: /not durable/ })
  const durable = mine.subscribe({ pages: ['a'], durable: 'reader', from: 0 })
  await t.rejects(durable.commit(), { code: 'INVALID_REQUEST', detail: /nothing has been delivered yet/ })
  await durable.next()
  for (const epoch of ['x', 1.5, -1, Number.NaN, null, 99]) {
    await t.rejects(durable.commit(wrong(epoch)), code('INVALID_REQUEST'), `commit(${epoch})`)
  }
  await durable.commit()
  await bus.patch('a', { values: [1] })
  t.equal((await durable.next()).value.epoch, 2, 'it is alive')
  t.equal((await plain.next()).value.epoch, 2)
  durable.close()
  await t.rejects(durable.commit(), { code: 'CLOSED', detail: /subscription/ })
})

t.test('wrong arguments of mirrors; what is said after one was closed', async (t) => {
  const { bus, client } = await started(t)
  await bus.create('a', { dtype: 'u8', shape: [2] })
  const mine = client()
  await t.rejects(mine.mirrorAll(wrong('a')), { code: 'INVALID_REQUEST', detail: /patterns: "a"/ })
  await t.rejects(mine.mirrorAll([wrong(null)]), { code: 'INVALID_REQUEST', detail: /patterns\[0\]: null/ })
  await t.rejects(mine.mirror('a', wrong(null)), { code: 'INVALID_REQUEST', detail: /options/ })
  await t.rejects(mine.mirror('a', wrong({ maxRate: 'x' })), {
    code: 'INVALID_REQUEST',
    detail: /maxRate: "x"/,
  })
  await t.rejects(mine.mirror('a', wrong({ signal: {} })), { code: 'INVALID_REQUEST', detail: /signal/ })
  const mirror = await mine.mirror('a')
  for (const epoch of ['x', 1.5, Number.NaN, undefined, null]) {
    await t.rejects(
      mirror.until(wrong(epoch)),
      { code: 'INVALID_REQUEST', detail: /until/ },
      `until(${epoch})`,
    )
  }
  await t.rejects(mirror.until(99, wrong(null)), { code: 'INVALID_REQUEST', detail: /options/ })
  t.throws(() => mirror.onChange(wrong(5)), { code: 'INVALID_REQUEST', detail: /listener: 5/ })
  await mirror.until((await bus.patch('a', { values: [7] })).epoch)
  t.equal(mirror.values[0], 7)
  mirror.close()
  await t.rejects(mirror.until(99), { code: 'CLOSED', detail: /mirror/ })
  const other = await mine.mirror('a')
  await mine.close()
  await t.rejects(other.until(99), { code: 'CLOSED', detail: /client/ })
})

t.test('what a listener throws is uncaught, and ends nothing', async (t) => {
  const { bus, client } = await started(t)
  await bus.create('a', { dtype: 'u8', shape: [2] })
  const mine = client()
  const mirror = await mine.mirror('a')
  const subscription = mine.subscribe({ pages: ['a'], from: bus.epoch })
  const next = subscription.next()
  const uncaught: unknown[] = []
  const fault = new Error('of the listener')
  t.intercept(globalThis, 'queueMicrotask', {
    value: (run: () => void) =>
      process.nextTick(() => {
        try {
          run()
        } catch (error) {
          uncaught.push(error)
        }
      }),
  })
  const told: number[] = []
  mirror.onChange(() => {
    throw fault
  })
  mirror.onChange(({ epoch }) => told.push(epoch))
  for (const value of [1, 2]) await mirror.until((await bus.patch('a', { values: [value] })).epoch)
  t.same(told, [2, 3])
  t.same(uncaught, [fault, fault])
  t.equal((await next).value.epoch, 2)
})
