/** `mmsb status`, `mmsb stats` and `mmsb checkpoint` against a real server. */
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Checkpoint, Stats, Status } from '../../../../src/client/types.js'
import { run, serve } from '../../process.js'
import { jsonOf, served } from './server.js'

// Many processes, one after the other.
t.setTimeout(120_000)

t.test('status: what the server says of itself', async (t) => {
  const { mmsb, url, client } = await served(t)
  const { code, stdout, stderr } = await mmsb('status')
  t.same([code, stderr], [0, ''])
  const { history, digest } = await client.status()
  const rows = new Map(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split(/ {2,}/) as [string, string]),
  )
  t.match(rows.get('server'), new RegExp(`^${url}, mmsb \\d`))
  t.match(rows.get('state'), /^ready, up for \d/)
  t.equal(rows.get('epoch'), '5, readable from 0')
  t.same([rows.get('history'), rows.get('digest'), rows.get('pages')], [history, digest, '3'])
  t.same([rows.get('backend'), rows.get('fsync')], ['cpu', 'always'])
  const { uptimeMs, ...json } = jsonOf<Status>(await mmsb('status', '--json'))
  const { uptimeMs: later, ...expected } = await client.status()
  t.ok(uptimeMs > 0 && uptimeMs <= later)
  t.same(json, expected)
})

t.test('stats: tables, and the numbers of the server as JSON', async (t) => {
  const { mmsb, client } = await served(t)
  const subscription = client.subscribe({ pages: ['a'], durable: 'desk', from: 'snapshot' })
  await subscription.next()
  await subscription.commit()
  await client.patch('a', { values: [9] })
  await client.patch('a', { values: [10] })
  const { code, stdout, stderr } = await mmsb('stats')
  t.same([code, stderr], [0, ''])
  t.match(stdout, /^pages +3: 2 source, 1 derived$/m)
  t.match(stdout, /^graph +3 nodes, 1 edge, depth 1$/m)
  t.match(stdout, /^deltas +4 dense, 0 sparse, 0 masked$/m)
  t.match(stdout, /^memory +112 B of 8\.0 GiB$/m)
  t.match(stdout, /^commit +7 +[\d.]+ m?s +[\d.]+ m?s/m)
  t.match(stdout, /^desk +5 +2 +connected$/m)
  const json = jsonOf<Stats>(await mmsb('stats', '--json'))
  t.equal(json.epoch, 7)
  t.same(json.pages, (await client.stats()).pages)
  t.same(json.subscriptions?.durable[0], { name: 'desk', epoch: 5, lag: 2, connected: true, held: true })
})

t.test('checkpoint: made, waited for and told', async (t) => {
  const { mmsb, client } = await served(t)
  const { code, stdout, stderr } = await mmsb('checkpoint')
  t.same([code, stderr], [0, ''])
  t.match(stdout, /^checkpoint of epoch 5: 3 pages, 112 B, of which \d+ B written, in [\d.]+ m?s\n$/)
  t.equal((await client.checkpoints()).checkpoints.at(-1)?.epoch, 5)
  await client.patch('a', { values: [0] })
  const json = jsonOf<Checkpoint>(await mmsb('checkpoint', '--json'))
  t.same(json, (await client.checkpoints()).checkpoints.at(-1))
  t.equal(json.epoch, 6)
})

t.test('a server that only reads makes no checkpoint', async (t) => {
  const { server, dataDir } = await served(t)
  await server.end()
  const url = await serve(t, ['--data-dir', dataDir, '--read-only']).ready()
  const { code, stdout, stderr } = await run(['checkpoint', '--url', url])
  t.same([code, stdout], [1, ''])
  t.match(stderr, /^mmsb: READ_ONLY: [^\n]+\n$/)
  t.match((await run(['status', '--url', url])).stdout, /^state +ready, read only, up for/m)
})

t.test('tokens: the file, its mode, what a narrow one sees', async (t) => {
  const dir = t.testdir()
  const auth = join(dir, 'tokens.json')
  const made = async (id: string, scope: string): Promise<string> => {
    const { stdout } = await run(['token', 'create', id, '--auth-file', auth, '--scope', scope])
    const file = join(dir, `${id}.token`)
    writeFileSync(file, stdout, { mode: 0o600 })
    return file
  }
  const admin = await made('root', 'read:*,write:*,define:*,admin:*')
  const narrow = await made('narrow', 'read:b')
  const url = await serve(t, [
    '--data-dir',
    join(dir, 'data'),
    '--auth',
    'token',
    '--auth-file',
    auth,
  ]).ready()
  const mmsb = (...args: string[]): ReturnType<typeof run> => run([...args, '--url', url])

  const none = await mmsb('status')
  t.equal(none.code, 1)
  t.match(none.stderr, /^mmsb: UNAUTHORIZED: [^\n]+ Give a token with --token-file\.\n$/)
  t.match(await mmsb('stats', '--token-file', admin), { code: 0, stderr: '' })
  t.match(await run(['stats'], { env: { MMSB_URL: url, MMSB_TOKEN_FILE: admin } }), { code: 0, stderr: '' })
  const seen = await mmsb('stats', '--token-file', narrow)
  t.same([seen.code, seen.stderr], [0, ''])
  t.match(seen.stdout, /^pages +0: 0 source, 0 derived$/m)
  t.notMatch(seen.stdout, /^(queue|log|stream|commit)/m)
  const refused = await mmsb('checkpoint', '--token-file', narrow)
  t.equal(refused.code, 1)
  t.match(refused.stderr, /^mmsb: FORBIDDEN: [^\n]+\n$/)
  chmodSync(admin, 0o644)
  t.match(await mmsb('status', '--token-file', admin), { code: 1, stderr: /chmod 600\n$/ })
})
