/** A running server takes other limits over on SIGHUP, from both places, or keeps the old ones. */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { addToken, readEntries } from '../../../src/auth/token-file.js'
import { run, serve } from '../../cli/process.js'
import { until } from '../../lib/wait.js'
import { createPage } from '../helpers.js'

t.test('limits of the token file and defaults are read again', async (t) => {
  const dir = t.testdir({ 'limits.json': '{"pages": 1}' })
  const [file, defaults] = [path.join(dir, 'tokens.json'), path.join(dir, 'limits.json')]
  const { token: desk } = addToken(file, { id: 'desk', scopes: ['define:desk.*'], limits: { pages: 2 } })
  const { token: other } = addToken(file, { id: 'other', scopes: ['define:other.*'] })
  const server = serve(t, [
    ...['--data-dir', path.join(dir, 'data'), '--fsync', 'off'],
    ...['--auth', 'token', '--auth-file', file, '--principal-limits', defaults],
  ])
  const url = await server.ready()
  const create = (token: string, name: string): Promise<number> => createPage(url, token, name)
  t.equal(await create(desk, 'desk.1'), 201)
  t.equal(await create(desk, 'desk.2'), 201)
  t.equal(await create(desk, 'desk.3'), 507)
  t.equal(await create(other, 'other.1'), 201)
  t.equal(await create(other, 'other.2'), 507)

  fs.writeFileSync(defaults, '{"pages": "many"}')
  server.child.kill('SIGHUP')
  await until(() => server.stderr.includes('limits.pages is not a whole number'), 'the mistake in the log')
  t.equal(await create(other, 'other.2'), 507, 'the old ones count')

  fs.writeFileSync(defaults, '{"pages": 2}')
  const entries = readEntries(file).map((entry) =>
    entry.id === 'desk' ? { ...entry, limits: { pages: 3 } } : entry,
  )
  fs.writeFileSync(file, JSON.stringify({ principals: entries }))
  server.child.kill('SIGHUP')
  await until(() => server.stderr.includes('were read again'), 'the reload')
  t.equal(await create(desk, 'desk.3'), 201)
  t.equal(await create(desk, 'desk.4'), 507)
  t.equal(await create(other, 'other.2'), 201)
  t.equal(await create(other, 'other.3'), 507)
})

t.test('limits with a mistake end the start, and say which', async (t) => {
  const dir = t.testdir()
  const file = path.join(dir, 'tokens.json')
  addToken(file, { id: 'desk', scopes: ['read:*'] })
  const start = (...args: string[]): ReturnType<typeof run> =>
    run(['serve', '--port', '0', '--data-dir', path.join(dir, 'data'), ...args])
  const auth = ['--auth', 'token', '--auth-file', file]
  t.match(await start(...auth, '--principal-limits', '{"page": 1}'), { code: 1, stderr: /no "page"/ })
  t.match(await start('--principal-limits', '{"pages": 1}'), {
    code: 2,
    stderr: /--principal-limits needs --auth/,
  })
})
