/**
 * What a principal may not read does not exist for it. Random requests of a narrow principal name pages of
 * somebody else, and are then repeated with the names of pages that never were: the answers must be the same.
 * Nothing that is answered contains a name or a value of a foreign page. MMSB_FOREIGN_REQUESTS sets how many
 * requests are sent.
 */
import t from 'tap'
import { Draw } from '../lib/draw.js'
import { serveTo } from './helpers.js'

const REQUESTS = Number(process.env.MMSB_FOREIGN_REQUESTS ?? 300)
const SEED = Number(process.env.MMSB_FOREIGN_SEED ?? 1)
/** No other number of an answer is like this one. */
const SECRET = 918_273_645

interface Sent {
  readonly method: 'GET' | 'PUT' | 'PATCH' | 'POST' | 'DELETE'
  readonly url: string
  readonly body?: object
}

/** Foreign pages, and names of the same length that no page ever had. */
const FOREIGN = ['their.src', 'their.map', 'their.sum', 'their.old', 'their.fun']
const NEVER = FOREIGN.map((name) => name.replace('their', 'never'))

const delta = { offset: 0, values: [SECRET + 1] }

function draw(random: Draw, name: () => string): Sent {
  const one = name()
  const other = name()
  const epoch = random.int(0, 14)
  const query = random.pick(['', `?epoch=${epoch}`, '?offset=1', '?count=1'])
  const derive = { op: 'map', inputs: { a: one, b: other }, expr: 'a + b' }
  return random.pick<() => Sent>([
    () => ({ method: 'GET', url: `/v1/pages/${one}` }),
    () => ({ method: 'GET', url: `/v1/pages/${one}/data${query}` }),
    () => ({
      method: 'GET',
      url: `/v1/read?pages=${one},${other}${random.chance(0.5) ? `&epoch=${epoch}` : ''}`,
    }),
    () => ({ method: 'GET', url: `/v1/pages/${one}/history?from=${epoch}` }),
    () => ({ method: 'GET', url: `/v1/epochs?page=${one}` }),
    () => ({ method: 'GET', url: `/v1/epochs?source=${random.pick(['owner', 'mine', 'x'])}` }),
    () => ({ method: 'GET', url: `/v1/epochs/${epoch}` }),
    () => ({ method: 'GET', url: `/v1/epochs?from=${epoch}&limit=${random.int(1, 9)}` }),
    () => ({ method: 'GET', url: `/v1/diff?from=${epoch}&pages=${one},${other}` }),
    () => ({ method: 'GET', url: `/v1/diff?from=${epoch}` }),
    () => ({
      method: 'GET',
      url: `/v1/pages?prefix=${one.slice(0, random.int(0, 9))}&limit=${random.int(1, 5)}`,
    }),
    () => ({ method: 'GET', url: `/v1/graph?format=${random.pick(['json', 'dot', 'mermaid'])}` }),
    () => ({
      method: 'GET',
      url: random.pick(['/v1/stats', '/v1/status', '/v1/functions', '/v1/subscriptions']),
    }),
    () => ({ method: 'GET', url: `/v1/functions/${random.pick(['theirs_f', 'mine_f', 'none'])}` }),
    () => ({ method: 'PATCH', url: `/v1/pages/${one}/data`, body: delta }),
    () => ({ method: 'PUT', url: `/v1/pages/${one}/data`, body: { values: [1, 2] } }),
    () => ({ method: 'POST', url: '/v1/transactions', body: { ops: [{ page: one, ...delta }] } }),
    () => ({
      method: 'POST',
      url: '/v1/transactions',
      body: { ops: [{ page: 'mine.src', ...delta }], expect: [{ page: one, version: epoch }] },
    }),
    () => ({ method: 'POST', url: '/v1/whatif', body: { ops: [{ page: one, ...delta }], read: [other] } }),
    () => ({
      method: 'POST',
      url: '/v1/whatif',
      body: { ops: [{ page: 'mine.src', ...delta }], read: [one] },
    }),
    () => ({ method: 'PUT', url: `/v1/pages/${one}`, body: { dtype: 'f64', shape: [2] } }),
    () => ({ method: 'PUT', url: '/v1/pages/mine.x', body: { derive } }),
    () => ({ method: 'POST', url: '/v1/pages', body: { pages: [{ name: 'mine.y', derive }] } }),
    () => ({ method: 'DELETE', url: `/v1/pages/${one}${random.pick(['', '?cascade=true'])}` }),
    () => ({ method: 'DELETE', url: `/v1/pages/mine.src${random.pick(['', '?cascade=true'])}` }),
  ])()
}

