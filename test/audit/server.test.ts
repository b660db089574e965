/**
 * The audit trail of a real server: killed, on a failing disk, beside other commands, checked by
 * `mmsb audit`.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { filesIn } from '../../src/audit/files.js'
import { call, type Process, run, serve } from '../cli/process.js'
import { builtLibrary } from '../disk/preload.js'
import { folder } from '../lib/folder.js'
import { until } from '../lib/wait.js'
import { entriesOf, tamper } from './helpers.js'

const SOURCE = { dtype: 'u8', shape: [2] }
const CLOSED = ['--audit-fail', 'closed', '--log-level', 'info']

async function verified(t: Test, dataDir: string, code: 0 | 1, ...args: string[]): Promise<string> {
  const done = await run(['audit', 'verify', dataDir, ...args])
  t.equal(done.code, code, done.stdout + done.stderr)
  return done.stdout
}

t.test('a server that is killed has a line for all that it answered, and its trail is sound', async (t) => {
  const dataDir = join(t.testdir({}), 'data')
  const trail = join(dataDir, 'audit')
  const answered: string[] = []
  for (let round = 0; round < 4; round++) {
    const server = serve(t, ['--data-dir', dataDir, ...CLOSED])
    const url = await server.ready()
    const define = async (name: string): Promise<void> => {
      const { name: made } = await call(url, 'PUT', `/v1/pages/${name}`, SOURCE)
      if (made === name) answered.push(name)
    }
    const enough = answered.length + 20 * (round + 1)
    const working = Array.from({ length: 4 }, async (_, worker) => {
      for (let i = 0; ; i++) await define(`p${round}.${worker}.${i}`)
    })
    const ended = Promise.allSettled(working)
    await until(() => answered.length >= enough, 'pages are made')
    server.child.kill('SIGKILL')
    await ended
    if (round === 2) {
      // As a crash of the machine would leave it.
      const file = join(trail, filesIn(trail).at(-1) as string)
      writeFileSync(file, '{"ts":"20', { flag: 'a' })
      t.match(await verified(t, dataDir, 0), /note: .*bytes of a line that a crash has torn/)
    }
  }
  const entries = entriesOf(trail)
  const done = new Set(entries.filter(({ outcome }) => outcome === 'done').flatMap(({ pages }) => pages))
  t.same(
    answered.filter((name) => !done.has(name)),
    [],
    'each of them has its line',
  )
  t.match(await verified(t, dataDir, 0), /^ok: \d+ lines in \d files; the last is \d+:[0-9a-f]{64}$/m)
  tamper(trail, (lines) => lines.toSpliced(10, 1))
  t.match(await verified(t, dataDir, 1), /^problem: .*jsonl:11: line 11 is missing before line 12$/m)
  t.match(JSON.parse(await verified(t, dataDir, 1, '--json')), { ok: false, problems: [String] })
})

t.test('a disk that fails: closed refuses what must be in the trail, open goes on', async (t) => {
  for (const fail of ['closed', 'open']) {
    const dir = folder(t)
    const when = join(dir, 'failing')
    const dataDir = join(dir, 'data')
    const env = {
      LD_PRELOAD: builtLibrary('failing_io'),
      FAIL_CALL: 'sync',
      FAIL_PATH: '/data/audit/',
      FAIL_WHEN: when,
    }
    const server = serve(t, ['--data-dir', dataDir, '--audit-fail', fail, '--log-level', 'warn'], { env })
    const url = await server.ready()
    t.match(await call(url, 'PUT', '/v1/pages/a', SOURCE), { name: 'a' })
    writeFileSync(when, '')
    const answer = await call(url, 'PUT', '/v1/pages/b', SOURCE)
    if (fail === 'closed') t.match(answer, { status: 503, code: 'AUDIT_FAILED' })
    else t.match(answer, { name: 'b' })
    t.match(await call(url, 'PATCH', '/v1/pages/a/data', { offset: 0, values: [1] }), { page: 'a' })
    await until(() => server.stderr.includes('the audit trail cannot be written'), 'the log says so')
    rmSync(when)
    t.match(await call(url, 'PUT', '/v1/pages/c', SOURCE), { name: 'c' })
    t.match(await call(url, 'GET', '/v1/pages'), { pages: fail === 'closed' ? { length: 2 } : { length: 3 } })
    await server.end()
    await verified(t, dataDir, 0)
    const actions = entriesOf(join(dataDir, 'audit')).map(({ action, outcome }) => `${action} ${outcome}`)
    if (fail === 'closed') {
      t.ok(actions.includes('auditLost failed'), actions.join())
      const pages = entriesOf(join(dataDir, 'audit')).flatMap((entry) => entry.pages ?? [])
      t.same(pages, ['a', 'a', 'c', 'c'], 'nothing of what was not done')
    }
    t.match(actions.at(-1), 'createPage done')
  }
})

t.test('tokens, reloads, refused logins of every door', async (t) => {
  const dir = t.testdir({})
  const file = join(dir, 'tokens.json')
  const dataDir = join(dir, 'data')
  const trail = join(dataDir, 'audit')
  const create = async (id: string, ...args: string[]): Promise<string> => {
    const done = await run(['token', 'create', id, '--auth-file', file, '--scope', 'read:*', ...args])
    t.equal(done.code, 0, done.stderr)
    return done.stdout.trim()
  }
  await create('desk')
  const server: Process = serve(t, ['--data-dir', dataDir, '--auth', 'token', '--auth-file', file])
  const url = await server.ready()
  await create('late', '--data-dir', dataDir)
  const revoked = await run(['token', 'revoke', 'nobody', '--auth-file', file, '--data-dir', dataDir])
  t.equal(revoked.code, 1)
  const principal = `os/${userInfo().username}`
  t.match(entriesOf(trail), [
    { action: 'createToken', principal, target: 'late', outcome: 'begun' },
    { action: 'createToken', principal, target: 'late', outcome: 'done' },
    { action: 'revokeToken', principal, target: 'nobody', outcome: 'begun' },
    { action: 'revokeToken', principal, target: 'nobody', outcome: 'refused', code: 'NOT_FOUND' },
  ])
  const reloaded = async (outcome: string): Promise<void> => {
    server.child.kill('SIGHUP')
    await until(
      () => entriesOf(trail).some((entry) => entry.action === 'reload' && entry.outcome === outcome),
      `reload ${outcome}`,
    )
  }
  await reloaded('done')
  await until(() => entriesOf(trail).some(({ action }) => action === 'changePrincipal'), 'who has changed')
  t.match(entriesOf(trail).at(-1), { action: 'changePrincipal', target: 'late' })
  const text = readFileSync(file)
  writeFileSync(file, '{')
  await reloaded('failed')
  writeFileSync(file, text)

  const before = entriesOf(trail).length
  await fetch(`${url}/v1/pages`, { headers: { authorization: 'Bearer secret' } })
  await fetch(`${url}/v1/events?pages=*&ticket=secret`)
  const stream = url.replace('http', 'ws')
  const sockets = [
    new WebSocket(`${stream}/v1/stream?ticket=secret`),
    new WebSocket(`${stream}/v1/stream`, ['mmsb.v1.json', 'mmsb.bearer.c2VjcmV0']),
    new WebSocket(`${stream}/v1/stream`, 'mmsb.v1.bin'),
  ]
  for (const socket of sockets) await new Promise((resolve) => socket.once('error', resolve))
  await until(() => entriesOf(trail).length >= before + 5, 'each has a line')
  t.match(
    entriesOf(trail).slice(before),
    Array(5).fill({ action: 'login', outcome: 'refused', ip: '127.0.0.1' }),
  )
  t.notMatch(readFileSync(join(trail, filesIn(trail)[0] as string), 'utf8'), /secret|c2VjcmV0/)
  await server.end()
  await verified(t, dataDir, 0)
})

t.test('a login that ends while it is in use has a line', async (t) => {
  const dir = t.testdir({})
  const file = join(dir, 'tokens.json')
  const dataDir = join(dir, 'data')
  const made = await run(['token', 'create', 'desk', '--auth-file', file, '--scope', 'read:*'])
  const server = serve(t, ['--data-dir', dataDir, '--auth', 'token', '--auth-file', file])
  const url = (await server.ready()).replace('http', 'ws')
  const headers = { authorization: `Bearer ${made.stdout.trim()}`, 'x-request-id': 'ws-1' }
  const socket = new WebSocket(`${url}/v1/stream`, 'mmsb.v1.json', { headers })
  const id = new Promise((resolve) =>
    socket.once('upgrade', (answer) => resolve(answer.headers['x-request-id'])),
  )
  t.equal(await id, 'ws-1', 'the handshake says its id too')
  const closed = new Promise((resolve) => socket.once('close', resolve))
  await run(['token', 'revoke', 'desk', '--auth-file', file])
  server.child.kill('SIGHUP')
  t.equal(await closed, 4401)
  const trail = join(dataDir, 'audit')
  const ended = { action: 'loginEnded', principal: 'desk', requestId: 'ws-1', outcome: 'refused' }
  await until(() => entriesOf(trail).some(({ action }) => action === 'loginEnded'), 'its line')
  t.match(
    entriesOf(trail).find(({ action }) => action === 'loginEnded'),
    ended,
  )
  await server.end()
})

t.test('backups, checks and servers that only read leave the trail alone', async (t) => {
  const dir = t.testdir({})
  const dataDir = join(dir, 'data')
  const server = serve(t, ['--data-dir', dataDir])
  await call(await server.ready(), 'PUT', '/v1/pages/a', SOURCE)
  await server.end()
  const before = readFileSync(join(dataDir, 'audit/head'), 'utf8')
  for (const args of [
    ['backup', join(dir, 'backup'), '--data-dir', dataDir],
    ['restore', join(dir, 'backup'), '--data-dir', join(dir, 'restored')],
    ['log', 'check', '--data-dir', dataDir],
    ['verify', '--data-dir', dataDir],
  ]) {
    const done = await run(args)
    t.equal(done.code, 0, `${args[0]}: ${done.stdout}${done.stderr}`)
  }
  const restored = await run(['audit', 'verify', join(dir, 'restored')])
  t.equal(restored.code, 1)
  t.match(restored.stderr, /holds no audit trail/, 'a backup is without it')
  const reader = serve(t, ['--data-dir', dataDir, '--read-only'])
  await call(await reader.ready(), 'PUT', '/v1/pages/b', SOURCE)
  await reader.end()
  t.equal(readFileSync(join(dataDir, 'audit/head'), 'utf8'), before)
  await verified(t, dataDir, 0)
})

t.test('wrong usage', async (t) => {
  const cases: [readonly string[], RegExp][] = [
    [['audit', 'verify'], /data folder is missing/],
    [['audit', 'mend', 'x'], /unknown action "mend": use verify/],
    [['audit', 'verify', '.', '--known', '7'], /--known: is not the number of a line/],
    [['serve', '--audit-fail', 'maybe'], /--audit-fail: "maybe" is not one of open, closed/],
  ]
  for (const [args, message] of cases) {
    const { code, stderr } = await run(args)
    t.equal(code, 2)
    t.match(stderr, message)
  }
  t.match((await run(['audit', '--help'])).stdout, /^usage: mmsb audit verify DATA/)
})
