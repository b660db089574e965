/**
 * `mmsb watch` against a real server: lines, JSON, a server that goes away and comes back, a pipe
 * that closes.
 */
import { execFile } from 'node:child_process'
import t from 'tap'
import { watch } from '../../../../src/cli/commands/remote/watch.js'
import { connect } from '../../../../src/client/node.js'
import { plainEnvironment } from '../../../lib/environment.js'
import { sleep, until } from '../../../lib/wait.js'
import { ENTRY, Process, serve } from '../../process.js'
import { ended, served } from './server.js'

// Many processes, one after the other.
t.setTimeout(120_000)

t.test('one line for each page that an epoch changed', async (t) => {
  const { mmsb, client } = await served(t)
  await client.patch('a', { indices: [0, 2], values: [10, 30] })
  await client.transact({
    ops: [
      { page: 'n', values: [4n] },
      { page: 'a', values: [0] },
    ],
  })
  await client.delete('n')
  t.match(await mmsb('watch', '*', '--from', '3', '--limit', '8'), {
    code: 0,
    stderr: '',
    stdout: `epoch 4  a  [0:6] = 1 2 3 4 5 6
epoch 4  b  [0:6] = 2 4 6 8 10 12
epoch 5  n  [0:2] = -1 9007199254740993
epoch 6  a  [0] = 10  [2] = 30
epoch 6  b  [0] = 20  [2] = 60
epoch 7  a  [0] = 0
epoch 7  b  [0] = 0
epoch 7  n  [0] = 4
`,
  })
})

t.test('snapshots, what a change carries, and long lines', async (t) => {
  const { mmsb, client } = await served(t)
  const snapshot = await mmsb('watch', 'a', 'n', '--from', 'snapshot', '--limit', '2')
  t.equal(
    snapshot.stdout,
    'epoch 5  a  snapshot f64[2,3] = 1 2 3 4 5 6\nepoch 5  n  snapshot i64[2] = -1 9007199254740993\n',
  )
  const ranges = await mmsb('watch', 'a', '--from', '3', '--data', 'ranges', '--limit', '1')
  t.equal(ranges.stdout, 'epoch 4  a  [0:6]\n')
  const names = await mmsb('watch', 'a', '--from', '3', '--data', 'none', '--limit', '1')
  t.equal(names.stdout, 'epoch 4  a  changed\n')
  await client.create('long', { dtype: 'u8', shape: [1000], fill: 7 })
  await client.patch('long', {
    indices: Array.from({ length: 100 }, (_, i) => 2 * i),
    values: Array(100).fill(1),
  })
  await client.delete('long')
  const long = (await mmsb('watch', 'long', '--from', '5', '--limit', '3')).stdout.split('\n')
  t.equal(long[0], `epoch 6  long  created u8[1000]  [0:1000] = ${'7 '.repeat(64)}... 936 more`)
  t.match(long[1], /^epoch 7 {2}long {2}\[0\] = 1 {2}\[2\] = 1 .*\[126\] = 1 {2}\.\.\. 36 more ranges$/)
  t.equal(long[2], 'epoch 8  long  deleted')
})

t.test('JSON: one line per epoch, in the form of the stream', async (t) => {
  const { mmsb } = await served(t)
  const { stdout } = await mmsb('watch', '*', '--from', '3', '--limit', '2', '--json')
  const form = { dtype: 'f64', shape: [2, 3], ranges: [[0, 6]] }
  t.same(
    stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown),
    [
      {
        type: 'change',
        epoch: 4,
        first: 4,
        changes: [
          { page: 'a', kind: 'source', ...form, values: [1, 2, 3, 4, 5, 6] },
          { page: 'b', kind: 'derived', ...form, values: [2, 4, 6, 8, 10, 12] },
        ],
      },
      {
        type: 'change',
        epoch: 5,
        first: 5,
        changes: [
          {
            page: 'n',
            kind: 'source',
            dtype: 'i64',
            shape: [2],
            ranges: [[0, 2]],
            values: ['-1', '9007199254740993'],
          },
        ],
      },
    ],
  )
})

