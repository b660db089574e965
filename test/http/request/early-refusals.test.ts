/** Requests that are refused before their body is read, and what becomes of that body. */
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { BusOptions } from '../../../src/engine/types.js'
import { listen, type Served, serve } from '../helpers.js'

const M = 2 ** 20
const OCTETS = 'content-type: application/octet-stream'

interface Sending {
  readonly socket: Socket
  /** All that came back so far. */
  readonly got: () => string
  readonly closed: Promise<unknown>
}

async function start(t: Test, options: BusOptions = {}) {
  const served = await serve(t, options)
  const { port } = await listen(served)
  const { bus } = served
  await bus.create('x', { dtype: 'u8', shape: [4 * M] })
  await bus.derive('d', { op: 'map', inputs: { x: 'x' }, expr: 'x' })
  const send = (path: string, heads: readonly string[], method = 'PUT'): Sending => {
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.on('error', () => {})
    let got = ''
    socket.on('data', (chunk) => {
      got += String(chunk)
    })
    socket.write([`${method} ${path} HTTP/1.1`, 'host: localhost', ...heads, '', ''].join('\r\n'))
    return { socket, got: () => got, closed: new Promise((resolve) => socket.once('close', resolve)) }
  }
  return { served, bus, send }
}

async function until(isTrue: () => boolean): Promise<void> {
  for (let i = 0; i < 800 && !isTrue(); i++) await sleep(10)
}

const budgetUsed = ({ bus }: Served): number => new Map(bus.limits.uses()).get('requestBudgetBytes') as number

t.test('refused before anything of the body has come', async (t) => {
  const { bus, send } = await start(t, { limits: { maxBodyBytes: 8 * M, maxJsonBytes: M } })
  const long = `content-length: ${4 * M}`
  const cases: [what: string, path: string, heads: string[], answer: RegExp][] = [
    ['an unknown page', '/v1/pages/none/data', [OCTETS, long], /404 .*PAGE_NOT_FOUND/s],
    [
      'the same, chunked',
      '/v1/pages/none/data',
      [OCTETS, 'transfer-encoding: chunked'],
      /404 .*PAGE_NOT_FOUND/s,
    ],
    ['a derived page', '/v1/pages/d/data', [OCTETS, long], /409 .*PAGE_READ_ONLY/s],
    ['a route that is not there', '/v1/nothing', [OCTETS, long], /404 .*NOT_FOUND/s],
    ['a wrong type', '/v1/pages/x/data', ['content-type: text/plain', long], /415 .*UNSUPPORTED_MEDIA_TYPE/s],
    ['too long', '/v1/pages/x/data', [OCTETS, `content-length: ${8 * M + 1}`], /413 .*"--max-body-bytes"/s],
    [
      'too long for JSON',
      '/v1/pages/x/data',
      ['content-type: application/json', `content-length: ${M + 1}`],
      /413 .*"--max-json-bytes"/s,
    ],
    [
      'a foreign origin',
      '/v1/pages/x/data',
      [OCTETS, long, 'origin: http://evil.example'],
      /403 .*FORBIDDEN/s,
    ],
  ]
  for (const [what, path, heads, answer] of cases) {
    const { got, socket } = send(path, heads)
    await until(() => got().endsWith('}'))
    t.match(got(), answer, what)
    t.match(got(), /connection: close/i)
    socket.destroy()
  }
  const names = bus.limits.refusals().filter(([, count]) => count > 0)
  t.same(
    new Map(names),
    new Map([
      ['maxBodyBytes', 1],
      ['maxJsonBytes', 1],
    ] as const),
  )
  t.equal(bus.epoch, 2)
})

t.test('a chunked body that turns out to be too long', async (t) => {
  const { send } = await start(t, { limits: { maxBodyBytes: M } })
  const { socket, got } = send('/v1/pages/x/data', [OCTETS, 'transfer-encoding: chunked'])
  const chunk = Buffer.concat([Buffer.from('10000\r\n'), Buffer.alloc(65_536), Buffer.from('\r\n')])
  for (let i = 0; i < 17; i++) socket.write(chunk)
  await until(() => got().endsWith('}'))
  t.match(got(), /^HTTP\/1\.1 413 .*"--max-body-bytes"/s)
})

