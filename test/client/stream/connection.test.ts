/**
 * The one WebSocket of a client, against a server that the test plays: when it is open, and who hears of it.
 */
import t from 'tap'
import { MmsbError } from '../../../src/client/errors.js'
import type { Connection, ConnectionUser } from '../../../src/client/stream/connection.js'
import { ResumingSubscription } from '../../../src/client/stream/resuming-subscription.js'
import type { SubscribeOptions } from '../../../src/client/types.js'
import { turns } from '../../lib/wait.js'
import { clockOf, type Heard, opened, played, user } from '../played.js'

const HISTORY = `${'ab'.repeat(16)}.${'cd'.repeat(8)}`
const OTHER = `${'12'.repeat(16)}.${'34'.repeat(8)}`

t.test('the first user opens the socket, and all are told when it is open', async (t) => {
  for (const [protocol, name] of [
    ['json', 'mmsb.v1.json'],
    ['binary', 'mmsb.v1.bin'],
  ] as const) {
    const { connection, sockets, socket: none } = played(t, { protocol })
    t.equal(none, undefined, 'nobody needs it yet')
    const calls: string[] = []
    const [a, b, c] = ['a', 'b', 'c'].map((name) => user(name, calls))
    connection.attach(a!)
    connection.attach(b!)
    t.equal(sockets.length, 1)
    const [socket] = sockets
    t.same([socket!.url, socket!.protocol, socket!.binaryType], ['ws://x', name, 'arraybuffer'])
    connection.send('too early')
    t.equal(connection.isUp, false)
    socket!.accept()
    t.equal(connection.isUp, true)
    t.same(socket!.sent, [])
    connection.attach(c!)
    t.same(calls, ['a up', 'b up', 'c up'])
    connection.send('text')
    connection.send(Uint8Array.of(1))
    t.same(socket!.sent, ['text', Uint8Array.of(1)])
    t.equal(sockets.length, 1)
    connection.failAll(undefined)
  }
})

t.test('the last user closes it; a peer that does not answer the close is cut off', async (t) => {
  const clock = clockOf(t)
  for (const answers of [true, false]) {
    const { connection, socket, mine } = opened(t)
    const other = user('other')
    connection.attach(other)
    connection.detach(mine)
    t.same(socket.ended, [])
    connection.detach(other)
    t.same(socket.ended, [1000])
    t.equal(connection.isUp, false)
    if (answers) socket.lose()
    clock.pass(1999)
    t.same(socket.ended, [1000])
    clock.pass(1)
    t.same(socket.ended, answers ? [1000] : [1000, 'terminated'])
    socket.say({ type: 'progress', id: 's1', epoch: 1 })
    socket.accept()
    await turns()
    t.same(mine.calls, ['user up'], 'later messages are for nobody')
    t.equal(connection.isUp, false)
    t.same(clock.waits, [])
  }
  const { connection, socket, mine } = opened(t, { canTerminate: false })
  connection.detach(mine)
  clock.pass(10_000)
  t.same(socket.ended, [1000])
})

t.test('a lost connection is opened again, later each time until a message comes', async (t) => {
  const clock = clockOf(t)
  t.intercept(Math, 'random', { value: () => 1 })
  const all = opened(t)
  const { connection, sockets, mine, calls } = all
  const id = connection.idFor(mine, 's')
  const waits: number[] = []
  for (let i = 0; i < 8; i++) {
    all.socket.lose()
    t.equal(connection.isUp, false)
    waits.push(...clock.waits)
    connection.attach(user('another', []))
    t.equal(sockets.length, i + 1, 'not before its time')
    clock.pass(clock.waits[0]!)
    t.equal(sockets.length, i + 2)
  }
  t.same(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000])
  t.same(mine.calls, ['user up', 'user down'], 'it is down once')
  await turns()
  t.same(calls, Array(7).fill('probe'), 'why it could not be opened is asked each time')
  t.same(
    all.sockets.map(({ ended }) => ended),
    [...Array(8).fill(['terminated']), []],
  )
  all.socket.accept()
  t.same(mine.calls, ['user up', 'user down', 'user up'])
  all.socket.say({ type: 'error', id, code: 'OVERLOADED', detail: '' })
  await turns()
  all.socket.lose()
  t.same(clock.waits, [2000], 'a server that only refuses gets no quicker attempts')
  clock.pass(2000)
  all.socket.accept()
  all.socket.say({ type: 'progress', id, epoch: 1 })
  await turns()
  all.socket.lose()
  t.same(clock.waits, [50])
  await turns()
  t.equal(calls.length, 7, 'a connection that was open is not asked about')
})

