/** `mmsb log check [--fix]` and `mmsb index rebuild`: what they print, and their exit codes. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import { Bus } from '../../src/index.js'
import { folder } from '../lib/folder.js'
import { run } from './process.js'

t.test('a sound folder, one in use, a damaged one, a repaired one', async (t) => {
  const dir = folder(t)
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1, fsync: 'off' })
  await bus.create('a', { dtype: 'f64', shape: [100] })
  for (let i = 0; i < 9; i++) await bus.patch('a', { offset: i, values: [i + 1] })
  const mmsb = (...args: string[]) => run([...args, '--data-dir', dir])
  t.match((await mmsb('log', 'check')).stderr, /in use/)
  await bus.close()
  t.match(await mmsb('log', 'check'), { code: 0, stdout: 'ok: 1 segments, epochs up to 10\n' })

  const db = new Database(join(dir, 'catalog.db'))
  db.exec('UPDATE block SET stop = stop + 8')
  db.close()
  const row = await mmsb('log', 'check')
  t.match(row, { code: 1, stdout: /problem: catalog.db: the index row of epoch 1 is damaged/ })
  t.match(await mmsb('index', 'rebuild'), { code: 0, stdout: 'ok: the index covers epochs 1 to 10\n' })
  t.match(await mmsb('log', 'check'), { code: 0 })

  const file = join(dir, 'log', readdirSync(join(dir, 'log'))[0] as string)
  const bytes = readFileSync(file)
  const at = bytes.indexOf(Buffer.from(Float64Array.of(5).buffer))
  bytes[at] = 1
  writeFileSync(file, bytes)
  const refused = await mmsb('serve', '--port', '0')
  t.match(refused, {
    code: 1,
    stderr: /would lose epochs 6 to 10 where no checkpoint has them; `mmsb log check`/,
  })
  const bad = await mmsb('log', 'check')
  t.match(bad, {
    code: 1,
    stdout: /problem: log\/0{19}1\.seg, offset \d+: the record of epoch 6 is not sound/,
  })
  t.match(bad.stdout, /--fix would lose epochs 6 to 10/)
  t.same(readFileSync(file), bytes, 'nothing is changed without being asked')
  t.match(await mmsb('log', 'check', '--fix'), { code: 0, stdout: /repaired: the log ends at epoch 5/ })
  t.match(await mmsb('log', 'check'), { code: 0, stdout: /epochs up to 5/ })
  t.match(await mmsb('verify'), { code: 0 })

  t.match(await run(['log', 'check', '--data-dir', join(dir, 'none')]), { code: 1 })
  t.match(await run(['log', 'mend']), { code: 2 })
  t.match(await run(['index', 'mend']), { code: 2 })
  t.match(await run(['index', 'rebuild', '--help']), { code: 0, stdout: /--data-dir/ })
})
