/** What commands print cannot steer a terminal. */
import t from 'tap'
import { copyProgress, escaped } from '../../src/cli/output.js'
import { copyFile } from '../../src/store/offline/copy-file.js'
import { run } from './process.js'

t.test('control characters are escaped, other text is not', async (t) => {
  t.equal(escaped('a\u001b[2J\nb\r\u0007\u009b\u202ec\u007f'), 'a\\x1b[2J\\x0ab\\x0d\\x07\\x9b\\u202ec\\x7f')
  t.equal(escaped('prices.µ 日本 "x"'), 'prices.µ 日本 "x"')
})

t.test('copying files reports the bytes of all of them', async (t) => {
  const said: string[] = []
  t.capture(process.stderr, 'write', (text: string) => said.push(text))
  let nowMs = 0
  t.capture(performance, 'now', () => nowMs)
  const onCopied = copyProgress()
  const MIB = 1024 ** 2
  for (const [file, bytes] of [
    ['a', MIB],
    ['a', 2 * MIB],
    ['b\u001b', MIB],
  ] as const) {
    nowMs += 600
    onCopied(bytes, file)
  }
  t.same(said, ['mmsb: copied 2 MiB, now a\n'], 'at most once a second')
  nowMs += 1000
  onCopied(3 * MIB, 'b\u001b')
  t.same(said.slice(1), ['mmsb: copied 5 MiB, now b\\x1b\n'], 'names are escaped')
})

t.test('a copy tells of each piece', async (t) => {
  const dir = t.testdir({ from: 'x'.repeat(2.5 * 1024 ** 2) })
  const pieces: [number, string][] = []
  copyFile(`${dir}/from`, `${dir}/to`, undefined, (bytes, file) => pieces.push([bytes, file]))
  t.same(
    pieces.map(([bytes]) => bytes),
    [1024 ** 2, 2 * 1024 ** 2, 2.5 * 1024 ** 2],
  )
  t.ok(pieces.every(([, file]) => file === `${dir}/from`))
})

t.test('nothing of the shell that runs the tests shows in what a command prints', async (t) => {
  const home = t.testdir({ '.bashrc': 'echo a start-up file >&2\n' })
  const { env } = process
  t.teardown(() => {
    process.env = env
  })
  const noisy = {
    FORCE_COLOR: '1',
    NO_COLOR: '1',
    NODE_DEBUG: 'fs',
    LC_ALL: 'xx_YY',
    BASH_ENV: `${home}/.bashrc`,
  }
  process.env = { PATH: env.PATH, HOME: home, ...noisy, MMSB_PORT: 'x', NODE_OPTIONS: '--trace-deprecation' }
  for (const level of [undefined, '0', '2']) {
    if (level === undefined) delete process.env.SHLVL
    else process.env.SHLVL = level
    const { code, stdout, stderr } = await run(['--version'])
    t.same([code, stderr], [0, ''], `SHLVL ${level}`)
    t.match(stdout, /^\d+\.\d+\.\d+\S*\n$/)
  }
})
