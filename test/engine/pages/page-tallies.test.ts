/** Tallies count the pages of the registry, whatever happens to them. */
import t from 'tap'
import { Bus } from '../../../src/index.js'
import { PAGE_OWN_BYTES } from '../../../src/limits.js'

t.test('a tally follows pages that come and go, by name', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  const page = { dtype: 'f64', shape: [4] } as const
  for (const name of ['a.1', 'b.1']) await bus.create(name, page)
  const tally = bus.tallies.follow((name) => name.startsWith('a.'))
  const all = bus.tallies.follow(() => true)
  t.match(tally, { pages: 1, bytes: 32 + PAGE_OWN_BYTES })
  await bus.create('a.2', page)
  await bus.create('a.2', page)
  await bus.derive('a.3', { op: 'map', inputs: { x: 'a.2' }, expr: 'x + 1' })
  t.equal(tally.pages, 3, 'a page that is there already does not count again')
  t.equal(all.pages, 4)
  const before = tally.bytes
  await bus.delete('a.2', { cascade: true })
  t.match(tally, { pages: 1, bytes: 32 + PAGE_OWN_BYTES })
  t.ok(before > 3 * (32 + PAGE_OWN_BYTES), 'a derived page costs more')
  await bus.createMany(['a.4', 'b.4'].map((name) => ({ name, definition: page })))
  t.equal(tally.pages, 2)
  tally.end()
  await bus.create('a.5', page)
  t.equal(tally.pages, 2, 'not after its end')
  t.equal(all.pages, 5, 'others go on')
})
