/**
 * Nothing that a server prints, answers or writes down holds a credential, at the most talkative level of its
 * log, after good and bad logins through every door.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { WebSocket } from 'ws'
import { newToken } from '../../../src/auth/tokens.js'
import { run, serve } from '../../cli/process.js'
import { until } from '../../lib/wait.js'

const base64url = (text: string): string => Buffer.from(text).toString('base64url')

t.test('no credential is printed, answered or written down', async (t) => {
  const dir = t.testdir({})
  const file = join(dir, 'tokens.json')
  const dataDir = join(dir, 'data')
  const made = await run([
    'token',
    'create',
    'desk',
    '--auth-file',
    file,
    '--scope',
    'read:*,write:*,define:*',
  ])
  const good = made.stdout.trim()
  const flags = ['--data-dir', dataDir, '--auth', 'token', '--auth-file', file, '--audit-writes']
  const server = serve(t, [...flags, '--admin-listen', '127.0.0.1:0', '--log-level', 'trace'])
  const url = await server.ready()
  const stray = newToken('desk')
  const jwt = `${base64url('{"alg":"none"}')}.${base64url('{"sub":"desk"}')}.${base64url('sign')}`
  const odd = ['hush-odd-token', jwt, stray, `${good.slice(0, -1)}x`]
  const secrets = new Set([good, ...odd, base64url(good), ...odd.map(base64url), 'hush-cookie', 'hush-basic'])
  const answers: string[] = []

  const ask = async (
    path: string,
    headers: Record<string, string>,
    init: RequestInit = {},
  ): Promise<string> => {
    const answer = await fetch(url + path, {
      ...init,
      headers: { cookie: 'session=hush-cookie', ...headers },
    })
    const text = await answer.text()
    answers.push(JSON.stringify([...answer.headers]), text)
    return text
  }
  const json = { 'content-type': 'application/json' }
  for (const token of [good, ...odd]) {
    const headers = { authorization: `Bearer ${token}` }
    await ask('/v1/pages', headers)
    await ask('/v1/pages/a', { ...headers, ...json }, { method: 'PUT', body: '{"dtype":"u8","shape":[2]}' })
    await ask('/v1/pages/a/data', { ...headers, ...json }, { method: 'PATCH', body: '{"values":' })
    await ask('/nowhere', headers)
  }
  // The answer repeats the path; the log must not.
  await ask(`/v1/pages/${stray}`, { authorization: `Bearer ${good}` })
  answers.pop()
  for (const authorization of ['Basic hush-basic', 'Bearer', 'hush-basic', `Token ${stray}`])
    await ask('/v1/pages', { authorization })
  const { ticket } = JSON.parse(
    await ask('/v1/tickets', { authorization: `Bearer ${good}` }, { method: 'POST' }),
  ) as { ticket: string }
  // The answer is the place for it.
  answers.pop()
  secrets.add(ticket)
  for (const given of [ticket, ticket, 'hush-odd-token']) {
    const streamed = await fetch(`${url}/v1/events?pages=*&ticket=${given}`)
    answers.push(JSON.stringify([...streamed.headers]))
    if (streamed.ok) await streamed.body?.cancel()
    else answers.push(await streamed.text())
  }
  const sockets = [good, ...odd].map(
    (token) =>
      new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, [
        'mmsb.v1.json',
        `mmsb.bearer.${base64url(token)}`,
      ]),
  )
  sockets.push(new WebSocket(`${url.replace('http', 'ws')}/v1/stream?ticket=hush-odd-token`))
  for (const socket of sockets) {
    await new Promise((resolve) => socket.once('open', resolve).once('error', resolve))
    socket.terminate()
  }
  // What is no request, and headers that are too large.
  for (const head of ['GET / HTTP/9\r\n', `GET / HTTP/1.1\r\nx: ${'x'.repeat(20_000)}\r\n`]) {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    socket.end(`${head}authorization: Bearer ${good}\r\n\r\n`)
    for await (const piece of socket) answers.push(String(piece))
  }
  // A token file with a mistake that quotes a token.
  const text = readFileSync(file, 'utf8')
  writeFileSync(file, `{"principals": ${good}`)
  server.child.kill('SIGHUP')
  await until(() => server.stderr.includes('were not taken over'), 'the reload is refused')
  writeFileSync(file, text)
  await server.end()

  const trail = readdirSync(join(dataDir, 'audit')).map((name) =>
    readFileSync(join(dataDir, 'audit', name), 'utf8'),
  )
  t.match(server.stderr, /"msg":"request"/, 'requests are in the log')
  t.match(trail.join(''), /"action":"login"/, 'refused logins are in the trail')
  for (const [place, said] of Object.entries({
    'standard output': server.stdout,
    'the log': server.stderr,
    'the audit trail': trail.join('\n'),
    'an answer': answers.join('\n'),
  }))
    for (const secret of secrets) t.notOk(said.includes(secret), `${secret.slice(0, 12)}... in ${place}`)
})
