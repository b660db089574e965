/** What requests leave in the audit trail. */
import t from 'tap'
import { isProblem, type Served, SOURCE } from '../helpers.js'
import { ALL, audited } from './audited.js'

const derived = (input: string): object => ({ derive: { op: 'map', inputs: { a: input }, expr: 'a + 1' } })

t.test('definitions, deletions, functions and admin actions have a line each', async (t) => {
  const { call, written } = await audited(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  t.match(await written(), [
    {
      action: 'createPage',
      outcome: 'done',
      pages: ['a'],
      epoch: 1,
      ip: '127.0.0.1',
      requestId: /^[0-9a-f-]{36}$/,
    },
  ])
  await call('POST', '/v1/pages', {
    pages: [
      { name: 'b', ...derived('a') },
      { name: 'c', ...derived('b') },
    ],
  })
  t.match(await written(), [{ action: 'createPages', outcome: 'done', pages: ['b', 'c'], epoch: 2 }])
  await call('PUT', '/v1/pages/other', derived('a'))
  await call('PUT', '/v1/functions/f', { params: ['x'], expr: 'x' })
  await call('DELETE', '/v1/functions/f')
  t.match(await written(), [
    { action: 'createPage', pages: ['other'], epoch: 3 },
    { action: 'defineFunction', outcome: 'done', target: 'f', epoch: 4 },
    { action: 'deleteFunction', outcome: 'done', target: 'f', epoch: 5 },
  ])
  await call('DELETE', '/v1/pages/b')
  t.match(await written(), [{ action: 'deletePage', outcome: 'refused', pages: ['b'], code: 'PAGE_IN_USE' }])
  await call('DELETE', '/v1/pages/b?cascade=true')
  t.match(await written(), [{ action: 'deletePage', outcome: 'done', pages: ['c', 'b'], epoch: 6 }])
  await call('POST', '/v1/checkpoints')
  await call('GET', '/v1/checkpoints')
  await call('POST', '/v1/verify', {})
  await call('DELETE', '/v1/subscriptions/none')
  t.match(await written(), [
    { action: 'createCheckpoint', outcome: 'done', epoch: 6 },
    { action: 'listCheckpoints', outcome: 'done' },
    { action: 'verifyLog', outcome: 'done' },
    { action: 'deleteSubscription', outcome: 'refused', target: 'none', code: 'NOT_FOUND' },
  ])
})

t.test('bad requests have a line, with what they asked for', async (t) => {
  const { call, written } = await audited(t)
  await call('PUT', '/v1/pages/a', { dtype: 'f33' })
  await call('PUT', '/v1/pages/a', '{"dtype":')
  await call('PUT', `/v1/pages/${'n'.repeat(400)}`, SOURCE)
  await call('POST', '/v1/pages', { pages: [{ name: 7 }, 'x', { name: 'b' }] })
  t.match(await written(), [
    { action: 'createPage', outcome: 'refused', pages: ['a'], code: 'INVALID_REQUEST' },
    { action: 'createPage', outcome: 'refused', pages: ['a'], code: 'INVALID_REQUEST' },
    { action: 'createPage', outcome: 'refused', pages: [/^n{256}\.\.\.$/], code: 'INVALID_REQUEST' },
    { action: 'createPages', outcome: 'refused', pages: ['b'], code: 'INVALID_REQUEST' },
  ])
  await call('PUT', '/v1/pages/a', SOURCE, { host: 'evil.example' })
  t.same(await written(), [], 'nothing of those who do not get in')
})

t.test('reads have none, and writes have them on request', async (t) => {
  const { call, written } = await audited(t)
  const work = async ({ call }: Pick<Served, 'call'>): Promise<void> => {
    await call('PATCH', '/v1/pages/a/data', { offset: 0, values: [1] })
    await call('PUT', '/v1/pages/a/data', { values: [1, 2, 3, 4] })
    await call('POST', '/v1/transactions', { ops: [{ page: 'a', offset: 0, values: [2] }] })
    await call('PATCH', '/v1/pages/none/data', { offset: 0, values: [1] })
    await call('POST', '/v1/whatif', { ops: [{ page: 'a', offset: 0, values: [2] }], read: ['a'] })
    for (const url of ['/v1/pages', '/v1/pages/a', '/v1/pages/a/data', '/v1/stats', '/livez', '/nowhere'])
      await call('GET', url)
  }
  await call('PUT', '/v1/pages/a', SOURCE)
  await written()
  await work({ call })
  t.same(await written(), [])
  const writing = await audited(t, { withWrites: true })
  await writing.call('PUT', '/v1/pages/a', SOURCE)
  await writing.written()
  await work(writing)
  t.match(await writing.written(), [
    { action: 'patchPage', outcome: 'done', pages: ['a'], epoch: 2 },
    { action: 'writePage', outcome: 'done', pages: ['a'], epoch: 3 },
    { action: 'commitTransaction', outcome: 'done', pages: ['a'], epoch: 4 },
    { action: 'patchPage', outcome: 'refused', pages: ['none'], code: 'PAGE_NOT_FOUND' },
  ])
})

t.test('a line names its principal; what it may not do has one too', async (t) => {
  const { call, written, as } = await audited(t, {
    principals: { boss: ALL, desk: ['read:d.*', 'define:d.*'] },
  })
  await call('PUT', '/v1/pages/d.a', SOURCE, as('desk'))
  await call('PUT', '/v1/pages/e.a', SOURCE, as('desk'))
  await call('POST', '/v1/checkpoints', undefined, as('desk'))
  await call('PUT', '/v1/functions/f', { params: ['x'], expr: 'x' }, as('desk'))
  await call('POST', '/v1/tickets', undefined, as('boss'))
  t.match(await written(), [
    { principal: 'desk', requestId: 'of-desk', action: 'createPage', outcome: 'done', pages: ['d.a'] },
    { principal: 'desk', action: 'createPage', outcome: 'refused', pages: ['e.a'], code: 'PAGE_NOT_FOUND' },
    { principal: 'desk', action: 'createCheckpoint', outcome: 'refused', code: 'FORBIDDEN' },
    { principal: 'desk', action: 'defineFunction', outcome: 'refused', target: 'f', code: 'FORBIDDEN' },
    { principal: 'boss', requestId: 'of-boss', action: 'createTicket', outcome: 'done' },
  ])
})

t.test('refused logins are counted, in few lines, without the credentials', async (t) => {
  const { call, written, as, auditor } = await audited(t, { principals: { boss: ALL } })
  const wrong = { authorization: 'Bearer mmsb_boss_hush', 'x-request-id': 'w' }
  await call('PUT', '/v1/pages/a', SOURCE, wrong)
  await call('GET', '/v1/pages', undefined, wrong)
  await call('GET', '/v1/events?pages=*&ticket=hush', undefined, wrong)
  const lines = await written()
  const refused = {
    action: 'login',
    outcome: 'refused',
    ip: '127.0.0.1',
    requestId: 'w',
    code: 'UNAUTHORIZED',
  }
  t.match(lines, [refused, refused, refused])
  t.notMatch(JSON.stringify(lines), /hush/)
  for (let i = 0; i < 100; i++) await call('GET', '/v1/pages', undefined, wrong)
  t.equal((await written()).length, 2)
  t.equal(auditor.counts.refusedLogins, 103)
  await auditor.close()
  t.match((await written()).at(0), { ...refused, requestId: undefined, count: 98 })
  const { raw } = await call('GET', '/metrics', undefined, as('boss'))
  t.equal(raw.length > 0, true)
})

t.test('closed: an action begins once its line is durable, or it does not', async (t) => {
  const { call, written, fault, bus, auditor } = await audited(t, { fail: 'closed' })
  await call('PUT', '/v1/pages/a', SOURCE)
  t.match(await written(), [
    { action: 'createPage', outcome: 'begun', pages: ['a'] },
    { action: 'createPage', outcome: 'done', pages: ['a'], epoch: 1 },
  ])
  fault.isOn = true
  const { digest } = bus.status()
  for (const [method, url, body] of [
    ['PUT', '/v1/pages/b', SOURCE],
    ['POST', '/v1/pages', { pages: [{ name: 'c', ...SOURCE }] }],
    ['DELETE', '/v1/pages/a', undefined],
    ['PUT', '/v1/functions/f', { params: ['x'], expr: 'x' }],
    ['POST', '/v1/checkpoints', undefined],
    ['POST', '/v1/verify', {}],
  ] as const)
    isProblem(t, await call(method, url, body), 'AUDIT_FAILED', `${method} ${url}`)
  t.equal(
    (await call('PATCH', '/v1/pages/a/data', { offset: 0, values: [1] })).status,
    200,
    'other work goes on',
  )
  t.equal((await call('GET', '/v1/pages')).status, 200)
  t.equal(bus.epoch, 2)
  t.not(bus.status().digest, digest)
  t.same(
    [...bus.pages().pages].map(({ name }) => name),
    ['a'],
  )
  t.equal(auditor.counts.lost, 12)
  fault.isOn = false
  t.equal((await call('DELETE', '/v1/pages/a')).status, 200)
  t.match(await written(), [
    { action: 'auditLost', count: 12 },
    { action: 'deletePage', outcome: 'begun' },
    { action: 'deletePage', outcome: 'done', pages: ['a'], epoch: 3 },
  ])
})

t.test('open: nobody waits, and metrics say what is lost', async (t) => {
  const { call, written, fault } = await audited(t)
  fault.isOn = true
  t.equal((await call('PUT', '/v1/pages/a', SOURCE)).status, 201)
  fault.isOn = false
  await call('PUT', '/v1/pages/b', SOURCE)
  t.match(await written(), [{ action: 'auditLost', outcome: 'failed', count: 1 }, { pages: ['b'] }])
  const metrics = (await call('GET', '/metrics')).raw.toString()
  t.match(metrics, /^mmsb_audit_lost_total 1$/m)
  t.match(metrics, /^mmsb_audit_lines_total 3$/m)
  t.match(metrics, /^mmsb_refused_logins_total 0$/m)
})
