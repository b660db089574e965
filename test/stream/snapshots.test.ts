/** Snapshots that are gathered in slices, while commits go on. */
import t from 'tap'
import { STREAM_GATHER_SLICE_BYTES } from '../../src/limits.js'
import type { StreamBus } from '../../src/stream/types.js'
import { Draw } from '../lib/draw.js'
import { create, type FakeBus, type FakeSink, remove, set, setup } from './fakes.js'

const M = 2 ** 20
const PAGES = 2_500

/**
 * The pages of the snapshot that a reader has got: it must be the first message, and of the epoch before it.
 */
function snapshotIn(sink: FakeSink): Map<string, { values: number[]; version: number }> {
  const [subscribed, snapshot] = sink.got
  if (subscribed?.type !== 'subscribed' || snapshot?.type !== 'snapshot') throw new Error(sink.types.join())
  if (subscribed.epoch !== snapshot.epoch) throw new Error('of another epoch')
  return new Map(
    Object.entries(snapshot.pages!).map(([name, { values, version }]) => [
      name,
      { values: values as number[], version },
    ]),
  )
}

const stateOf = (bus: FakeBus & StreamBus): Map<string, { values: number[]; version: number }> =>
  new Map(
    bus.pageNames().map((name) => [name, { values: bus.values(name), version: bus.peek(name).version }]),
  )

for (let seed = 1; seed <= 6; seed++) {
  t.test(`many pages, while they are written, created and deleted: seed ${seed}`, async (t) => {
    const draw = new Draw(seed)
    const { bus, clock, connect } = setup()
    bus.commit(...Array.from({ length: PAGES }, (_, i) => create(`p${i}`, draw.int(0, 9))))
    bus.commit(create('big', 1.5 * M), create('q', 3))
    const { sink, connection } = connect()
    const first = bus.epoch
    connection.subscribe('s', { pages: ['*'], from: 'snapshot' })
    let slices = 0
    while (sink.got.length === 0) {
      const names = bus.pageNames().filter((name) => bus.peek(name).elements > 0)
      const name = draw.pick(names)
      const index = draw.int(0, bus.peek(name).elements - 1)
      switch (draw.int(0, 4)) {
        case 0:
          bus.commit(create(`new${bus.epoch}`, draw.int(0, 5)))
          break
        case 1:
          bus.commit(remove(draw.pick(names.filter((name) => name !== 'big'))))
          break
        case 2:
          bus.commit(set('big', [draw.int(0, 1.5 * M - 1), bus.epoch]))
          break
        default:
          bus.commit(set(name, [index, bus.epoch]), set('q', [0, bus.epoch]))
      }
      if (!clock.step()) t.fail('nothing goes on')
      slices++
    }
    t.ok(slices >= 5, `${slices} slices`)
    t.equal(sink.got[1]?.epoch, bus.epoch)
    t.ok(bus.epoch > first)
    const got = snapshotIn(sink)
    const state = stateOf(bus)
    t.same([...got.keys()], [...state.keys()], 'sorted by name')
    for (const [name, page] of state) {
      const { values, version } = got.get(name)!
      if (version !== page.version || values.some((value, i) => value !== page.values[i]))
        t.fail(`page ${name} is not as it was`)
    }
    bus.commit(set('q', [1, 77]))
    t.match(sink.got[2], { type: 'change', epoch: bus.epoch, changes: [{ page: 'q' }] })
  })
}

t.test('a slice gathers a few MiB, the last one the rest', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 4 * M))
  const { gather } = bus
  let bytes = 0
  bus.gather = (...asked) => {
    const values = gather.apply(bus, asked)
    bytes += values.byteLength
    return values
  }
  const slice = (): number => {
    bytes = 0
    t.ok(clock.step())
    return bytes
  }
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['big'], from: 'snapshot' })
  const sizes: number[] = [bytes]
  while (sink.got.length === 0 && sizes.length < 100) {
    // Each change makes it begin again, so that it never ends by itself.
    if (bytes > 0) bus.commit(set('big', [0, bus.epoch]))
    sizes.push(slice())
  }
  const whole = 4 * M * 4
  t.ok(sizes.length > 10 && sizes.slice(0, -1).every((size) => size <= STREAM_GATHER_SLICE_BYTES), `${sizes}`)
  t.ok(sizes.at(-1)! >= whole, 'in the end it is gathered in one go')
})

