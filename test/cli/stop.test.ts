/** What a stopping server does with each kind of connection, seen from outside. */
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { ERRORS } from '../../src/errors.js'
import { Bus } from '../../src/index.js'
import { STOP_ARRIVAL_GRACE_MS, STOP_GRACE_MS } from '../../src/limits.js'
import { sleep, until } from '../lib/wait.js'
import { call, type Process, serve } from './process.js'

type Test = Parameters<typeof serve>[0]

/** Time allowed between signal and exit when no request waits for an answer, on a slow machine. */
const PROMPT_MS = STOP_GRACE_MS / 4
const PATCH_BODY = JSON.stringify({ offset: 0, values: [1], merge: 'add' })
const PATCH_HEAD = [
  'PATCH /v1/pages/a/data HTTP/1.1',
  'Host: 127.0.0.1',
  'Content-Type: application/json',
  `Content-Length: ${PATCH_BODY.length}`,
].join('\r\n')

async function started(
  t: Test,
): Promise<{ server: Process; url: string; port: number; stored(): Promise<number> }> {
  const dataDir = t.testdir()
  const server = serve(t, ['--data-dir', dataDir, '--backend', 'cpu', '--threads', '1'])
  const url = await server.ready()
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'i32', shape: [1] })
  const stored = async (): Promise<number> => {
    const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
    const [sum] = bus.read('a') as Int32Array
    await bus.close()
    return sum!
  }
  return { server, url, port: Number(new URL(url).port), stored }
}

/**
 * Resolves when the server has seen what was sent before: it reads its connections in the order in which
 * bytes arrive, and this asks twice.
 */
async function seen(url: string): Promise<void> {
  for (let i = 0; i < 2; i++) await (await fetch(`${url}/livez`, { headers: { connection: 'close' } })).text()
}

/** Signals the server to stop; `stopping` resolves when it has noticed. */
function stop(server: Process): { exited: Promise<number | string>; stopping: Promise<void> } {
  const exited = server.end('SIGTERM')
  return { exited, stopping: until(() => server.stderr.includes('"stopping"'), 'the signal') }
}

/** A connection, and everything it received until its end. */
async function opened(
  port: number,
): Promise<{ socket: Socket; ended: Promise<{ text: string; error?: string }> }> {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  let error: string | undefined
  socket.on('data', (chunk) => {
    text += chunk
  })
  socket.on('error', (cause: NodeJS.ErrnoException) => {
    error = cause.code
  })
  const ended = once(socket, 'close').then(() => ({ text, ...(error === undefined ? {} : { error }) }))
  await once(socket, 'connect')
  return { socket, ended }
}

type Outcome =
  | { readonly status: number; readonly closes: boolean; readonly problem?: unknown }
  | { readonly error: string }

/** Sends one PATCH through an agent. */
function patch(url: string, agent: Agent): Promise<Outcome> {
  return new Promise((resolve) => {
    const headers = { 'content-type': 'application/json', 'content-length': PATCH_BODY.length }
    const sent = request(`${url}/v1/pages/a/data`, { method: 'PATCH', agent, headers }, (answer) => {
      let text = ''
      answer.on('data', (chunk: Buffer) => {
        text += chunk
      })
      answer.on('error', (cause: NodeJS.ErrnoException) => resolve({ error: cause.code ?? cause.message }))
      answer.on('end', () => {
        const status = answer.statusCode!
        const closes = answer.headers.connection === 'close'
        if (status === 200) resolve({ status, closes })
        else
          resolve({
            status,
            closes,
            problem: { ...JSON.parse(text), retryAfter: answer.headers['retry-after'] },
          })
      })
    })
    sent.on('error', (cause: NodeJS.ErrnoException) => resolve({ error: cause.code ?? cause.message }))
    sent.end(PATCH_BODY)
  })
}

/**
 * Checks that each outcome is an answer (of the page, or an error of the table) or a refused connection.
 * Returns how many were acknowledged.
 */
function acknowledged(t: Test, outcomes: readonly Outcome[]): number {
  let count = 0
  for (const outcome of outcomes) {
    if ('error' in outcome) t.equal(outcome.error, 'ECONNREFUSED', 'no connection was lost')
    else if (outcome.status === 200) count++
    else t.match(outcome.problem, { status: 503, code: /^[A-Z_]+$/, hint: String, retryAfter: /^\d+$/ })
  }
  return count
}