t.test('a user that leaves when it hears of the loss is the last one: nothing is opened again', async (t) => {
  const clock = clockOf(t)
  const { connection, socket, mine } = opened(t)
  mine.down = () => connection.detach(mine)
  socket.lose()
  t.same(clock.waits, [])
})

t.test('a socket without terminate is closed', async (t) => {
  const all = opened(t, { canTerminate: false })
  all.connection.renew()
  t.same(all.socket.ended, ['closed'])
})

t.test('nobody waits for a connection that nobody needs', async (t) => {
  const clock = clockOf(t)
  const { connection, socket, sockets, mine } = opened(t)
  socket.lose()
  connection.detach(mine)
  clock.pass(10_000)
  t.equal(sockets.length, 1)
  t.same(clock.waits, [])
  connection.attach(mine)
  t.equal(sockets.length, 2)
})

t.test('a socket that does not open is given up after 10 s, one that does is not', async (t) => {
  const clock = clockOf(t)
  t.intercept(Math, 'random', { value: () => 1 })
  const all = played(t)
  const mine = user()
  mine.isListening = false
  all.connection.attach(mine)
  const [first] = all.sockets
  clock.pass(9_999)
  t.same(first!.ended, [])
  clock.pass(1)
  t.same(first!.ended, ['terminated'])
  t.same(clock.waits, [50])
  clock.pass(50)
  all.socket.accept()
  clock.pass(60_000)
  t.equal(all.sockets.length, 2)
  t.same(all.socket.ended, [])
  t.same(mine.calls, ['user up'], 'it never was up before')
})

t.test('silence ends a connection on which somebody listens', async (t) => {
  const clock = clockOf(t)
  const { connection, socket, mine } = opened(t, { silenceMaxMs: 400 })
  clock.pass(399)
  t.same(socket.ended, [])
  socket.say({ type: 'progress', id: 'x', epoch: 1 })
  clock.pass(399)
  t.same(socket.ended, [], 'any message counts, whoever it is for')
  mine.isListening = false
  clock.pass(52)
  t.same(socket.ended, [], 'nobody expects one')
  mine.isListening = true
  clock.pass(349)
  t.same(socket.ended, [], 'the silence before that does not count')
  const quiet = user('quiet')
  quiet.isListening = false
  connection.attach(quiet)
  clock.pass(1)
  t.same(socket.ended, ['terminated'])
  t.same(mine.calls, ['user up', 'user down'])
  const usual = opened(t)
  clock.pass(19_999)
  t.same(usual.socket.ended, [])
  clock.pass(1)
  t.same(usual.socket.ended, ['terminated'])
})

t.test('a connection is asked for under the history that is known', async (t) => {
  const clock = clockOf(t)
  const next = (): void => clock.pass(clock.waits[0]!)
  const told = async (what: string, tell: (of: ReturnType<typeof opened>) => void): Promise<void> => {
    const all = opened(t)
    tell(all)
    await turns()
    t.equal(all.sockets.length, 1, `${what}: the open socket is right`)
    t.equal(all.connection.history, HISTORY)
    all.socket.lose()
    next()
    t.equal(all.socket.url, `ws://x?history=${HISTORY}`, what)
    all.socket.accept()
    t.equal(all.sockets.length, 2)
    t.equal(all.connection.isUp, true)
    all.socket.say({ type: 'subscribed', id: 's1', epoch: 1, history: OTHER })
    await turns()
    t.equal(all.connection.history, HISTORY, 'what a message says later is for its user')
    t.same(all.calls, [])
    all.connection.failAll(undefined)
  }
  await told('by a message', ({ socket }) =>
    socket.say({ type: 'subscribed', id: 's1', epoch: 1, history: HISTORY }),
  )
  await told('by an answer over HTTP', ({ connection }) => connection.learn(HISTORY))
  await told('twice', ({ connection }) => {
    connection.learn(HISTORY)
    connection.learn(HISTORY)
  })
})

t.test('a history that becomes known while a socket opens: another is opened under it', async (t) => {
  const all = played(t)
  const mine = user()
  all.connection.attach(mine)
  all.connection.learn(HISTORY)
  const [first] = all.sockets
  first!.accept()
  t.same(first!.ended, ['terminated'])
  t.equal(all.sockets.length, 2)
  t.equal(all.socket.url, `ws://x?history=${HISTORY}`)
  t.same(mine.calls, [])
  all.socket.accept()
  t.same(mine.calls, ['user up'])
})

