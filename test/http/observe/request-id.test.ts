/** The id of a request: in the answer, in an error, and in the log. */
import t from 'tap'
import { newRequestId, requestIdOf } from '../../../src/http/observe/request-id.js'
import { listen, serve } from '../helpers.js'

const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

t.test('new ids are UUIDs of version 7, ascend, and are all different', async (t) => {
  const beforeMs = Date.now()
  const ids = Array.from({ length: 50_000 }, newRequestId)
  t.ok(ids.every((id) => UUID7.test(id)))
  t.equal(new Set(ids).size, ids.length)
  t.same([...ids].sort(), ids)
  const timeMs = Number.parseInt((ids[0] as string).replace('-', '').slice(0, 12), 16)
  t.ok(timeMs >= beforeMs && timeMs <= Date.now() + 1000, 'the time is that of now')
})

t.test('an id that is given is taken, if it is sane', async (t) => {
  const idOf = (id: string | string[] | undefined): string =>
    requestIdOf({ headers: { 'x-request-id': id } } as never)
  for (const id of ['a', '0af7651916cd43dd8448eb211c80319c', 'edge-1:2026/12/01.7', 'x'.repeat(128)])
    t.equal(idOf(id), id)
  const odd = [
    '',
    ' ',
    'x'.repeat(129),
    'a b',
    'a"b',
    'a,b',
    '-x',
    'ä',
    'a\nb',
    '<script>',
    ['a', 'b'],
    undefined,
  ]
  for (const id of odd) t.match(idOf(id), UUID7, JSON.stringify(id))
})

t.test('answers, errors and refusals carry it', async (t) => {
  const served = await serve(t)
  const idOf = async (url: string, headers = {}): Promise<unknown> =>
    (await served.inject({ url, headers })).headers['x-request-id']
  for (const url of [
    '/livez',
    '/v1/pages',
    '/v1/pages/none',
    '/nowhere',
    '/v1/pages/%zz',
    `/v1/pages/${'x'.repeat(2000)}/data`,
  ]) {
    t.match(await idOf(url), UUID7, url)
    t.equal(await idOf(url, { 'x-request-id': 'mine' }), 'mine', url)
  }
  t.equal(await idOf('/livez', { host: 'evil.example', 'x-request-id': 'mine' }), 'mine')
  const { url } = await listen(served)
  const events = await fetch(`${url}/v1/events?pages=*`, { headers: { 'x-request-id': 'mine' } })
  t.equal(events.headers.get('x-request-id'), 'mine', 'and so do event streams')
  await events.body?.cancel()
})

t.test(
  'new random bits begin each millisecond, and each run of ids that is as long as the counter',
  async (t) => {
    const tails = new Set<string>()
    // More runs than random bits are taken from the system at once for.
    const runs = 600
    for (let i = 0; i < runs * 4096; i++) {
      const id = newRequestId()
      if (i % 4096 === 0) tails.add(id.slice(19))
    }
    t.ok(tails.size >= runs - 1, `${tails.size} of ${runs}`)
  },
)
