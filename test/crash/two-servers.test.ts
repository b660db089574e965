/** Two servers never write one data folder, even when somebody removes the lock's file. */
import { readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { call, run, serve } from '../cli/process.js'
import { folder } from '../lib/folder.js'

const write = async (url: string, value: number): Promise<boolean> => {
  const answer = await call(url, 'PATCH', '/v1/pages/a/data', { offset: 0, values: [value] }).catch(
    () => undefined,
  )
  return typeof answer?.epoch === 'number'
}

for (const [what, remove] of [
  ['deleted', (file: string) => rmSync(file)],
  [
    'replaced',
    (file: string) => {
      renameSync(file, `${file}.old`)
      writeFileSync(file, '')
    },
  ],
] as const) {
  t.test(`lock.db is ${what} under a running server`, async (t) => {
    const dir = join(folder(t), 'data')
    const first = serve(t, ['--data-dir', dir])
    const url = await first.ready()
    await call(url, 'PUT', '/v1/pages/a', { dtype: 'f64', shape: [4] })
    t.ok(await write(url, 1))
    remove(join(dir, 'lock.db'))
    const second = await run(['serve', '--port', '0', '--data-dir', dir])
    t.match(second, { code: 1, stderr: /in use by process \d+/ }, 'the second one does not come in')
    for (let value = 2; value < 20; value++) t.ok(await write(url, value), 'the first one goes on')
    t.equal(await first.end(), 0)
    t.match(await run(['log', 'check', '--data-dir', dir]), { code: 0, stdout: /epochs up to 20/ })
    t.match(await run(['verify', '--data-dir', dir]), { code: 0 })
  })
}

t.test('a server whose folder is replaced stops, and the new folder stays as it is', async (t) => {
  const dir = join(folder(t), 'data')
  const first = serve(t, ['--data-dir', dir])
  const url = await first.ready()
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'f64', shape: [4] })
  renameSync(dir, `${dir}-moved`)
  const second = serve(t, ['--data-dir', dir])
  const other = await second.ready()
  await call(other, 'PUT', '/v1/pages/a', { dtype: 'f64', shape: [4] })
  let acknowledged = 0
  while (await write(url, acknowledged)) acknowledged++
  t.match(await call(url, 'GET', '/readyz'), {
    code: 'BUS_FAILED',
    detail: 'the server is not ready',
  })
  t.match(await call(url, 'GET', '/v1/status'), { reason: /removed or renamed|another folder/ })
  t.ok(await write(other, 5))
  t.equal(await second.end(), 0)
  await first.end()
  t.match(await run(['log', 'check', '--data-dir', dir]), { code: 0, stdout: /epochs up to 2\n/ })
  t.match(await run(['log', 'check', '--data-dir', `${dir}-moved`]), {
    code: 0,
    stdout: new RegExp(`epochs up to ${acknowledged + 1}\n`),
  })
  t.ok(readdirSync(dir).includes('lock.db'))
})
