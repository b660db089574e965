/** The command line as users see it: flags, messages, exit codes. */
import { once } from 'node:events'
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../lib/place.js'
import { call, run, serve } from './process.js'

const version = (JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as { version: string }).version

async function fourAtATime<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items]
  const worker = async (): Promise<void> => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await run(item)
  }
  await Promise.all([worker(), worker(), worker(), worker()])
}

t.test('help and version', async (t) => {
  t.match(await run(['--version']), { code: 0, stdout: `${version}\n`, stderr: '' })
  const help = await run(['--help'])
  t.match(help, { code: 0, stderr: '' })
  t.match(help.stdout, /serve/)
  const serveHelp = await run(['serve', '--help'])
  t.match(serveHelp, { code: 0, stderr: '' })
  for (const flag of [
    'port',
    'host',
    'admin-listen',
    'data-dir',
    'backend',
    'fsync',
    'log-level',
    'memory-limit',
    'threads',
    'insecure',
  ]) {
    t.match(serveHelp.stdout, `--${flag}`)
  }
  for (const twin of [
    'PORT',
    'HOST',
    'ADMIN_LISTEN',
    'DATA_DIR',
    'BACKEND',
    'FSYNC',
    'MEMORY_LIMIT',
    'THREADS',
    'LOG_LEVEL',
  ]) {
    t.match(serveHelp.stdout, `MMSB_${twin}`)
  }
})

t.test('-h and --help after any command print its usage', async (t) => {
  const { stdout } = await run(['-h'])
  t.match(stdout, /^exit codes: 0 .*1 .*2 /m)
  const commands = [...stdout.matchAll(/^ {2}([a-z]+) {2,}/gm)].map((m) => [m[1]!])
  t.ok(commands.length > 5)
  commands.push(['log', 'check'], ['index', 'rebuild'], ['events', 'export'], ['events', 'replay', 'FILE'])
  await fourAtATime(commands, async (command) => {
    for (const flag of ['-h', '--help']) {
      const help = await run([...command, flag])
      t.same([help.code, help.stderr], [0, ''], [...command, flag].join(' '))
      t.match(help.stdout, new RegExp(`^usage: mmsb ${command[0]} `))
    }
  })
})

t.test('wrong usage: one line, and exit code 2', async (t) => {
  for (const args of [
    [],
    ['fly'],
    ['toString'],
    ['--fly'],
    ['serve', '--fly'],
    ['serve', 'now'],
    ['serve', '--port'],
    ['serve', '--insecure=yes'],
  ]) {
    const { code, stdout, stderr } = await run(args)
    t.same([code, stdout], [2, ''], args.join(' '))
    t.match(stderr, /^mmsb: .+\nmmsb: see `mmsb( serve)? --help`\n$/)
  }
})

t.test('bad values: one line that names them, and exit code 2', async (t) => {
  const cases: [string[], RegExp, Record<string, string>?][] = [
    [['--port', '99999'], /--port: "99999"/],
    [['--port', 'http'], /--port: "http"/],
    [['--port=-1'], /--port: "-1"/],
    [[], /MMSB_PORT: "x"/, { MMSB_PORT: 'x' }],
    [['--backend', 'tpu'], /--backend: "tpu" is not one of auto, cpu, cuda/],
    [[], /MMSB_BACKEND: "tpu"/, { MMSB_BACKEND: 'tpu' }],
    [['--fsync', 'maybe'], /--fsync: "maybe"/],
    [['--data-dir='], /--data-dir: is empty/],
    [['--threads', '0'], /--threads: "0"/],
    [['--memory-limit', 'lots'], /--memory-limit: "lots"/],
    [['--log-level', 'loud'], /--log-level: "loud"/],
    [['--host', '0.0.0.0'], /--host: 0\.0\.0\.0 can be reached from other machines.*--insecure/],
    [['--host', '192.168.0.1'], /--insecure/],
    [[], /--insecure/, { MMSB_HOST: '::' }],
  ]
  const dataDir = t.testdir()
  const check = async ([args, message, env = {}]: (typeof cases)[number]): Promise<void> => {
    const { code, stdout, stderr } = await run(['serve', '--data-dir', dataDir, ...args], { env })
    t.same([code, stdout], [2, ''], args.join(' '))
    t.match(stderr, message)
    t.match(stderr, /^mmsb: [^\n]+\nmmsb: see `mmsb serve --help`\n$/)
  }
  await fourAtATime(cases, check)
})

