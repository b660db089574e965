/** Why a WebSocket could not be opened: a client asks over HTTP, and ends only what will never succeed. */
import t, { type Test } from 'tap'
import { Client } from '../../src/client/client.js'
import { turns } from '../lib/wait.js'
import { clockOf, fate, PlayedSocket } from './played.js'

/** A client with a subscription whose sockets and answers the test plays. */
function refused(t: Test) {
  t.intercept(Math, 'random', { value: () => 1 })
  const clock = clockOf(t)
  const sockets: PlayedSocket[] = []
  const asked: { answer: (status: number) => Promise<void>; fail: () => Promise<void> }[] = []
  const answer = (status: number): Response =>
    Response.json({ code: status === 403 ? 'FORBIDDEN' : 'OVERLOADED', status, detail: '' }, { status })
  const send = (): Promise<Response> =>
    new Promise((resolve, reject) => {
      asked.push({
        answer: (status) => {
          resolve(answer(status))
          return turns(20)
        },
        fail: () => {
          reject(new TypeError('fetch failed'))
          return turns(20)
        },
      })
    })
  const open = (url: string, protocol: string | string[]): PlayedSocket => {
    const socket = new PlayedSocket(url, protocol, true)
    sockets.push(socket)
    return socket
  }
  const client = new Client('http://x', open, { fetch: send as typeof fetch })
  t.teardown(() => client.close())
  const next = client.subscribe({ pages: ['a'] }).next()
  next.catch(() => {})
  return { clock, sockets, asked, next }
}

t.test('a refusal ends the subscription, a fault of the server does not', async (t) => {
  for (const [status, wanted] of [
    [400, 'OVERLOADED'],
    [403, 'FORBIDDEN'],
    [499, 'OVERLOADED'],
    [500, 'pending'],
    [503, 'pending'],
    [200, 'pending'],
  ] as const) {
    const { sockets, asked, next } = refused(t)
    sockets[0]!.lose()
    await turns()
    t.equal(asked.length, 1)
    await asked[0]!.answer(status)
    t.equal(await fate(next), wanted, `${status}`)
  }
})

t.test('a server that is away ends nothing, and is asked one question at a time', async (t) => {
  const { clock, sockets, asked, next } = refused(t)
  sockets[0]!.lose()
  await turns()
  clock.pass(clock.waits[0]!)
  sockets[1]!.lose()
  await turns()
  t.equal(asked.length, 1, 'the question is open')
  // It is tried again, until its time is over.
  for (let i = 0; i < asked.length && i < 50; i++) {
    await asked[i]!.fail()
    clock.pass(2_000)
    await turns(20)
    sockets.at(-1)!.onclose?.(undefined as never)
    await turns(20)
  }
  t.ok(asked.length > 1)
  t.equal(await fate(next), 'pending')
  await asked.at(-1)!.answer(403)
  t.equal(await fate(next), 'FORBIDDEN', 'back, it refuses')
})
