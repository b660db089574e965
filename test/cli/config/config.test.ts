/** The configuration file: what it may hold, what wins over it, and what SIGHUP takes over. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { addToken } from '../../../src/auth/token-file.js'
import { HELP } from '../../../src/cli/commands/serve.js'
import { createPage } from '../../auth/helpers.js'
import { until } from '../../lib/wait.js'
import { type Process, run, serve } from '../process.js'

t.setTimeout(120_000)

const fileOf = (t: Test, config: unknown): string => {
  const file = join(t.testdir(), 'mmsb.json')
  writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config))
  return file
}

interface Setting {
  readonly value: string | null
  readonly source: string
}

const show = async (env: Record<string, string>, ...args: string[]): Promise<Map<string, Setting>> => {
  const { code, stdout, stderr } = await run(['config', 'show', '--json', ...args], { env })
  t.equal(code, 0, stderr)
  const lines = stdout.trim().split('\n')
  return new Map(lines.map((line) => JSON.parse(line)).map(({ key, ...setting }) => [key, setting]))
}

t.test('a flag wins over the environment, and that over the file', async (t) => {
  const config = fileOf(t, {
    port: 1001,
    host: '127.0.0.2',
    fsync: 'off',
    'memory-limit': 1048576,
    'allow-host': ['a.example', 'b.example'],
    'read-only': true,
    'audit-writes': false,
  })
  const env = { MMSB_CONFIG: config, MMSB_PORT: '1002', MMSB_HOST: '127.0.0.3' }
  const settings = await show(env, '--port', '1003')
  t.match(settings.get('port'), { value: '1003', source: 'flag', from: '--port' })
  t.match(settings.get('host'), { value: '127.0.0.3', source: 'environment', from: 'MMSB_HOST' })
  t.match(settings.get('fsync'), { value: 'off', source: 'file', from: `"fsync" in ${config}` })
  t.match(settings.get('memory-limit'), { value: '1048576', source: 'file' })
  t.match(settings.get('allow-host'), { value: 'a.example,b.example', source: 'file' })
  t.match(settings.get('read-only'), { value: 'true', source: 'file' })
  t.match(settings.get('audit-writes'), { value: 'false', source: 'default' })
  t.match(settings.get('backend'), { value: 'auto', source: 'default' })
  t.match(settings.get('config'), { value: config, source: 'environment' })
  t.match(settings.get('tls-key'), { value: null, source: 'default' })
})

t.test('every mistake is named', async (t) => {
  const file = fileOf(t, {
    prot: 1,
    port: '7411',
    threads: 1.5,
    cut: true,
    backend: 'gpu',
    'read-only': 'yes',
    'allow-host': ['a', 1],
    host: '',
    'memory-limit': 'big',
    'durable-hold': 'soon',
    'auth-file': 'tokens.json',
  })
  const checked = await run(['config', 'check', file, '--json'])
  t.equal(checked.code, 1)
  const { ok, mistakes } = JSON.parse(checked.stdout) as { ok: boolean; mistakes: string[] }
  t.equal(ok, false)
  const named = mistakes.map((line) => line.replace(` in ${file}`, ''))
  t.same(named.slice(0, 8), [
    '"prot": is not a key',
    '"port": must be a whole number',
    '"threads": must be a whole number',
    '"cut": can only be given as a flag',
    '"backend": must be one of auto, cpu, cuda',
    '"read-only": must be true or false',
    '"allow-host": must be a text that is not empty or a list of such texts',
    '"host": must be a text that is not empty',
  ])
  t.equal(named[8], '--auth-file needs --auth token or --auth mtls')
  const started = await run(['serve', '--config', file])
  t.equal(started.code, 2)
  t.match(started.stderr, /"prot" in .*mmsb\.json: is not a key/)
  const values = fileOf(t, { 'memory-limit': 'big', 'durable-hold': 'soon', port: 70000 })
  const wrong = await run(['config', 'check', values])
  t.equal(wrong.code, 1)
  for (const key of ['memory-limit', 'durable-hold', 'port']) t.match(wrong.stdout, `problem: "${key}" in`)
  for (const [text, why] of [
    ['{', 'is not JSON'],
    ['[]', 'is not a JSON object'],
  ] as const)
    t.match(await run(['config', 'check', fileOf(t, text)]), { code: 1, stdout: new RegExp(why) })
  t.match(await run(['serve', '--config', join(t.testdir(), 'none.json')]), { code: 2, stderr: /ENOENT/ })
  t.match(await run(['config', 'check', fileOf(t, { port: 0 })]), { code: 0, stdout: /^ok: / })
})

t.test('the schema has every flag that a file may hold, and no other', async (t) => {
  const { stdout } = await run(['config', 'schema'])
  const { properties, additionalProperties } = JSON.parse(stdout) as {
    properties: Record<string, { description?: string }>
    additionalProperties: boolean
  }
  t.equal(additionalProperties, false)
  const onlyFlags = ['config', 'until-epoch', 'cut', 'help']
  const wanted = Object.keys(HELP.flags).filter((name) => !onlyFlags.includes(name))
  t.same(Object.keys(properties).sort(), ['$schema', ...wanted].sort())
  for (const name of wanted) t.match(properties[name]?.description, HELP.flags[name]!.help)
})

const reload = async (server: Process, text: string): Promise<void> => {
  const seen = server.stderr.split(text).length
  server.child.kill('SIGHUP')
  await until(() => server.stderr.split(text).length > seen, text)
}

t.test('SIGHUP takes the level of the log and the limits over, or nothing', async (t) => {
  const dir = t.testdir()
  const tokens = join(dir, 'tokens.json')
  const { token } = addToken(tokens, { id: 'desk', scopes: ['define:*'] })
  const file = join(dir, 'mmsb.json')
  const base = { port: 0, auth: 'token', 'auth-file': tokens, 'data-dir': join(dir, 'data'), fsync: 'off' }
  const write = (more: object): void => writeFileSync(file, JSON.stringify({ ...base, ...more }))
  write({ 'principal-limits': { pages: 1 } })
  const server = serve(t, ['--config', file])
  const url = await server.ready()
  t.equal(await createPage(url, token, 'a'), 201)
  t.equal(await createPage(url, token, 'b'), 507)

  write({ 'principal-limits': { pages: 2 }, 'log-level': 'debug', threads: 'many' })
  await reload(server, 'were not taken over')
  t.match(server.stderr, 'threads')
  t.equal(await createPage(url, token, 'b'), 507, 'the old limit counts')
  write({ 'principal-limits': { pagse: 2 }, 'log-level': 'debug' })
  await reload(server, 'were not taken over')
  t.notMatch(server.stderr, '"level":20', 'and the old level')

  write({ 'principal-limits': { pages: 2 }, 'log-level': 'debug', threads: 1, 'read-only': true })
  await reload(server, 'were read again')
  t.match(server.stderr, 'need a restart to count: threads, read-only')
  t.equal(await createPage(url, token, 'b'), 201)
  t.equal(await createPage(url, token, 'c'), 507)
  await until(() => server.stderr.includes('"method":"PUT"'), 'the line of a request')
  t.match(server.stderr, '"level":20')
})
