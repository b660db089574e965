/** `mmsb token`, and a server whose callers have tokens. */
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { AUTH_FLAGS, authOf } from '../../src/cli/auth-flags.js'
import { exportPages } from '../../src/cli/commands/export.js'
import { hostsOf, networksOf, parseFlags } from '../../src/cli/flags.js'
import { run, serve } from '../cli/process.js'
import { until } from '../lib/wait.js'

t.test('what must be given before other machines can reach a server', async (t) => {
  const judge = (args: readonly string[], host = '0.0.0.0') => {
    const { tokenFile, tls, isInsecure } = authOf(parseFlags(args, AUTH_FLAGS, {}), [
      ['--host', '127.0.0.1'],
      ['--admin-listen', host],
    ])
    return { tokenFile, tls, isInsecure }
  }
  const token = ['--auth', 'token', '--auth-file', 'f']
  t.throws(() => judge([]), /--admin-listen: 0\.0\.0\.0 can be reached.*no authentication/)
  t.throws(() => judge(['--insecure-no-tls']), /no authentication/)
  t.throws(() => judge(token), /--admin-listen: 0\.0\.0\.0 can be reached.*no TLS.*--insecure-no-tls/)
  t.throws(() => judge([...token, '--insecure-no-auth']), /no TLS/, 'tokens would be sent in the open')
  t.same(judge([...token, '--insecure-no-tls']), { tokenFile: 'f', tls: undefined, isInsecure: true })
  t.same(judge([...token, '--insecure']), { tokenFile: 'f', tls: undefined, isInsecure: true })
  t.same(judge(['--insecure-no-auth']), { tokenFile: undefined, tls: undefined, isInsecure: true })
  t.same(judge(['--insecure']), { tokenFile: undefined, tls: undefined, isInsecure: true })
  for (const host of ['127.0.0.1', 'localhost', '::1']) {
    t.same(judge([], host), { tokenFile: undefined, tls: undefined, isInsecure: false })
    t.same(
      judge(token, host),
      { tokenFile: 'f', tls: undefined, isInsecure: true },
      'any Host, for those with a token',
    )
  }
  t.throws(() => judge(['--auth', 'token']), /--auth token needs --auth-file/)
  t.throws(() => judge(['--auth-file', 'f']), /--auth-file needs --auth token/)
  t.throws(() => judge(['--auth', 'none', '--auth-file', 'f']), /--auth-file needs --auth token/)
  t.throws(() => judge(['--auth', 'maybe']), /--auth: "maybe" is not one of none, token/)
})

t.test('of a flag that is given twice the last value counts, or all if it is a list', async (t) => {
  const table = {
    one: { value: 'X', help: '' },
    many: { value: 'X', help: '', isList: true },
    on: { help: '' },
  }
  const many = parseFlags(['--many', 'a,b', '--many', 'c', '--on', '--on'], table, {})
  t.same(many.values.get('many'), { text: 'a,b,c', from: '--many' })
  t.ok(many.switches.has('on'))
  t.equal(parseFlags(['--one', '1', '--one', '2'], table, {}).values.get('one')?.text, '2')
  t.throws(() => parseFlags(['--many', 'a', '--many', ''], table, {}), /--many: is empty/)
})

t.test('names for Host, and networks of proxies', async (t) => {
  const hosts = (text: string) => [...hostsOf({ text, from: '--allow-host' })]
  t.same(hosts('Bus.example.com, 10.0.0.7,[::1]'), ['bus.example.com', '10.0.0.7', '[::1]'])
  for (const bad of ['', 'a b', 'bus.example.com:443', 'https://a', 'a,,b', '::1', '[x]', '*'])
    t.throws(() => hosts(bad), /^--allow-host: .* is not a name such as bus\.example\.com/, bad)
  const networks = (text: string) => networksOf({ text, from: '--trust-proxy' })
  t.same(networks('127.0.0.1, 10.0.0.0/8,fd00::/8,::1/128'), [
    '127.0.0.1',
    '10.0.0.0/8',
    'fd00::/8',
    '::1/128',
  ])
  for (const bad of ['', 'x', '10.0.0.0/33', '::/129', '10.0.0.0/', '1.2.3.4/8/8', '10.0.0/8', 'a,127.0.0.1'])
    t.throws(() => networks(bad), /--trust-proxy: .* is neither an IP address nor a network/, bad)
})