t.test('a budget without room refuses by the announced length', async (t) => {
  const limits = { requestBudgetBytes: 4 * M, requestBudgetPerConnectionBytes: 4 * M }
  const { served, send } = await start(t, { limits })
  const first = send('/v1/pages/x/data', [OCTETS, `content-length: ${4 * M}`])
  first.socket.write(Buffer.alloc(M))
  await until(() => budgetUsed(served) === M)
  const second = send('/v1/pages/x/data', [OCTETS, `content-length: ${4 * M}`])
  await until(() => second.got().endsWith('}'))
  t.match(second.got(), /^HTTP\/1\.1 503 .*retry-after: 1.*"--request-budget"/s)
  t.equal(budgetUsed(served), M, 'it took nothing')
  first.socket.write(Buffer.alloc(3 * M))
  await until(() => first.got().includes('epoch'))
  t.match(first.got(), /^HTTP\/1\.1 200 /)
  t.equal(budgetUsed(served), 0)
})

t.test('a repeat under a known key is answered, even when its page is gone', async (t) => {
  const { bus, send } = await start(t)
  const heads = [OCTETS, `content-length: ${4 * M}`, 'idempotency-key: k1']
  const write = async (): Promise<string> => {
    const { socket, got } = send('/v1/pages/x/data', heads)
    socket.write(Buffer.alloc(4 * M, 7))
    await until(() => got().endsWith('}'))
    return got()
  }
  t.match(await write(), /^HTTP\/1\.1 200 .*"epoch":3/s)
  await bus.delete('x', { cascade: true })
  t.match(await write(), /^HTTP\/1\.1 200 .*"epoch":3/s)
})

t.test('a client that sends all of its body first still gets the answer', async (t) => {
  const { send, served } = await start(t)
  const { socket, got, closed } = send('/v1/pages/none/data', [OCTETS, `content-length: ${32 * M}`])
  socket.pause()
  // It reads nothing before it has sent everything.
  await new Promise<void>((resolve) => {
    socket.write(Buffer.alloc(32 * M), () => resolve())
  })
  t.equal(budgetUsed(served), 0)
  socket.resume()
  await closed
  t.match(got(), /^HTTP\/1\.1 404 .*PAGE_NOT_FOUND/s)
})

t.test('the body of a refused request is not read for ever', async (t) => {
  const { send } = await start(t)
  const { socket, got } = send('/v1/pages/none/data', [OCTETS, 'transfer-encoding: chunked'])
  const chunk = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(M), Buffer.from('\r\n')])
  let sent = 0
  while (!socket.destroyed && sent < 1024) {
    sent++
    await new Promise((resolve) => socket.write(chunk, resolve))
  }
  t.ok(sent >= 64 && sent < 200, `${sent} MiB were taken`)
  t.match(got(), /^HTTP\/1\.1 404 /)
})

t.test('a body that was announced with Expect is asked for only if it is wanted', async (t) => {
  const { send } = await start(t)
  const heads = [OCTETS, 'expect: 100-continue']
  const refused = send('/v1/pages/none/data', [...heads, `content-length: ${4 * M}`])
  await until(() => refused.got().endsWith('}'))
  t.match(refused.got(), /^HTTP\/1\.1 404 /, 'no 100 before it')
  for (const length of [4 * M, 4]) {
    const wanted = send('/v1/pages/x/data', [...heads, `content-length: ${length}`], 'PATCH')
    await until(() => wanted.got() !== '')
    t.match(wanted.got(), /^HTTP\/1\.1 100 Continue\r\n\r\n$/)
    wanted.socket.write(Buffer.alloc(length))
    await until(() => wanted.got().endsWith('}'))
    t.match(wanted.got(), /HTTP\/1\.1 200 /)
  }
})
