/** Snapshots and changes of the sizes at which they are made another way. */
import t from 'tap'
import {
  STREAM_GATHER_SLICE_BYTES,
  STREAM_GATHER_TURN_BYTES,
  STREAM_LARGE_BYTES,
  STREAM_LARGE_PAGES,
} from '../../../src/limits.js'
import { create, set, setup } from '../fakes.js'

t.test('snapshots and changes of every size at which they are made another way', async (t) => {
  const { bus, clock, connect } = setup()
  const sizes = [
    STREAM_LARGE_BYTES,
    STREAM_GATHER_SLICE_BYTES / 4,
    STREAM_GATHER_SLICE_BYTES,
    STREAM_GATHER_TURN_BYTES,
  ]
  for (const bytes of sizes.flatMap((size) => [size - 4, size, size + 4])) {
    const name = `p${bytes}`
    const count = bytes / 4
    const valueAt = (index: number): number => (index * 7 + bytes) % 10
    bus.commit(create(name, count))
    const { connection, sink } = connect()
    connection.subscribe('s', { pages: [name], from: 'snapshot' })
    clock.advance(100)
    bus.commit((bus) => bus.fill(name, valueAt))
    clock.advance(100)
    connection.subscribe('t', { pages: [name], from: 'snapshot' })
    clock.advance(100)
    const wanted = Array.from({ length: count }, (_, i) => valueAt(i)).join()
    const last = (type: string, id: string) =>
      sink.got.findLast((message) => message.type === type && message.id === id)
    const same = (got: readonly unknown[] | undefined): boolean => got?.join() === wanted
    t.ok(same(last('change', 's')?.changes?.[0]?.values), `a change of ${bytes} bytes`)
    t.ok(same(last('snapshot', 't')?.pages?.[name]?.values), `a snapshot of ${bytes} bytes`)
    connection.close()
  }
})

t.test('snapshots and changes of as many pages as are made at once, and of one more', async (t) => {
  for (const count of [STREAM_LARGE_PAGES, STREAM_LARGE_PAGES + 1]) {
    const { bus, clock, connect } = setup()
    const pages = Array.from({ length: count }, (_, i) => `p${i}`)
    bus.commit(...pages.map((name) => create(name, 1)))
    const { connection, sink } = connect()
    connection.subscribe('s', { pages: ['p*'], from: 'snapshot' })
    clock.advance(100)
    bus.commit(...pages.map((name, i) => set(name, [0, i])))
    clock.advance(100)
    const message = (type: string) => sink.got.find((message) => message.type === type)
    t.equal(Object.keys(message('snapshot')?.pages ?? {}).length, count)
    const values = new Map(message('change')?.changes?.map(({ page, values }) => [page, values?.[0]]))
    t.ok(
      pages.every((name, i) => values.get(name) === i),
      `${count} pages`,
    )
  }
})
