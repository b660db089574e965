/** Writers of one client share a connection; each promise settles with the answer to its own transaction. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Writer } from '../../../src/client/node.js'
import { code, started } from '../started.js'

const WRITES = 900
const isRefused = (i: number): boolean => i % 7 === 3

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: one writer refused, the other not: each is told its own`, async (t) => {
    const { bus, client } = await started(t)
    await bus.create('a', { dtype: 'i32', shape: [2] })
    const mine = client({ protocol })
    const [good, bad] = [mine.writer(), mine.writer()]
    const expect = [{ page: 'a', version: 0 }]
    for (const order of [0, 1]) {
      const write = () => good.patch('a', { offset: order, values: [7] })
      const wrong = () => bad.transact({ ops: [{ page: 'a', values: [99] }], expect })
      const sent = order === 0 ? [write(), wrong()] : [wrong(), write()]
      const [ours, refused] = order === 0 ? sent : sent.reverse()
      await t.rejects(refused!, code('PRECONDITION_FAILED'))
      t.match(await ours, { epoch: bus.epoch })
    }
    await bad.close()
    t.match(await good.patch('a', { values: [8] }), { epoch: bus.epoch }, 'the other one has been closed')
    t.match(await mine.writer().patch('a', { offset: 1, values: [9] }), { epoch: bus.epoch })
    t.same(bus.read('a'), Int32Array.of(8, 9))
  })

  t.test(`${protocol}: writers come and go while connections are cut: every answer is true`, async (t) => {
    const { bus, proxy, client } = await started(t)
    await bus.create('log', { dtype: 'i32', shape: [WRITES] })
    await bus.create('fixed', { dtype: 'u8', shape: [1] })
    const mine = client({ protocol })
    const writers: Writer[] = [mine.writer(), mine.writer(), mine.writer()]
    const closed: Promise<void>[] = []
    const told: Promise<string>[] = []
    /** The number of the writer of each transaction. */
    const numbers: number[] = []
    const count = [0, 1, 2]
    for (let i = 0; i < WRITES; i++) {
      const which = i % writers.length
      numbers.push(count[which]!)
      const write = writers[which]!.transact({
        source: String(i),
        ops: [{ page: 'log', offset: i, values: [1], merge: 'add' }],
        ...(isRefused(i) ? { expect: [{ page: 'fixed', version: 9999 }] } : {}),
      })
      const answer = write.then(
        () => 'durable',
        ({ code }) => code,
      )
      told.push(answer)
      if (i % 100 === 50) {
        closed.push(writers[which]!.close())
        writers[which] = mine.writer()
        count[which]! += writers.length
      }
      if (i % 150 === 120) await told[i - 20]
      if (i % 150 === 129) {
        // Those of this turn have left, and are lost on their way.
        for (let step = 0; step < 3; step++) await undefined
        proxy.cut()
      }
      if (i % 10 === 0) await sleep(1)
    }
    await Promise.all([...writers.map((writer) => writer.close()), ...closed])
    t.same(
      await Promise.all(told),
      told.map((_, i) => (isRefused(i) ? 'PRECONDITION_FAILED' : 'durable')),
    )
    t.same(
      Array.from(bus.read('log'), Number),
      told.map((_, i) => (isRefused(i) ? 0 : 1)),
      'each happened once, or not at all',
    )
    const { epochs } = await bus.epochs({ limit: 1000 })
    const decided = epochs.flatMap(({ transactions }) =>
      transactions.map(({ source }) => Number(source ?? 'of the test')),
    )
    for (const number of new Set(numbers)) {
      const calls = numbers.flatMap((of, i) => (of === number && !isRefused(i) ? [i] : []))
      t.same(
        decided.filter((i) => calls.includes(i)),
        calls,
        `writer ${number}: in the order of its calls`,
      )
    }
    t.ok(proxy.accepted > WRITES / 150, `${proxy.accepted} connections`)
  })
}
