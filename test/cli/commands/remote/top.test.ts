/** `mmsb top` against a real server: in a terminal, in a pipe, once, and while the server is away. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { plainEnvironment } from '../../../lib/environment.js'
import { folder } from '../../../lib/folder.js'
import { ROOT } from '../../../lib/place.js'
import { until } from '../../../lib/wait.js'
import { ENTRY, Process, run, serve } from '../../process.js'
import { jsonOf, served } from './server.js'

const TERMINAL = `${ROOT}test/cli/commands/remote/terminal.py`
const CLEAR = '\x1b[?1049h'
const RESTORED = '\x1b[?25h\x1b[?1049l'

/** `mmsb` in a terminal. */
class Terminal {
  output = ''
  readonly #child: ChildProcess
  #report = ''

  constructor(t: Test, rows: number, columns: number, args: readonly string[]) {
    const program = [process.execPath, ENTRY, ...args]
    this.#child = spawn('python3', [TERMINAL, String(rows), String(columns), ...program], {
      env: { ...plainEnvironment(), TERM: 'xterm' },
    })
    this.#child.stdout!.on('data', (chunk: Buffer) => {
      this.output += chunk
    })
    this.#child.stderr!.on('data', (chunk: Buffer) => {
      this.#report += chunk
    })
    t.teardown(() => this.#child.kill('SIGKILL'))
  }

  /** The rows of the newest whole screen, without styles. */
  get screen(): string[] {
    const screens = this.output.split('\x1b[H').slice(1)
    const whole = screens.filter((text) => text.includes('\x1b[J')).at(-1) ?? ''
    // biome-ignore lint/suspicious/noControlCharactersInRegex: styles are what is removed
    const text = whole.split('\x1b[J')[0]!.replace(/\x1b\[[\d;]*[mK]/g, '')
    // The terminal adds a return of its own to each line.
    return text.split(/\r+\n/)
  }

  act(line: string): void {
    this.#child.stdin!.write(`${line}\n`)
  }

  async end(): Promise<{ code: number; isRestored: boolean }> {
    await once(this.#child, 'close')
    return JSON.parse(this.#report) as { code: number; isRestored: boolean }
  }
}

const keys = (text: string): string => `keys ${Buffer.from(text, 'latin1').toString('hex')}`

// Many processes, one after the other.
t.setTimeout(120_000)

t.test('in a terminal: a screen that is renewed, follows the size, and leaves no trace', async (t) => {
  const { url, client } = await served(t)
  await client.create('large', { dtype: 'f64', shape: [1000] })
  const terminal = new Terminal(t, 30, 100, ['top', '--interval', '100ms', '--url', url])
  await until(() => terminal.screen.some((line) => line.startsWith('large ')), 'the first screen')
  t.ok(terminal.output.startsWith(CLEAR))
  t.ok(terminal.screen.length <= 30)
  t.match(terminal.screen[0], `${url}  up `)
  t.ok(terminal.screen.every((line) => line.length <= 100))
  const rows = terminal.screen.map((line) => line.split(/ {2,}/)[0])
  t.ok(rows.indexOf('large') < rows.indexOf('a') && rows.indexOf('a') < rows.indexOf('n'), 'largest first')
  for (let i = 0; i < 20; i++) await client.patch('a', { values: [i] })
  await until(() => terminal.screen.some((line) => line.startsWith('epoch 26 ')), 'the newest epoch')

  terminal.act('size 8 40')
  await until(
    () => terminal.screen.length <= 8 && terminal.screen.every((line) => line.length <= 40),
    'the size',
  )
  t.equal(terminal.screen.length, 8)
  terminal.act('size 40 120')
  await until(() => terminal.screen.some((line) => line.length > 40), 'the larger size')
  terminal.act(keys('\x03'))
  t.same(await terminal.end(), { code: 0, isRestored: true })
  t.ok(terminal.output.endsWith(RESTORED))
})

t.test('each way to end it restores the terminal', async (t) => {
  const { url, server } = await served(t)
  const endings: [string, number][] = [
    [keys('q'), 0],
    ['signal SIGINT', 0],
    ['signal SIGTERM', 143],
    ['signal SIGHUP', 129],
  ]
  await Promise.all(
    endings.map(async ([how, code]) => {
      const terminal = new Terminal(t, 24, 80, ['top', '--url', url])
      await until(() => terminal.screen.length > 1, 'a screen')
      terminal.act(how)
      t.same(await terminal.end(), { code, isRestored: true }, how)
      t.ok(terminal.output.endsWith(RESTORED), how)
    }),
  )
  const stopped = new Terminal(t, 24, 80, ['top', '--interval', '100ms', '--url', url])
  await until(() => stopped.screen.length > 1, 'a screen')
  stopped.act(keys('\x1a'))
  await until(() => stopped.output.endsWith(RESTORED), 'the end of the screen')
  const { length } = stopped.output
  stopped.act('signal SIGCONT')
  await until(
    () => stopped.output.slice(length).includes('large') || stopped.output.length > length + 200,
    'it again',
  )
  t.ok(stopped.output.slice(length).startsWith(CLEAR))

  await server.end('SIGKILL')
  await until(
    () => stopped.screen.some((line) => line.startsWith('no answer: cannot reach http')),
    'the reason',
  )
  stopped.act(keys('q'))
  t.same(await stopped.end(), { code: 0, isRestored: true })
})

t.test('a token that is taken away ends it, with the reason behind the restored terminal', async (t) => {
  const dir = folder(t)
  const auth = ['--auth-file', join(dir, 'tokens.json')]
  const made = await run(['token', 'create', 'desk', '--scope', 'read:*', ...auth])
  const file = join(dir, 'desk.token')
  writeFileSync(file, made.stdout, { mode: 0o600 })
  const server = serve(t, ['--data-dir', join(dir, 'data'), '--auth', 'token', ...auth])
  const url = await server.ready()
  const flags = ['--interval', '100ms', '--url', url, '--token-file', file]
  const terminal = new Terminal(t, 24, 80, ['top', ...flags])
  await until(() => terminal.screen.length > 1, 'a screen')
  t.equal((await run(['token', 'revoke', 'desk', ...auth])).code, 0)
  server.child.kill('SIGHUP')
  t.same(await terminal.end(), { code: 1, isRestored: true })
  t.match(terminal.output.split(RESTORED)[1], /^mmsb: UNAUTHORIZED: .* Give a token with --token-file\.\r\n$/)
})

t.test('in a pipe: one line each time, and it goes on when the server comes back', async (t) => {
  const { url, client, server, dataDir } = await served(t)
  const top = new Process(['top', '--interval', '100ms', '--url', url])
  t.teardown(() => top.end('SIGKILL'))
  const lines = (): string[] => top.stdout.split('\n').slice(0, -1)
  await until(() => lines().length > 0, 'a line')
  for (let i = 0; i < 5; i++) await client.patch('a', { values: [i] })
  await until(() => lines().some((line) => /^ready {2}epoch 10 /.test(line)), 'the newest epoch')
  t.ok(
    lines().some((line) => Number(/epochs\/s ([\d.]+)/.exec(line)?.[1]) > 0),
    'a rate',
  )
  t.notMatch(top.stdout, '\x1b')
  await server.end('SIGKILL')
  await until(() => top.stderr !== '', 'the line about it')
  const { length } = lines()
  await serve(t, ['--data-dir', dataDir, '--port', new URL(url).port]).ready()
  await until(() => lines().length > length + 1, 'lines of the new server')
  t.match(top.stderr, /^mmsb: cannot reach http[^\n]+; trying again\n(mmsb: OVERLOADED[^\n]+\n)?$/)
  t.equal(await top.end('SIGINT'), 'SIGINT')
})

t.test('once, as text and as JSON; and wrong intervals', async (t) => {
  const { mmsb, client } = await served(t)
  const subscription = client.subscribe({ pages: ['a'], durable: 'desk', from: 'snapshot' })
  await subscription.next()
  await subscription.commit()
  await client.patch('a', { values: [9] })
  const { code, stdout, stderr } = await mmsb('top', '--once', '--interval', '200ms')
  t.same([code, stderr], [0, ''])
  t.match(stdout, /^epoch 6 {2}epochs\/s 0\.0 {2}deltas\/s 0\.0 {2}log 0 B\/s$/m)
  t.match(stdout, /^memory \[\| +\] 112 B of 8\.0 GiB {2}3 pages: 2 source, 1 derived$/m)
  t.match(stdout, /^queue 0 transactions, 0 B$/m)
  t.match(stdout, /^commit +0\.0 +[\d.]+ m?s/m)
  t.match(stdout, /^stream 1 connection, 1 subscription /m)
  t.match(stdout, /^desk +5 +1 +connected$/m)
  t.match(stdout, /^a +source +f64\[2,3\] +cpu +48 B +6$/m)
  t.notMatch(stdout, '\x1b')
  t.match(jsonOf(await mmsb('top', '--once', '--json', '--interval', '200ms')), {
    at: /^\d{4}-.*Z$/,
    perSecond: { epochs: 0, deltas: 0, logBytes: 0, messages: 0, stages: { commit: 0 } },
    status: { epoch: 6 },
    stats: { pages: { count: 3 } },
    largest: [
      { name: 'a', bytes: 48 },
      { name: 'b', bytes: 48 },
      { name: 'n', bytes: 16 },
    ],
  })
  t.match(await mmsb('top', '--interval', '10ms'), { code: 2, stdout: '', stderr: /at least 100ms/ })
})
