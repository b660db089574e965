/** Half-sent bodies: what they may hold in memory, in all and on one connection. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { boundPort } from '../../../src/http/framework.js'
import { until } from '../../lib/wait.js'
import { serve } from '../helpers.js'

const M = 2 ** 20

async function start(
  t: Test,
  limits: { requestBudgetBytes: number; requestBudgetPerConnectionBytes: number },
) {
  const { bus, server } = await serve(t, { limits })
  await server.listen('127.0.0.1', 0)
  await bus.create('x', { dtype: 'u8', shape: [4 * M] })
  const port = boundPort(server.app) as number
  const send = async (head: string, bytes: number): Promise<Socket> => {
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    await once(socket, 'connect')
    const lines = [
      'PUT /v1/pages/x/data HTTP/1.1',
      'host: localhost',
      'content-type: application/octet-stream',
    ]
    socket.write(`${[...lines, head].join('\r\n')}\r\n\r\n`)
    if (bytes > 0) await new Promise((resolve) => socket.write(Buffer.alloc(bytes), resolve))
    return socket
  }
  const answer = async (socket: Socket): Promise<string> => {
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    return chunk.toString()
  }
  return { bus, send, answer }
}

const LENGTH = `content-length: ${4 * M}`

t.test('half-sent bodies share a budget, which ends with them', async (t) => {
  const limits = { requestBudgetBytes: 4 * M, requestBudgetPerConnectionBytes: 4 * M }
  const { bus, send, answer } = await start(t, limits)
  const first = await send(LENGTH, 2.5 * M)
  const second = await send(LENGTH, 2.5 * M)
  const refused = await Promise.race([answer(first), answer(second)])
  t.match(refused, /^HTTP\/1\.1 503 /)
  t.match(refused, /"code":"OVERLOADED"/)
  t.match(refused, /"limit":"--request-budget"/)
  t.match(refused, /retry-after: 1/)
  t.ok(bus.limits.refusals().some(([name, count]) => name === 'requestBudgetBytes' && count === 1))
  first.destroy()
  second.destroy()
  const used = (): number | undefined => new Map(bus.limits.uses()).get('requestBudgetBytes')
  for (let i = 0; i < 500 && used() !== 0; i++) await sleep(10)
  // Then there is room again, in whichever form the length is told.
  const whole = await send(LENGTH, 4 * M)
  t.match(await answer(whole), /^HTTP\/1\.1 200 /)
  const chunked = await send('transfer-encoding: chunked', 0)
  const size = (4 * M).toString(16)
  chunked.write(
    Buffer.concat([Buffer.from(`${size}\r\n`), Buffer.alloc(4 * M, 1), Buffer.from('\r\n0\r\n\r\n')]),
  )
  t.match(await answer(chunked), /^HTTP\/1\.1 200 /)
  t.equal(bus.read('x')[0], 1)
})

t.test('a body that does not say how long it is is refused when it finds no room', async (t) => {
  const limits = { requestBudgetBytes: 4 * M, requestBudgetPerConnectionBytes: 4 * M }
  const { bus, send, answer } = await start(t, limits)
  const chunk = Buffer.concat([Buffer.from(`${(2.5 * M).toString(16)}\r\n`), Buffer.alloc(2.5 * M)])
  const sockets = [await send('transfer-encoding: chunked', 0), await send('transfer-encoding: chunked', 0)]
  for (const socket of sockets) socket.write(chunk)
  t.match(await Promise.race(sockets.map(answer)), /^HTTP\/1\.1 503 .*"limit":"--request-budget"/s)
  t.equal(bus.epoch, 1)
})

t.test('a body larger than the budget is read when it is alone', async (t) => {
  const limits = { requestBudgetBytes: M, requestBudgetPerConnectionBytes: 64 * 1024 }
  const { send, answer } = await start(t, limits)
  const whole = await send(LENGTH, 4 * M)
  t.match(await answer(whole), /^HTTP\/1\.1 200 /)
  const held = await send(LENGTH, 3 * M)
  const other = await send(LENGTH, 2 * M)
  t.match(await Promise.race([answer(held), answer(other)]), /^HTTP\/1\.1 503 /)
})

/** Sends a head, waits for what the server says to it, and only then sends the body. */
async function continued(t: Test, port: number, head: readonly string[], body: Buffer): Promise<string[]> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  const said: string[] = []
  socket.on('data', (chunk) => said.push(String(chunk)))
  socket.write(`${['PUT /v1/pages/x/data HTTP/1.1', 'host: localhost', ...head].join('\r\n')}\r\n\r\n`)
  await until(() => said.length > 0, 'the server says something')
  if (/^HTTP\/1\.1 100 /.test(said[0]!)) {
    socket.write(body)
    await until(() => said.join('').includes('\r\n\r\n{'), 'the answer')
  }
  return said.join('').split(/(?=HTTP\/1\.1 )/)
}

