/**
 * The conformance suite on this machine: several threads against one always, CUDA against the CPU where there
 * is a device.
 */
import t from 'tap'
import { deviceCount } from '../../src/ffi/library.js'
import { graphCase, LENGTHS, opCases } from './suite.js'

const CPU = { backend: 'cpu', threads: 1 } as const
const NO_DEVICE = deviceCount() === 0 ? 'skipped: no CUDA device' : false

t.test('several threads compute the bits of one', async (t) => {
  for await (const { name, problems } of opCases(CPU, { backend: 'cpu', threads: 3 }, LENGTHS))
    t.same(problems, [], name)
  for (let seed = 1; seed <= 20; seed++) {
    const { name, problems } = await graphCase(CPU, { backend: 'cpu', threads: 3 }, seed)
    t.same(problems, [], name)
  }
})

t.test('CUDA computes the bits of the CPU', { skip: NO_DEVICE }, async (t) => {
  for await (const { name, problems } of opCases(CPU, { backend: 'cuda' }, LENGTHS))
    t.same(problems, [], name)
  for (let seed = 1; seed <= 50; seed++) {
    const { name, problems } = await graphCase(CPU, { backend: 'cuda' }, seed)
    t.same(problems, [], name)
  }
})
