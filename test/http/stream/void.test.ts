/**
 * Void epochs on every way to follow a bus: nobody gets a change of one, everyone passes over it, and a
 * reader whose place is a void epoch resumes there; live, from memory and from the log.
 */
import t, { type Test } from 'tap'
import type { Bus } from '../../../src/index.js'
import { folder } from '../../lib/folder.js'
import { CANCELS_AT_ONCE, fillWithVoids, openVoids, voidRound } from '../../lib/void-epochs.js'
import { Client } from '../../stream/helpers.js'
import { listen, serve } from '../helpers.js'

t.setTimeout(120_000)

/** Subscribes in the program; resolves with the changes up to an epoch that is not void. */
async function followed(bus: Bus, from: number, last: () => number): Promise<unknown[]> {
  const got: unknown[] = []
  for await (const { epoch, first, changes } of bus.subscribe({ pages: ['**'], from, data: 'values' })) {
    got.push({ epoch, first, pages: changes.map(({ page, kind }) => `${kind} ${page}`) })
    if (epoch >= last()) break
  }
  return got
}

/** The same by WebSocket. */
async function overSocket(t: Test, port: number, from: number, last: number): Promise<unknown[]> {
  const client = await Client.open(port)
  t.teardown(() => client.socket.terminate())
  await client.ask({ type: 'subscribe', id: 's', pages: ['**'], from, data: 'values' })
  await client.until(() => client.changes('s').some(({ epoch }) => epoch === last), `epoch ${last}`)
  return client.changes('s').map(({ epoch, first, changes }) => ({
    epoch,
    first,
    pages: changes!.map(({ page, kind }) => `${kind} ${page}`),
  }))
}

/** The same by server-sent events, resumed as a browser does. */
async function overEvents(url: string, from: number, last: number): Promise<unknown[]> {
  const controller = new AbortController()
  const response = await fetch(`${url}/v1/events?pages=**&data=values`, {
    headers: { 'last-event-id': String(from) },
    signal: controller.signal,
  })
  let text = ''
  for await (const chunk of response.body!) {
    text += Buffer.from(chunk).toString('utf8')
    if (new RegExp(`^id: ${last}$[^]*\\n\\n$`, 'm').test(text)) break
  }
  controller.abort()
  const messages = [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data!))
  return messages
    .filter(({ type }) => type === 'change')
    .map(({ epoch, first, changes }) => ({
      epoch,
      first,
      pages: changes.map(({ page, kind }: { page: string; kind: string }) => `${kind} ${page}`),
    }))
}

t.test('live, from memory and from the log', async (t) => {
  const dataDir = folder(t)
  const { newest: start } = await fillWithVoids(dataDir, 1)
  const served = await serve(t, { dataDir, fsync: 'off', segmentBytes: 16 * 1024, ...CANCELS_AT_ONCE })
  const { bus } = served
  const { port, url } = await listen(served)
  let last = Number.POSITIVE_INFINITY
  const live = followed(bus, start, () => last)
  const passive = await Client.open(port)
  t.teardown(() => passive.socket.terminate())
  await passive.ask({ type: 'subscribe', id: 's', pages: ['**'], from: 'now', data: 'none' })
  const voids: number[] = []
  const others: number[] = []
  const note = (isVoid: boolean): number => (isVoid ? voids : others).push(bus.epoch)
  for (let round = 2; round <= 3; round++) await voidRound(bus, round, note)
  t.ok(voids.length >= 2, `${voids.length} void epochs`)
  last = bus.epoch + 1
  await bus.patch('a', { offset: 0, values: [77] })
  others.push(last)

  const changes = (await live) as { epoch: number; first: number; pages: string[] }[]
  t.same(
    changes.map(({ epoch }) => epoch),
    others,
    'live',
  )
  for (const { pages } of changes) t.notOk(pages.some((page) => page.startsWith('created')))
  await passive.until(() => passive.changes('s').some(({ epoch }) => epoch === last))
  t.same(
    passive.changes('s').map(({ epoch }) => epoch),
    others,
    'live, by WebSocket',
  )
  const places = [start, ...voids, ...others.slice(0, 2)]
  const after = (from: number): unknown[] => changes.filter(({ epoch }) => epoch > from)
  for (const from of places) {
    t.same(await followed(bus, from, () => last), after(from), `from ${from}, from memory`)
    t.same(await overSocket(t, port, from, last), after(from), `from ${from}, by WebSocket`)
    t.same(await overEvents(url, from, last), after(from), `from ${from}, by events`)
  }
  await served.server.close()
  await bus.close()

  const again = await openVoids(dataDir)
  t.teardown(() => again.close())
  for (const from of places)
    t.same(await followed(again, from, () => last), after(from), `from ${from}, from the log`)
})

t.test('what a request about the past says of one', async (t) => {
  const dataDir = folder(t)
  const { states, newest } = await fillWithVoids(dataDir, 1)
  const { call, bus } = await serve(t, { dataDir, fsync: 'off' })
  const voids = states.flatMap(({ isVoid }, epoch) => (isVoid ? [epoch] : []))
  for (const epoch of voids) {
    const { digest } = states[epoch - 1]!
    const { body } = await call('GET', `/v1/epochs/${epoch}`)
    t.match(body, { epoch, void: true, transactions: [], changed: [], digest })
    const { body: diff } = await call('GET', `/v1/diff?from=${epoch - 1}&to=${epoch}`)
    t.same(diff.pages, [])
  }
  const { epochs } = await bus.epochs({ from: 1 })
  t.same(
    epochs.filter((epoch) => epoch.void === true).map(({ epoch }) => epoch),
    voids,
  )
  const ofBoth = await bus.epochs({ source: 'both' })
  t.notOk(
    ofBoth.epochs.some((epoch) => epoch.void === true),
    'it has no transaction of any source',
  )
  t.match((await call('GET', '/v1/pages/x/history')).body, { versions: [{ epoch: 2 }] })
  t.equal((await call('GET', '/v1/pages/z1/history')).status, 404, 'a page that was never there')
  t.equal(bus.epoch, newest)
})