t.test('a client that asks before it sends is answered before it sends', async (t) => {
  const { bus, server } = await serve(t, { limits: { maxBodyBytes: 5 * M, maxJsonBytes: 2 * M } })
  await server.listen('127.0.0.1', 0)
  const port = boundPort(server.app)!
  await bus.create('x', { dtype: 'u8', shape: [4 * M] })
  await bus.create('small', { dtype: 'u8', shape: [4] })
  const octets = 'content-type: application/octet-stream'
  for (const expect of ['100-continue', '100-Continue']) {
    const large = [octets, LENGTH, `expect: ${expect}`]
    const said = await continued(t, port, large, Buffer.alloc(4 * M, 3))
    t.match(said, [/^HTTP\/1\.1 100 /, /^HTTP\/1\.1 200 /], 'a large body')
  }
  const json = ['content-type: application/json', 'content-length: 12', 'expect: 100-continue']
  const small = await continued(t, port, json, Buffer.from('{"values":1}'))
  t.match(small, [/^HTTP\/1\.1 100 /, /^HTTP\/1\.1 400 /], 'a small one')
  const tooLong = [octets, `content-length: ${5 * M + 1}`, 'expect: 100-continue']
  t.match(await continued(t, port, tooLong, Buffer.alloc(0)), [/^HTTP\/1\.1 413 /])
  const missing = ['content-type: application/json', `content-length: ${2 * M + 1}`, 'expect: 100-continue']
  t.match(await continued(t, port, missing, Buffer.alloc(0)), [/^HTTP\/1\.1 413 /])
})

t.test('another expectation is ignored', async (t) => {
  const { bus, server } = await serve(t)
  await server.listen('127.0.0.1', 0)
  await bus.create('x', { dtype: 'u8', shape: [1] })
  const socket = connect(boundPort(server.app)!, '127.0.0.1')
  t.teardown(() => socket.destroy())
  const head = ['PATCH /v1/pages/x/data HTTP/1.1', 'host: localhost', 'content-type: application/json']
  socket.write(`${[...head, 'expect: tea', 'content-length: 14'].join('\r\n')}\r\n\r\n{"values":[1]}`)
  t.match(String((await once(socket, 'data'))[0]), /^HTTP\/1\.1 200 /)
})

// Above and below the size from which on a body counts as large.
for (const [maxBodyBytes, maxJsonBytes] of [
  [3 * M, M],
  [4_096, 2_048],
] as const) {
  t.test(`how long a body may be is a matter of its type: ${maxBodyBytes}, ${maxJsonBytes}`, async (t) => {
    const { bus, server } = await serve(t, { limits: { maxBodyBytes, maxJsonBytes } })
    await bus.create('x', { dtype: 'u8', shape: [4 * M] })
    const patch = async (type: string, bytes: number, isAnnounced: boolean): Promise<unknown[]> => {
      const payload = Buffer.alloc(bytes, ' ')
      if (type.includes('json')) payload.write('{"values":[1]}')
      const headers = isAnnounced ? {} : { 'transfer-encoding': 'chunked' }
      const answer = await server.app.inject({
        method: 'PATCH',
        url: '/v1/pages/x/data',
        headers: { 'content-type': type, ...headers },
        payload: isAnnounced ? payload : Readable.from([payload.subarray(0, 1_000), payload.subarray(1_000)]),
      })
      return [answer.statusCode, answer.json().limit]
    }
    for (const isAnnounced of [true, false]) {
      const how = isAnnounced ? 'announced' : 'in chunks'
      for (const [type, most, flag] of [
        ['application/octet-stream', maxBodyBytes, '--max-body-bytes'],
        ['application/json', maxJsonBytes, '--max-json-bytes'],
        ['application/json; charset=utf-8', maxJsonBytes, '--max-json-bytes'],
      ] as const) {
        t.same(await patch(type, most, isAnnounced), [200, undefined], `${type} ${how}`)
        t.same(await patch(type, most + 1, isAnnounced), [413, flag], `${type} ${how}, one more`)
      }
    }
    const refusals = new Map(bus.limits.refusals())
    t.same(
      ['maxBodyBytes', 'maxJsonBytes'].map((name) => refusals.get(name as 'maxBodyBytes')),
      [2, 4],
    )
    t.same(new Map(bus.limits.uses()).get('requestBudgetBytes'), 0, 'nothing is held')
  })
}
