/** The routes of durable subscriptions, over a stream hub that the library fills. */
import t from 'tap'
import { isProblem, serve } from '../helpers.js'

t.test('they are listed, described and deleted', async (t) => {
  const { bus, call } = await serve(t, { dataDir: t.testdir(), fsync: 'off' })
  t.match(await call('GET', '/v1/subscriptions'), { status: 200, body: { subscriptions: [] } })
  await bus.create('a', { dtype: 'u8', shape: [1] })
  for (const name of ['one', 'two']) {
    const reader = bus.subscribe({ pages: ['a'], durable: name, from: 'snapshot' })
    await reader.next()
    if (name === 'one') await reader.commit(1)
    await reader.return?.()
  }
  const { body } = await call('GET', '/v1/subscriptions')
  const listed = body.subscriptions as { name: string; epoch: number }[]
  t.same(
    listed.map(({ name }) => name),
    ['one', 'two'],
  )
  t.equal(listed[0]!.epoch, 1)
  t.same((await call('GET', '/v1/subscriptions/one')).body, listed[0])
  isProblem(t, await call('GET', '/v1/subscriptions/none'), 'NOT_FOUND')
  isProblem(t, await call('DELETE', '/v1/subscriptions/none'), 'NOT_FOUND')
  const deleted = await call('DELETE', '/v1/subscriptions/one')
  t.match(deleted, { status: 200, body: { name: 'one' } })
  isProblem(t, await call('GET', '/v1/subscriptions/one'), 'NOT_FOUND')
  t.match((await call('GET', '/v1/subscriptions')).body, { subscriptions: [{ name: 'two' }] })
  isProblem(t, await call('GET', '/v1/subscriptions?odd=1'), 'INVALID_REQUEST')
})