t.test('tokens are made, listed, used, changed while a server runs, and taken away', async (t) => {
  const dir = t.testdir()
  const file = join(dir, 'tokens.json')
  const token = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await run(['token', ...args, '--auth-file', file])
    t.equal(code, 0, stderr)
    return stdout.trim()
  }
  const first = await token(
    ...['create', 'desk', '--scope', 'read:desk.*, define:desk.*', '--scope', 'history:*'],
  )
  t.equal(statSync(file).mode & 0o777, 0o600)
  t.equal(await token('list'), 'desk  tokens 1  expires never  read:desk.* define:desk.* history:*')
  const listed = JSON.parse(await token('list', '--json')) as object[]
  t.same(listed, [{ id: 'desk', scopes: ['read:desk.*', 'define:desk.*', 'history:*'], tokens: 1 }])

  const server = serve(t, ['--data-dir', join(dir, 'data'), '--auth', 'token', '--auth-file', file])
  const url = await server.ready()
  const status = async (given: string | undefined, path = '/v1/status', method = 'GET'): Promise<number> => {
    const headers = given === undefined ? {} : { authorization: `Bearer ${given}` }
    const body = method === 'GET' ? {} : { body: JSON.stringify({ dtype: 'u8', shape: [2] }) }
    const json = { ...headers, 'content-type': 'application/json' }
    return (await fetch(url + path, { method, headers: json, ...body })).status
  }
  t.same([await status(undefined), await status('x'), await status(first)], [401, 401, 200])
  t.same([await status(undefined, '/livez'), await status(undefined, '/openapi.json')], [200, 200])
  t.equal(await status(first, '/v1/pages/desk.a', 'PUT'), 201)
  t.equal(await status(first, '/v1/pages/other.a', 'PUT'), 404)

  const secret = join(dir, 'desk.token')
  writeFileSync(secret, `${first}\n`, { mode: 0o600 })
  await exportPages(['--url', url, '--token-file', secret, '--out', dir])
  t.ok(existsSync(join(dir, 'desk.a.npy')))
  chmodSync(secret, 0o644)
  await t.rejects(exportPages(['--url', url, '--token-file', secret, '--out', dir]), /chmod 600/)

  const second = await token('create', 'desk')
  t.equal(await status(second), 401, 'not before the server reads the file again')
  server.child.kill('SIGHUP')
  await until(async () => (await status(second)) === 200, 'the new token')
  t.equal(await status(first), 200, 'the old one beside it')
  const good = readFileSync(file)
  writeFileSync(file, '{')
  server.child.kill('SIGHUP')
  await until(() => server.stderr.includes('were not taken over'), 'the line about the broken file')
  t.same([await status(first), await status(second)], [200, 200], 'the old file goes on to count')
  writeFileSync(file, good)
  await token('revoke', 'desk', '--older')
  server.child.kill('SIGHUP')
  await until(async () => (await status(first)) === 401, 'the end of the old token')
  t.equal(await status(second), 200)
  t.equal(await server.end(), 0)
  t.notOk(
    [first, second].some((each) => server.stderr.includes(each)),
    'no token in the log',
  )
  t.notMatch(readFileSync(file, 'utf8'), second)
})

t.test('a server does not start with a token file that it cannot trust', async (t) => {
  const dir = t.testdir({ 'tokens.json': '{"principals":[]}' })
  const file = join(dir, 'tokens.json')
  chmodSync(file, 0o644)
  const data = join(dir, 'data')
  const { code, stdout, stderr } = await run([
    'serve',
    '--data-dir',
    data,
    '--auth',
    'token',
    '--auth-file',
    file,
  ])
  t.same([code, stdout], [1, ''])
  t.match(stderr, /tokens\.json can be read by others \(mode 644\); use chmod 600/)
  t.notOk(existsSync(data), 'nothing was made')
})

t.test('wrong usage of `mmsb token`', async (t) => {
  for (const [args, message] of [
    [['create', '--auth-file', 'f'], /the principal is missing/],
    [['create', 'a'], /--auth-file is missing/],
    [['destroy', 'a', '--auth-file', 'f'], /unknown action|Unexpected/],
    [['create', 'a', 'b', '--auth-file', 'f'], /Unexpected/],
  ] as const) {
    const { code, stderr } = await run(['token', ...args])
    t.equal(code, 2, args.join(' '))
    t.match(stderr, message)
  }
  const { code, stderr } = await run([
    'token',
    'create',
    'a',
    '--auth-file',
    join(t.testdir(), 'f'),
    '--scope',
    'rad:*',
  ])
  t.equal(code, 1)
  t.match(stderr, /scope "rad:\*" is not VERB:PATTERN/)
})
