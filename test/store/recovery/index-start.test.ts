/** A start brings the index up to the log in the background. */
import t from 'tap'
import { until } from '../../lib/wait.js'
import { appendAll, noCatalog, openStore, scratch } from '../helpers.js'

t.test('a start indexes what the index lacks, and no more', async (t) => {
  const dir = scratch()
  const options = { segmentBytes: 8192 }
  const first = await openStore(dir, { ...options, catalog: noCatalog() })
  await appendAll(first, 1, 40, 1000)
  await first.close()
  for (const lastEpoch of [0, 1, 9]) {
    const told: number[] = []
    const store = await openStore(dir, {
      ...options,
      catalog: {
        ...noCatalog(),
        open: async () => ({ state: 'read', busId: first.busId, lastEpoch, checkpoints: [] }),
        addBlocks: async (blocks) => {
          for (const block of blocks) told.push(block.firstEpoch, block.lastEpoch)
        },
      },
    })
    await until(() => told.length > 0, 'the index')
    await store.close()
    t.equal(told[0], lastEpoch + 1)
  }
})
