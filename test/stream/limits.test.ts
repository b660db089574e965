/** Limits on connections, subscriptions and patterns, with readers that the test controls. */
import t from 'tap'
import { Bus } from '../../src/index.js'
import { setup } from './fakes.js'

const refused = (code: string, limit: string) => ({ code, extra: { limit } })

t.test('connections, until one is closed', async (t) => {
  const { bus, connect } = setup({ maxConnections: 2 })
  const first = connect()
  connect()
  t.throws(() => connect(), refused('OVERLOADED', '--max-connections'))
  t.equal(new Map(bus.limits.uses()).get('maxConnections'), 2)
  first.connection.close()
  first.connection.close()
  connect()
  t.throws(() => connect(), refused('OVERLOADED', '--max-connections'))
})

t.test('subscriptions of one connection and of all', async (t) => {
  const { bus, hub, connect } = setup({ maxSubscriptionsPerConnection: 2, maxSubscriptions: 3 })
  const [one, other] = [connect().connection, connect().connection]
  const [a] = [{ pages: ['a'] }]
  one.subscribe('1', a)
  one.subscribe('2', a)
  t.throws(() => one.subscribe('3', a), refused('QUOTA_EXCEEDED', '--max-subscriptions-per-connection'))
  other.subscribe('1', a)
  t.throws(() => other.subscribe('2', a), refused('OVERLOADED', '--max-subscriptions'))
  // What ends in any way counts no longer.
  one.unsubscribe('1')
  other.subscribe('2', a)
  one.close()
  t.equal(hub.stats().subscriptions, 2)
  connect().connection.subscribe('1', a)
  bus.fail('over')
  t.equal(hub.stats().subscriptions, 0)
  t.equal(new Map(bus.limits.uses()).get('maxSubscriptions'), 0)
})

t.test('patterns of one connection and of all', async (t) => {
  const { bus, connect } = setup({ maxPatternsPerConnection: 4, maxPatterns: 6 })
  const [one, other] = [connect().connection, connect().connection]
  one.subscribe('1', { pages: ['a', 'b', 'c.*'] })
  t.throws(
    () => one.subscribe('2', { pages: ['a', 'd'] }),
    refused('QUOTA_EXCEEDED', '--max-patterns-per-connection'),
  )
  other.subscribe('1', { pages: ['a', 'b', 'c'] })
  t.throws(() => other.subscribe('2', { pages: ['d'] }), refused('OVERLOADED', '--max-patterns'))
  t.equal(new Map(bus.limits.uses()).get('maxPatterns'), 6)
  one.unsubscribe('1')
  one.subscribe('3', { pages: ['d', 'e', 'f'] })
  one.unsubscribe('3')
  other.close()
  t.equal(new Map(bus.limits.uses()).get('maxPatterns'), 0)
})

t.test('windows count by their rows, before they are made', async (t) => {
  const { bus, connect } = setup({ maxPatternsPerConnection: 100 })
  const { connection, sink } = connect()
  const window = (rows: number) => ({ pages: ['new'], slice: { new: [[0, rows] as const, [0, 1] as const] } })
  connection.subscribe('1', window(64 * 50))
  t.equal(new Map(bus.limits.uses()).get('maxPatterns'), 51)
  t.throws(
    () => connection.subscribe('2', window(64 * 50)),
    refused('QUOTA_EXCEEDED', '--max-patterns-per-connection'),
  )
  connection.subscribe('3', window(64 * 47))
  t.equal(sink.types.length, 2)
  connection.close()
  t.equal(new Map(bus.limits.uses()).get('maxPatterns'), 0)
})

t.test('iterators of the library are connections too', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, limits: { maxConnections: 1 } })
  t.teardown(() => bus.close())
  const first = bus.subscribe({ pages: ['a'] })
  t.throws(() => bus.subscribe({ pages: ['a'] }), refused('OVERLOADED', '--max-connections'))
  await first.return?.()
  await bus.subscribe({ pages: ['a'] }).return?.()
})