t.test('a window: what changes outside raises its version', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 8 * M), create('small', 4))
  const { sink, connection } = connect()
  connection.subscribe('s', {
    pages: ['big', 'small'],
    slice: { big: [[10, 3 * M]], small: [[1, 3]] },
    from: 'snapshot',
  })
  t.ok(clock.step())
  bus.commit(set('big', [3, 5]), set('small', [0, 9]))
  bus.commit(set('big', [12, 6]))
  while (clock.step());
  const got = snapshotIn(sink)
  t.equal(got.get('big')?.version, bus.epoch)
  t.equal(got.get('small')?.version, bus.epoch - 1)
  t.equal(got.get('big')?.values.length, 3 * M - 10)
  t.equal(got.get('big')?.values[2], 6)
  t.same(got.get('small')?.values, [0, 0])
})

t.test('subscriptions with one view share what is gathered, and one may leave', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 8 * M))
  const readers = [0, 1, 2].map(() => connect())
  for (const { connection } of readers) connection.subscribe('s', { pages: ['big'], from: 'snapshot' })
  readers[0]!.connection.unsubscribe('s')
  readers[1]!.connection.close()
  const before = bus.gathers
  while (clock.step());
  t.same(readers[0]!.sink.types, ['unsubscribed'])
  t.same(readers[1]!.sink.types, [])
  t.same(readers[2]!.sink.types, ['subscribed', 'snapshot'])
  t.ok(bus.gathers - before <= 10, `${bus.gathers - before} gathers`)
})

t.test('nobody waits any more: nothing is gathered, and the next is served', async (t) => {
  const { bus, clock, connect, hub } = setup()
  bus.commit(create('big', 8 * M), create('other', 8 * M))
  const [gone, next] = [connect(), connect()]
  gone.connection.subscribe('s', { pages: ['big'], from: 'snapshot' })
  next.connection.subscribe('s', { pages: ['other'], from: 'snapshot' })
  gone.connection.close()
  while (clock.step());
  t.same(next.sink.types, ['subscribed', 'snapshot'])
  t.equal(hub.stats().topics, 1)
})

t.test('a small snapshot does not wait for the large ones of others', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 8 * M))
  const [large, small] = [connect(), connect()]
  large.connection.subscribe('s', { pages: ['big'], from: 'snapshot' })
  small.connection.subscribe('s', { pages: ['a', 'b'], from: 'snapshot' })
  t.same(small.sink.types, ['subscribed', 'snapshot'])
  t.same(large.sink.types, [])
  while (clock.step());
  t.same(large.sink.types, ['subscribed', 'snapshot'])
})

t.test('a connection begins its subscriptions in order', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 8 * M))
  const { sink, connection } = connect()
  connection.subscribe('large', { pages: ['big'], from: 'snapshot' })
  connection.subscribe('small', { pages: ['a'], from: 'snapshot' })
  connection.subscribe('now', { pages: ['b'] })
  while (clock.step());
  t.same(
    sink.got.map(({ type, id }) => `${id} ${type}`),
    ['now subscribed', 'large subscribed', 'large snapshot', 'small subscribed', 'small snapshot'],
  )
})

t.test('pages that become too many meanwhile', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 8 * M), create('big2', 7 * M))
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['big*'], from: 'snapshot' })
  clock.step()
  bus.commit(create('big3', 2 * M))
  while (clock.step());
  t.match(sink.got, [{ type: 'error', code: 'PAYLOAD_TOO_LARGE' }])
  t.equal(sink.got.length, 1)
})

t.test('the bus fails meanwhile', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(create('big', 8 * M))
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['big*'], from: 'snapshot' })
  clock.step()
  bus.fail('no disk')
  while (clock.step());
  t.match(sink.got, [{ type: 'error', code: 'BUS_FAILED' }])
  t.equal(sink.got.length, 1)
})