t.test('a client that sends nothing, or half a request, does not delay the exit', async (t) => {
  const { server, port, url } = await started(t)
  const silent = await opened(port)
  const halfHead = await opened(port)
  halfHead.socket.write(PATCH_HEAD)
  const halfBody = await opened(port)
  halfBody.socket.write(`${PATCH_HEAD}\r\n\r\n${PATCH_BODY.slice(0, 5)}`)
  const idle = await opened(port)
  idle.socket.write('GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
  await once(idle.socket, 'data')
  await seen(url)
  const startMs = performance.now()
  t.equal(await server.end('SIGTERM'), 0)
  t.ok(performance.now() - startMs < PROMPT_MS, `it took ${performance.now() - startMs} ms`)
  for (const { ended } of [silent, halfHead, halfBody]) t.match(await ended, { text: '' })
  t.notMatch((await idle.ended).text, /connection: close/i)
  t.notMatch(server.stderr, /internal error/)
})

t.test(
  'the server waits for a body that keeps arriving, and for a request that arrives just now',
  async (t) => {
    const { server, port, url, stored } = await started(t)
    const slow = await opened(port)
    slow.socket.write(`${PATCH_HEAD}\r\n\r\n`)
    const late = await opened(port)
    await seen(url)
    const { exited, stopping } = stop(server)
    await stopping
    late.socket.write(`${PATCH_HEAD}\r\n\r\n${PATCH_BODY}${PATCH_HEAD}\r\n\r\n${PATCH_BODY}`)
    // Altogether this takes much longer than the grace period.
    for (const piece of PATCH_BODY) {
      slow.socket.write(piece)
      await sleep(STOP_ARRIVAL_GRACE_MS / 10)
    }
    t.match((await slow.ended).text, /^HTTP\/1\.1 200 [\s\S]*connection: close/i)
    const answers = (await late.ended).text.split(/(?=HTTP\/1\.1 )/)
    t.equal(answers.length, 2, 'requests sent one behind the other are all answered')
    for (const answer of answers) t.match(answer, /^HTTP\/1\.1 200 /)
    t.match(answers[1], /connection: close/i)
    t.equal(await exited, 0)
    t.equal(await stored(), 3)
  },
)

t.test('fresh connections at the moment of the signal: each is answered', async (t) => {
  const { server, url, stored } = await started(t)
  const agent = new Agent({ keepAlive: false })
  const writes = Array.from({ length: 20 }, () => patch(url, agent))
  await sleep(5)
  const exited = server.end('SIGTERM')
  const outcomes = await Promise.all(writes)
  t.equal(await exited, 0)
  t.equal(await stored(), acknowledged(t, outcomes), 'acknowledged = stored')
})

t.test('busy connections that are kept alive: none is reset', async (t) => {
  const { server, url, stored } = await started(t)
  const outcomes: Outcome[] = []
  const write = async (): Promise<void> => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    for (;;) {
      const outcome = await patch(url, agent)
      outcomes.push(outcome)
      if ('error' in outcome || outcome.closes) break
    }
    agent.destroy()
  }
  const writers = Array.from({ length: 8 }, write)
  await until(() => outcomes.length > 16, 'each is busy')
  const exited = server.end('SIGTERM')
  await Promise.all(writers)
  t.equal(await exited, 0)
  t.ok(
    outcomes.some((outcome) => 'closes' in outcome && outcome.closes),
    'they are told',
  )
  t.equal(await stored(), acknowledged(t, outcomes), 'acknowledged = stored')
})

t.test('/readyz reports the stop while requests in flight continue', async (t) => {
  const { server, port, url } = await started(t)
  const probe = await opened(port)
  const slow = await opened(port)
  slow.socket.write(`${PATCH_HEAD}\r\n\r\n`)
  await seen(url)
  const { exited, stopping } = stop(server)
  await stopping
  probe.socket.write('GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
  const { text } = await probe.ended
  t.match(text, /^HTTP\/1\.1 503 /)
  t.match(text, /application\/problem\+json/)
  t.match(text, /retry-after: \d/i)
  const problem = JSON.parse(text.slice(text.indexOf('{'))) as object
  t.match(problem, { code: 'BUS_FAILED', detail: 'the server is not ready', hint: ERRORS.BUS_FAILED.hint })
  slow.socket.write(PATCH_BODY)
  t.match((await slow.ended).text, /^HTTP\/1\.1 200 /)
  t.equal(await exited, 0)
})
