/**
 * The risk example, month by month, on the CPU and on a GPU: both have the same digest after every epoch.
 * `node risk.js` prints TAP, for machines that have only the offline bundle.
 */
import { BOOKS, PAGES, START_POSITIONS, WINDOW } from '../../examples/risk/model.js'
import { readPrices, returns } from '../../examples/risk/prices.js'
import { deviceCount } from '../../src/ffi/library.js'
import { Bus } from '../../src/index.js'
import type { PageDefinition } from '../../src/state/types.js'

async function replay(backend: 'cpu' | 'cuda'): Promise<string[]> {
  const bus = await Bus.open({ backend })
  const digests: string[] = []
  try {
    for (const [name, definition] of PAGES) {
      const { derive, ...rest } = definition as PageDefinition & { derive?: never }
      if (derive === undefined) await bus.create(name, rest as never)
      else await bus.derive(name, derive, rest as never)
    }
    await bus.write('risk.positions', START_POSITIONS.flat())
    const months = readPrices()
    for (const [i, month] of months.entries()) {
      const prices = month.prices.map((price) => price ?? 0)
      const before = months[i - 1]
      const ops = [{ page: 'risk.prices', offset: 0, values: prices }]
      if (before !== undefined) {
        const values = returns(before, month).map((value) => value ?? 0)
        ops.push({ page: 'risk.scenarios', offset: (i % WINDOW) * values.length, values })
      }
      if (i % 12 === 0) ops.push({ page: 'risk.positions', offset: i % BOOKS.length, values: [1_000 * i] })
      await bus.transact({ ops })
      digests.push(bus.status().digest)
    }
    return digests
  } finally {
    await bus.close()
  }
}

if (deviceCount() === 0) {
  console.log('1..0 # skipped: no CUDA device')
} else {
  const [cpu, cuda] = [await replay('cpu'), await replay('cuda')]
  const differs = cpu.findIndex((digest, i) => digest !== cuda[i])
  console.log(
    `1..1\n${differs < 0 ? 'ok' : 'not ok'} 1 - ${cpu.length} epochs of the risk example, ${cpu.at(-1)}`,
  )
  if (differs >= 0) console.log(`# differs first in month ${differs}: ${cpu[differs]} and ${cuda[differs]}`)
  process.exitCode = differs < 0 ? 0 : 1
}
