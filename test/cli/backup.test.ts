/** A backup taken while the server writes is consistent, and restores to what was there. */
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { backup } from '../../src/cli/commands/backup.js'
import { restore } from '../../src/cli/commands/restore.js'
import { verifyFolder } from '../../src/engine/history/verify-folder.js'
import { Bus } from '../../src/index.js'
import { folder } from '../lib/folder.js'
import { sleep } from '../lib/wait.js'

const open = (dataDir: string): Promise<Bus> => Bus.open({ dataDir, backend: 'cpu', threads: 1 })

t.test('taken while the bus writes, again and again', async (t) => {
  const dir = folder(t)
  const dataDir = join(dir, 'data')
  const bus = await open(dataDir)
  await bus.create('n', { dtype: 'u32', shape: [4] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'n' }, fn: 'sum' })
  let stop = false
  const writing = (async () => {
    while (!stop) {
      await bus.transact({
        ops: [
          { page: 'n', offset: 0, values: [1], merge: 'add' },
          { page: 'n', offset: 3, values: [1], merge: 'add' },
        ],
      })
    }
  })()
  for (let round = 0; round < 5; round++) {
    const before = bus.epoch
    const copy = join(dir, `copy-${round}`)
    await backup([copy, '--data-dir', dataDir])
    const restored = join(dir, `restored-${round}`)
    await restore([copy, '--data-dir', restored])
    t.match(verifyFolder({ dir: restored }), { ok: true, divergence: null })
    const again = await open(restored)
    const [a, , , b] = again.read('n') as Uint32Array
    t.ok(again.epoch >= before, 'all that was acknowledged before is in it')
    t.equal(a, b, 'no half transaction')
    t.equal(a, again.epoch - 2)
    t.equal(again.read('sum')[0], BigInt(2 * (a as number)))
    await again.patch('n', { offset: 1, values: [7] })
    await again.close()
    if (round === 2) await bus.checkpoint()
    await sleep(20)
  }
  stop = true
  await writing
  await bus.close()
  await backup([join(dir, 'last'), '--data-dir', dataDir])
  t.match(readdirSync(join(dir, 'last')).sort(), ['backup.json', 'checkpoints', 'log'])
})

t.test('invalid arguments and incomplete backups are refused', async (t) => {
  const dir = folder(t)
  const dataDir = join(dir, 'data')
  const bus = await open(dataDir)
  await bus.create('n', { dtype: 'u32', shape: [4] })
  await bus.close()
  await t.rejects(backup(['--data-dir', dataDir]), /DIR is missing/)
  await t.rejects(backup([join(dir, 'x'), '--data-dir', join(dir, 'none')]), { code: 'BUS_FAILED' })
  await t.rejects(backup([dataDir, '--data-dir', dataDir]), /not empty/)
  await backup([join(dir, 'copy'), '--data-dir', dataDir])
  await t.rejects(restore([join(dir, 'copy'), '--data-dir', dataDir]), /not empty/)
  rmSync(join(dir, 'copy', 'backup.json'))
  await t.rejects(restore([join(dir, 'copy'), '--data-dir', join(dir, 'y')]), /not a complete backup/)
})