t.test('a server that is killed and comes back: every epoch once', async (t) => {
  const { client, server, dataDir, url } = await served(t)
  const watching = new Process(['watch', 'a', '--from', '5', '--url', url])
  t.teardown(() => watching.end('SIGKILL'))
  const lines = (): string[] => watching.stdout.split('\n').slice(0, -1)
  for (let i = 0; i < 3; i++) await client.patch('a', { values: [i] })
  await until(() => lines().length === 3, 'the first changes')
  await server.end('SIGKILL')
  await until(() => watching.stderr.includes('was lost; trying again'), 'the line about the lost connection')
  const again = serve(t, ['--data-dir', dataDir, '--port', new URL(url).port])
  await again.ready()
  const other = connect(url)
  t.teardown(() => other.close())
  for (let i = 3; i < 6; i++) await other.patch('a', { values: [i] })
  await until(() => lines().length === 6, 'the changes after it')
  t.same(
    lines(),
    Array.from({ length: 6 }, (_, i) => `epoch ${6 + i}  a  [0] = ${i}`),
  )
  await until(() => watching.stderr.includes('connected again'), 'the line about the connection')
  t.equal(watching.stderr, `mmsb: the connection to ${url} was lost; trying again\nmmsb: connected again\n`)
  t.equal(await watching.end('SIGINT'), 'SIGINT')
})

t.test('a server that comes back with another history ends it', async (t) => {
  const { client, server, dataDir, url } = await served(t)
  const watching = new Process(['watch', 'a', '--from', '5', '--url', url])
  t.teardown(() => watching.end('SIGKILL'))
  await client.patch('a', { values: [0] })
  await until(() => watching.stdout !== '', 'the change')
  await server.end()
  await serve(t, ['--data-dir', dataDir, '--port', new URL(url).port, '--until-epoch', '5', '--cut']).ready()
  t.equal(await watching.exited, 1)
  t.match(watching.stderr, /^mmsb: HISTORY_CHANGED: [^\n]+$/m)
  t.equal(watching.stdout, 'epoch 6  a  [0] = 0\n')
})

t.test('a history that is gone, a page that is no pattern, a limit', async (t) => {
  const { url } = await served(t)
  for (const [args, code, message] of [
    [['a', '--from', '99'], 1, /^EPOCH_NOT_FOUND: [^\n]+$/],
    [['(a'], 1, /^INVALID_REQUEST: pages: "\(a" is neither a page name nor a pattern[^\n]+$/],
    [['a', '--from', 'then'], 2, /--from: "then" is not now, snapshot or an epoch/],
    [['a', '--data', 'all'], 2, /--data: "all" is not one of none, ranges, values/],
    [['a', '--policy', 'all'], 2, /--policy: "all" is not one of lossless, latest/],
    [['a', '--limit', '0'], 2, /--limit: "0"/],
    [[], 2, /PATTERN is missing/],
  ] as const) {
    const done = await ended(watch, ['--url', url, ...args])
    t.equal(done.code, code, args.join(' '))
    t.match(done.line, message)
  }
})

t.test('a pipe that closes ends it quietly', async (t) => {
  const { url, client } = await served(t)
  const script = `set -o pipefail; ${process.execPath} ${ENTRY} watch a --from 5 | head -1`
  const ended = new Promise<string>((resolve, reject) => {
    const env = { ...plainEnvironment(), MMSB_URL: url }
    execFile('bash', ['--norc', '-c', script], { encoding: 'utf8', env }, (error, stdout, stderr) => {
      if (error === null && stderr === '') resolve(stdout)
      else reject(error ?? new Error(stderr))
    })
  })
  let hasEnded = false
  const write = async (): Promise<void> => {
    for (; !hasEnded; await sleep(50)) await client.patch('a', { values: [1], merge: 'add' })
  }
  const writing = write()
  const printed = await ended.finally(() => {
    hasEnded = true
  })
  await writing
  t.equal(printed, 'epoch 6  a  [0] = 2\n')
})