/** What differs between two equal requests: where they were sent, and when. */
const plain = (text: string): string =>
  text
    .replaceAll('never.', 'their.')
    .replace(/"(uptimeMs|epoch)":\d+/g, '')
    .replace(/"(p50|p99|max|count)":[\d.]+/g, '')

t.setTimeout(30_000 + 60 * REQUESTS)

t.test('a foreign page answers as one that never was', async (t) => {
  const { bus, inject, as } = await serveTo(t, {
    narrow: ['read:mine.*', 'write:mine.*', 'define:mine.*', 'history:*'],
  })
  await bus.create('mine.src', { dtype: 'f64', shape: [2] })
  await bus.create('their.src', { dtype: 'f64', shape: [2], fill: SECRET })
  await bus.defineFunction('theirs_f', { params: ['x'], expr: 'x + 1' })
  await bus.defineFunction('mine_f', { params: ['x'], expr: 'x + 2' })
  await bus.derive('their.map', { op: 'map', inputs: { a: 'their.src' }, expr: 'a' })
  await bus.derive('their.sum', { op: 'reduce', inputs: { x: 'their.src' }, fn: 'sum' })
  await bus.derive('their.fun', { op: 'map', inputs: { a: 'their.src' }, expr: 'theirs_f(a)' })
  // Both ways: foreign pages derive from the principal's, and its own from foreign ones.
  await bus.derive('their.old', { op: 'map', inputs: { a: 'mine.src' }, expr: `mine_f(a) + ${SECRET}` })
  await bus.derive('mine.fun', { op: 'map', inputs: { a: 'mine.src' }, expr: 'mine_f(a)' })
  await bus.derive('mine.mix', { op: 'map', inputs: { a: 'mine.src', b: 'their.src' }, expr: 'a - b + b' })
  const both = [
    { page: 'mine.src', values: [1, 2] },
    { page: 'their.src', values: [SECRET, SECRET] },
  ]
  await bus.transact({ ops: both, source: 'owner', intent: { about: 'their.src' } })
  await bus.transact({ ops: [{ page: 'their.src', values: [SECRET, 3] }], source: 'owner' })

  const random = new Draw(SEED)
  const statuses = new Map<number, number>()
  for (let i = 0; i < REQUESTS; i++) {
    const seed = random.int(0, 2 ** 30)
    const ask = async (names: readonly string[]): Promise<{ status: number; text: string; url: string }> => {
      const drawn = new Draw(seed)
      const own = new Draw(seed + 1)
      const { method, url, body } = draw(drawn, () => (own.chance(0.2) ? 'mine.src' : own.pick(names)))
      const answer = await inject({
        method,
        url,
        headers: { ...as('narrow'), ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
        ...(body === undefined ? {} : { payload: JSON.stringify(body) }),
      })
      return { status: answer.statusCode, text: answer.body, url: `${method} ${url} ${JSON.stringify(body)}` }
    }
    const before = bus.epoch
    const [foreign, never] = [await ask(FOREIGN), await ask(NEVER)]
    statuses.set(foreign.status, (statuses.get(foreign.status) ?? 0) + 1)
    const asked = [...FOREIGN, 'theirs_f'].filter((name) => foreign.url.includes(name))
    const unasked = asked.reduce((text, name) => text.replaceAll(name, ''), foreign.text)
    if (/their\.|theirs_f|owner/.test(unasked) || unasked.includes(String(SECRET)))
      t.fail(`seed ${seed}: ${foreign.url} shows a foreign name or value: ${foreign.text}`)
    // A write of the principal's own page changes what the second request finds.
    if (
      bus.epoch === before &&
      (foreign.status !== never.status || plain(foreign.text) !== plain(never.text))
    )
      t.fail(`seed ${seed}: ${foreign.url}\n${foreign.status} ${foreign.text}\n${never.status} ${never.text}`)
  }
  t.comment(`answers by status: ${JSON.stringify([...statuses])}`)
  t.ok((statuses.get(200) ?? 0) > REQUESTS / 20, 'many requests succeed')
  t.ok((statuses.get(404) ?? 0) > REQUESTS / 5, 'many pages are not there')
})