t.test('another history: users are told while the connection is down', async (t) => {
  const clock = clockOf(t)
  const all = opened(t)
  const { connection, mine, calls } = all
  connection.learn(HISTORY)
  const plain: ConnectionUser = { ...user('plain', mine.calls), historyChanged: undefined } as never
  connection.attach(plain)
  mine.calls.length = 0
  connection.learn(OTHER)
  t.same(mine.calls, ['user down', 'plain down', `user HISTORY_CHANGED ${OTHER}`])
  t.same(calls, ['history'], 'what is known of pages is void')
  t.same(all.socket.ended, ['terminated'])
  connection.learn(HISTORY)
  t.same(mine.calls.slice(3), [`user HISTORY_CHANGED ${HISTORY}`], 'again, while it is down')
  clock.pass(100)
  t.equal(all.socket.url, `ws://x?history=${HISTORY}`)
})

t.test('a server that refuses the connection fails all users, unless one was opened meanwhile', async (t) => {
  const clock = clockOf(t)
  const error = new MmsbError({ code: 'UNAUTHORIZED', detail: '' })
  for (const isLate of [false, true]) {
    let answer = (_error: MmsbError | undefined): void => {}
    const all = played(t, {
      probe: () =>
        new Promise((resolve) => {
          answer = resolve
        }),
    })
    const mine = user()
    all.connection.attach(mine)
    all.socket.lose()
    clock.pass(clock.waits[0]!)
    if (isLate) all.socket.accept()
    answer(error)
    await turns()
    t.same(mine.failures, isLate ? [] : [error])
    t.equal(all.connection.isUp, isLate)
    all.connection.failAll(undefined)
  }
})

/** What becomes of a promise. */
async function stateOf(promise: Promise<void> | undefined): Promise<string> {
  await turns()
  return promise === undefined
    ? 'none'
    : Promise.race([promise.then(() => 'back'), turns().then(() => 'away')])
}

t.test('requests wait for a server that is looked for', async (t) => {
  const clock = clockOf(t)
  const looked = (
    probe: () => Promise<undefined>,
  ): { connection: Connection; next: () => void; mine: Heard; lose: () => void; accept: () => void } => {
    const all = played(t, { probe })
    const mine = user()
    t.equal(all.connection.whenBack(), undefined, 'nobody looks for it')
    all.connection.attach(mine)
    return {
      connection: all.connection,
      mine,
      next: () => clock.pass(clock.waits[0]!),
      lose: () => all.socket.lose(),
      accept: () => all.socket.accept(),
    }
  }
  const away = looked(() => Promise.reject(new Error('away')))
  const waits = away.connection.whenBack()
  away.lose()
  t.equal(await stateOf(waits), 'away')
  away.next()
  away.accept()
  t.equal(await stateOf(waits), 'back', 'the connection is open')
  t.equal(away.connection.whenBack(), undefined)
  away.lose()
  const again = away.connection.whenBack()
  t.equal(await stateOf(again), 'away')
  away.connection.detach(away.mine)
  t.equal(await stateOf(again), 'back', 'nobody looks any more')

  const answering = looked(async () => undefined)
  const until = answering.connection.whenBack()
  t.equal(await stateOf(until), 'away')
  answering.lose()
  t.equal(await stateOf(until), 'back', 'it answers requests')
  t.same(answering.mine.failures, [])
})

t.test('an owner that ends what failed, and begins anew, keeps the connection', async (t) => {
  const { connection, sockets } = played(t)
  const options: SubscribeOptions = { pages: ['a'] }
  const nobody = { change() {}, progress() {}, connected() {} }
  const next = new ResumingSubscription(connection, options, false, { ...nobody, failed() {} })
  const failing = new ResumingSubscription(connection, options, false, {
    ...nobody,
    failed: () => {
      failing.end()
      next.start()
    },
  })
  failing.start()
  sockets[0]!.accept()
  failing.fail(new Error('refused'))
  t.same([sockets.length, sockets[0]!.ended], [1, []])
  t.same(
    sockets[0]!.told.map(({ type }) => type),
    ['subscribe', 'unsubscribe', 'subscribe'],
  )
  next.end()
  t.same(sockets[0]!.ended, [1000])
})
