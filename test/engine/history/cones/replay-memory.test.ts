/** What a replay may hold: larger states of the past are refused, others are read as before. */
import t from 'tap'
import { Bus } from '../../../../src/index.js'

const M = 1024 ** 2
const LIMIT = { code: 'OUT_OF_MEMORY', extra: { limit: '--max-replay-bytes', max: 8 * M } }

t.test('a page of the past that is too large, and one beside it', async (t) => {
  const bus = await Bus.open({
    dataDir: t.testdir(),
    backend: 'cpu',
    threads: 1,
    fsync: 'off',
    checkpoints: { everyEpochs: 0 },
    limits: { maxReplayBytes: 8 * M },
  })
  t.teardown(() => bus.close())
  await bus.create('small', { dtype: 'f64', shape: [4], fill: 1 })
  await bus.create('large', { dtype: 'u8', shape: [12 * M], fill: 1 })
  const { epoch } = await bus.patch('small', { offset: 0, values: [7] })
  await bus.patch('small', { offset: 0, values: [8] })
  t.equal((await bus.readAt('small', epoch))[0], 7)
  await t.rejects(bus.readAt('large', epoch), LIMIT)
  await t.rejects(bus.verify(), LIMIT)
  await t.rejects(bus.diff({ from: epoch - 1, to: epoch }), LIMIT)
  t.equal((await bus.readAt('small', epoch))[0], 7, 'and again')
  t.equal(new Map(bus.limits.refusals()).get('maxReplayBytes'), 3)
  await bus.delete('large')
  const now = bus.epoch
  await bus.patch('small', { offset: 0, values: [9] })
  await bus.checkpoint()
  await t.resolves(bus.verify({ from: now + 1 }), 'the present fits')
})

t.test('the memory limit raises it, and bounds it', async (t) => {
  const open = (options: object): Promise<Bus> =>
    Bus.open({ dataDir: t.testdir(), backend: 'cpu', threads: 1, ...options })
  const large = await open({ memoryLimitBytes: 32 * 1024 * M })
  t.equal(large.limits.values.maxReplayBytes, 32 * 1024 * M)
  await large.close()
  const little = await open({ memoryLimitBytes: 4 * M })
  t.teardown(() => little.close())
  await little.create('x', { dtype: 'u8', shape: [3 * M], fill: 1 })
  await little.delete('x')
  await little.create('y', { dtype: 'u8', shape: [3 * M], fill: 2 })
  t.equal((await little.readAt('x', 1))[0], 1)
})