t.test('when the server cannot start: one line, exit code 1, no stack', async (t) => {
  const dir = t.testdir({ file: 'not a folder', held: {} })
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as { port: number }
  const first = serve(t, ['--data-dir', join(dir, 'held')])
  await first.ready()
  const cases: [string[], RegExp][] = [
    [
      ['--port', String(port), '--data-dir', join(dir, 'a')],
      new RegExp(`port ${port} of 127\\.0\\.0\\.1 is in use`),
    ],
    [['--data-dir', join(dir, 'held')], /held.*(lock|another|in use|open)/i],
    [['--data-dir', join(dir, 'file')], /file/],
    [['--data-dir', '/dev/null/none'], /\/dev\/null\/none/],
    // In this place Node's recursive mkdir never returns.
    [['--data-dir', '/proc/none'], /\/proc\/none/],
    [['--host', '203.0.113.7', '--insecure', '--data-dir', join(dir, 'b')], /203\.0\.113\.7|EADDRNOTAVAIL/],
  ]
  const check = async ([args, message]: (typeof cases)[number]): Promise<void> => {
    const { code, stdout, stderr } = await run(['serve', '--port', '0', '--log-level', 'error', ...args])
    t.same([code, stdout], [1, ''], args.join(' '))
    t.match(stderr, message)
    t.match(stderr.trim().split('\n').at(-1), /^mmsb: /)
    t.notMatch(stderr, /\n {4}at /)
  }
  await fourAtATime(cases, check)
  t.match(await call(await first.ready(), 'GET', '/readyz'), { ready: true }, 'the first server goes on')
  t.equal(await first.end(), 0)
})

t.test('errors of files are explained in words', async (t) => {
  const dir = t.testdir({ 'there.ev': 'x' })
  const server = serve(t, ['--data-dir', join(dir, 'data')])
  await call(await server.ready(), 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [1] })
  t.equal(await server.end(), 0)
  const flags = ['--data-dir', join(dir, 'data')]
  for (const [args, words] of [
    [['events', 'export', join(dir, 'there.ev'), ...flags], 'there.ev: already exists'],
    [['events', 'export', join(dir, 'no', 'x.ev'), ...flags], 'x.ev: no such file or folder'],
    [['events', 'replay', join(dir, 'no.ev')], 'no.ev: no such file or folder'],
  ] as const) {
    const { code, stderr } = await run([...args])
    t.equal(code, 1)
    t.ok(stderr.endsWith(`${words}\n`), stderr)
  }
})

t.test('an unwritable folder', async (t) => {
  const dir = t.testdir({ sealed: {} })
  chmodSync(join(dir, 'sealed'), 0o500)
  const flags = ['--port', '0', '--log-level', 'error', '--data-dir', join(dir, 'sealed', 'data')]
  const { code, stderr } = await run(['serve', ...flags], { isBoundByPermissions: true })
  t.equal(code, 1)
  t.match(stderr, /^mmsb: [^\n]*sealed[^\n]*\n$/)
})

t.test('flags win over environment variables', async (t) => {
  const dir = t.testdir({ flag: {}, env: {} })
  const env = {
    MMSB_DATA_DIR: join(dir, 'env'),
    MMSB_FSYNC: 'off',
    MMSB_BACKEND: 'cpu',
    MMSB_HOST: '127.0.0.1',
    MMSB_MEMORY_LIMIT: '1m',
  }
  const server = serve(t, ['--data-dir', join(dir, 'flag'), '--fsync', 'interval'], { env })
  const url = await server.ready()
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+$/)
  t.match(await call(url, 'GET', '/v1/status'), { fsync: 'interval', backend: 'cpu' })
  t.ok(existsSync(join(dir, 'flag', 'log')))
  t.notOk(existsSync(join(dir, 'env', 'log')))
  t.match(await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [2 * 1024 ** 2] }), {
    code: 'OUT_OF_MEMORY',
  })
  t.equal(await server.end(), 0)
  t.match(server.stdout, /^mmsb listening on http:\/\/127\.0\.0\.1:\d+\n$/, 'nothing else on standard output')
})

t.test('without a flag the data are in ./data', async (t) => {
  const cwd = t.testdir()
  const server = serve(t, [], { cwd })
  await server.ready()
  t.ok(existsSync(join(cwd, 'data', 'log')))
  t.equal(await server.end('SIGINT'), 0)
})

t.test('IPv6 and --insecure', async (t) => {
  const six = serve(t, ['--host', '::1', '--data-dir', t.testdir({ a: {}, b: {} })])
  const url = await six.ready()
  t.match(url, /^http:\/\/\[::1\]:\d+$/)
  t.match(await call(url, 'GET', '/readyz'), { ready: true })
  await six.end()
  const open = serve(t, ['--host', '0.0.0.0', '--insecure', '--data-dir', join(t.testdirName, 'b')])
  const port = new URL(await open.ready()).port
  const response = await fetch(`http://127.0.0.1:${port}/readyz`, {
    headers: { origin: 'http://example.com' },
  })
  t.equal(response.status, 200, 'any Origin')
  t.equal(await open.end(), 0)
})
