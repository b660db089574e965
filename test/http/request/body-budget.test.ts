/** Half-sent bodies: what they may hold in memory, in all and on one connection. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { boundPort } from '../../../src/http/framework.js'
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

t.test('a body larger than the budget is read when it is alone', async (t) => {
  const limits = { requestBudgetBytes: M, requestBudgetPerConnectionBytes: 64 * 1024 }
  const { send, answer } = await start(t, limits)
  const whole = await send(LENGTH, 4 * M)
  t.match(await answer(whole), /^HTTP\/1\.1 200 /)
  const held = await send(LENGTH, 3 * M)
  const other = await send(LENGTH, 2 * M)
  t.match(await Promise.race([answer(held), answer(other)]), /^HTTP\/1\.1 503 /)
})
