/**
 * What a client does when the server behind its address has another history: the same pages and the same
 * epoch numbers, but other bytes.
 */
import t, { type Test } from 'tap'
import type { ClientOptions } from '../../../src/client/client.js'
import { type Client, connect } from '../../../src/client/node.js'
import type { Bus } from '../../../src/index.js'
import { listen, serve } from '../../http/helpers.js'
import { folder } from '../../lib/folder.js'
import { until } from '../../lib/wait.js'
import { type CuttingProxy, startProxy } from '../proxy.js'

const PROTOCOLS = ['binary', 'json'] as const

interface Pair {
  readonly first: Bus
  readonly second: Bus
  readonly proxy: CuttingProxy
  client(options?: ClientOptions): Client
  /** From now on the proxy leads to the second server. */
  swap(): void
}

/** Two servers with one page; a proxy leads to the first. The second has the page under another id. */
async function pair(t: Test): Promise<Pair> {
  const one = await serve(t, { dataDir: folder(t), fsync: 'off' })
  const two = await serve(t, { dataDir: folder(t), fsync: 'off' })
  const ports = [(await listen(one)).port, (await listen(two)).port] as const
  await one.bus.create('a', { dtype: 'i32', shape: [4] })
  await two.bus.create('other', { dtype: 'i32', shape: [4] })
  await two.bus.create('a', { dtype: 'i32', shape: [4] })
  await one.bus.write('a', [1, 1, 1, 1])
  await one.bus.write('a', [2, 2, 2, 2])
  await two.bus.write('a', [7, 7, 7, 7])
  const proxy = await startProxy(t, ports[0])
  return {
    first: one.bus,
    second: two.bus,
    proxy,
    client: (options = {}) => {
      const made = connect(proxy.url, options)
      t.teardown(() => made.close())
      return made
    },
    swap: () => {
      proxy.target = ports[1]
      proxy.cut()
    },
  }
}

for (const protocol of PROTOCOLS) {
  t.test(`${protocol}: a mirror loads again and says so`, async (t) => {
    const { first, second, client, swap } = await pair(t)
    const mirror = await client({ protocol }).mirror('a')
    const told: string[] = []
    mirror.onHistoryChange(({ code }) => told.push(code))
    const end = mirror.onHistoryChange(() => told.push('a listener that was ended'))
    end()
    t.same([...mirror.values], [2, 2, 2, 2])
    t.equal(mirror.epoch, second.epoch, 'both have the same epoch, with other bytes')
    const waiting = mirror.until(first.epoch + 1)
    swap()
    await t.rejects(waiting, { code: 'HISTORY_CHANGED', extra: { history: second.historyId } })
    await until(() => mirror.values[0] === 7, 'the pages of the other history')
    t.same([...mirror.values], [7, 7, 7, 7])
    t.same(told, ['HISTORY_CHANGED'])
    const { epoch } = await second.write('a', [8, 8, 8, 8])
    await mirror.until(epoch)
    t.same([...mirror.values], [8, 8, 8, 8])
  })

  t.test(`${protocol}: a subscription ends with HISTORY_CHANGED; a snapshot is the way on`, async (t) => {
    const { first, second, client, swap } = await pair(t)
    const made = client({ protocol })
    const changes = made.subscribe({ pages: ['a'], from: 0 })
    for (let i = 0; i < 3; i++) await changes.next()
    t.equal(changes.epoch, first.epoch)
    const next = changes.next()
    swap()
    await t.rejects(next, { code: 'HISTORY_CHANGED', extra: { history: second.historyId } })
    const again = made.subscribe({ pages: ['a'], from: 'snapshot' })
    t.match((await again.next()).value, { type: 'snapshot', changes: [{ page: 'a', values: [7, 7, 7, 7] }] })
  })

  t.test(`${protocol}: an epoch of another history is not resumed from`, async (t) => {
    const { first, second, client, swap } = await pair(t)
    const history = first.historyId
    swap()
    const made = client({ protocol })
    const changes = made.subscribe({ pages: ['a'], from: 1, history })
    await t.rejects(changes.next(), { code: 'HISTORY_CHANGED', extra: { history: second.historyId } })
    const fine = made.subscribe({ pages: ['a'], from: 2, history: second.historyId })
    t.match((await fine.next()).value, { epoch: 3, changes: [{ values: [7, 7, 7, 7] }] })
  })

  t.test(`${protocol}: writes are repeated on another history only under their own key`, async (t) => {
    const { first, second, proxy, client, swap } = await pair(t)
    const writer = client({ protocol }).writer()
    await writer.patch('a', { values: [3] })
    t.equal(first.read('a')[0], 3)
    proxy.freeze()
    const values = Int32Array.of(5)
    const plain = writer.patch('a', { values })
    const keyed = writer.transact({ ops: [{ page: 'a', offset: 1, values }] }, { key: 'mine' })
    plain.catch(() => {})
    keyed.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 50))
    proxy.thaw()
    swap()
    await t.rejects(plain, { code: 'HISTORY_CHANGED' })
    t.match(await keyed, { epoch: 4 })
    t.same([...second.read('a')], [7, 5, 7, 7], 'written to the page of this name')
    t.same([...second.read('other')], [0, 0, 0, 0], 'not to the page that has its old id')
    await writer.patch('a', { offset: 2, values: [9] })
    t.same([...second.read('a')], [7, 5, 9, 7], 'the writer goes on')
  })
}
