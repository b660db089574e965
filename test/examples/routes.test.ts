/** The example of shortest paths, on the busiest airports. */
import t from 'tap'
import { readNetwork } from '../../examples/routes/network.js'
import { close, createRoutes, plainShortest, shortest } from '../../examples/routes/routes.js'
import { Bus } from '../../src/index.js'

t.test('shortest paths equal the plain computation, before and after an airport closes', async (t) => {
  const network = readNetwork(90)
  const size = network.airports.length
  t.equal(size, 90)
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  await createRoutes(bus, network)
  t.same(shortest(bus), plainShortest(network.minutes, size))
  t.same([...bus.read('settled')], [1], 'sixteen legs are enough')
  const before = shortest(bus)
  const epoch = await close(bus, network, 'ATL')
  t.equal(epoch, bus.epoch, 'one epoch')
  t.same(shortest(bus), plainShortest(bus.read('legs') as Float32Array, size))
  const longer = shortest(bus).filter((minutes, pair) => minutes > before[pair]!)
  t.ok(longer.length > 2 * (size - 1), 'not the paths of that airport alone')
  t.ok(bus.read('pairs')[0]! <= size * size - 2 * (size - 1))
  await t.rejects(close(bus, network, 'QQQ'), /no flights/)
  await bus.close()
})
