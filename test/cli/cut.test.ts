/** `mmsb serve --until-epoch N --cut`: the server goes on from an earlier epoch, in a new history. */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Bus } from '../../src/index.js'
import { folder } from '../lib/folder.js'
import { run, serve } from './process.js'

const QUIET = ['--backend', 'cpu', '--threads', '1', '--log-level', 'silent']

t.test('epochs after N are set aside, and it serves from there', async (t) => {
  const dataDir = folder(t)
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
  await bus.create('a', { dtype: 'u8', shape: [1] })
  for (let i = 1; i <= 5; i++) await bus.patch('a', { values: [i] })
  const { historyId } = bus
  await bus.close()
  const cut = ['serve', '--port', '0', '--data-dir', dataDir, ...QUIET]
  t.match(await run([...cut, '--cut']), { code: 2, stderr: /--cut needs --until-epoch/ })
  t.match(await run([...cut, '--until-epoch', '99', '--cut']), {
    code: 1,
    stderr: /Epoch 99 is not in the log; the newest is 6/,
  })
  const server = serve(t, ['--data-dir', dataDir, ...QUIET, '--until-epoch', '3', '--cut'])
  const url = await server.ready()
  const status = (await (await fetch(`${url}/v1/status`)).json()) as { epoch: number; history: string }
  t.equal(status.epoch, 3)
  t.not(status.history, historyId)
  const data = await fetch(`${url}/v1/pages/a/data`)
  t.same([...new Uint8Array(await data.arrayBuffer())], [2])
  t.match(server.stderr, /epochs 4 to 6 are discarded[\s\S]*a new history begins/)
  t.ok(fs.existsSync(path.join(dataDir, 'cut-1')))
})
