/**
 * A subscription on a connection whose other end is the test: where it goes on after a loss, a pause or
 * another history, what it commits, and what its owner hears.
 */
import t, { type Test } from 'tap'
import type { Change } from '../../../src/client/node.js'
import { ResumingSubscription } from '../../../src/client/stream/resuming-subscription.js'
import type { SubscribeOptions } from '../../../src/client/types.js'
import { turns } from '../../lib/wait.js'
import { clockOf, fate, type Json, played } from '../played.js'

const HISTORY = `${'ab'.repeat(16)}.${'cd'.repeat(8)}`
const OTHER = `${'12'.repeat(16)}.${'34'.repeat(8)}`

/** A subscription, the messages that it sends on each connection, and what its owner hears. */
function subscribing(t: Test, options: SubscribeOptions, canRestart = false) {
  const clock = clockOf(t)
  const all = played(t)
  const { connection, sockets } = all
  const changes: Change[] = []
  const heard: unknown[] = []
  const owner = {
    change: (change: Change) => {
      changes.push(change)
      heard.push(change.epoch)
    },
    progress: (epoch: number) => heard.push(`progress ${epoch}`),
    connected: (is: boolean) => heard.push(is ? 'connected' : 'lost'),
    failed: (error: unknown) => heard.push(`failed ${(error as { code: string }).code}`),
    historyChanged: ({ code }: { code: string }) => heard.push(code),
  }
  const subscription = new ResumingSubscription(connection, options, canRestart, owner)
  subscription.start()
  t.teardown(() => subscription.end())
  /** The newest message of the client, which is about this subscription. */
  const asked = (): Json => all.socket.told.at(-1) ?? {}
  let answered = 0
  return {
    subscription,
    connection,
    sockets,
    changes,
    /** What the owner heard since the last look. */
    heard: () => heard.splice(0),
    /** What the client said since the last look, on all connections. */
    said: (): Json[] => {
      const told = sockets.flatMap((socket) => socket.told)
      const fresh = told.slice(answered)
      answered = told.length
      return fresh
    },
    asked,
    accept: () => all.socket.accept(),
    clock,
    /** What it asks for on the connection of this number. */
    subscribed: (number: number): Json => {
      if (sockets.length < number) clock.pass(clock.waits[0]!)
      t.equal(sockets.length, number)
      if (!connection.isUp) all.socket.accept()
      return asked()
    },
    say: async (message: Json): Promise<void> => {
      all.socket.say({ id: asked().id, history: HISTORY, ...message })
      await turns()
    },
    lose: () => all.socket.lose(),
  }
}

const SNAPSHOT = {
  type: 'snapshot',
  epoch: 7,
  pages: { a: { dtype: 'u8', shape: [2], version: 3, values: [1, 2] } },
}

t.test('a durable reader: the server knows what it has not seen', async (t) => {
  for (const from of [undefined, 'snapshot', 'now'] as const) {
    const { changes, subscribed, say, lose } = subscribing(t, {
      pages: ['a'],
      durable: 'reader',
      ...(from === undefined ? {} : { from }),
    })
    t.equal(subscribed(1).from, from)
    await say({ type: 'subscribed', epoch: 7 })
    lose()
    t.equal(subscribed(2).from, from, 'the snapshot may still have to come')
    await say({ type: 'subscribed', epoch: 7 })
    await say(SNAPSHOT)
    lose()
    t.equal(subscribed(3).from, 7)
    await say({ type: 'subscribed', epoch: 7 })
    await say({ type: 'progress', epoch: 9 })
    lose()
    t.equal(subscribed(4).from, 9)
    t.same(
      changes.map(({ type, epoch }) => [type, epoch]),
      [['snapshot', 7]],
    )
  }
  const quiet = subscribing(t, { pages: ['a'], durable: 'reader' })
  quiet.subscribed(1)
  await quiet.say({ type: 'subscribed', epoch: 7 })
  await quiet.say({ type: 'progress', epoch: 8 })
  quiet.lose()
  t.equal(quiet.subscribed(2).from, 8, 'progress comes after a snapshot, if there is one')
})

t.test('any other reader', async (t) => {
  const cases: [SubscribeOptions['from'], unknown][] = [
    [undefined, 7],
    ['now', 7],
    ['snapshot', 'snapshot'],
    [5, 5],
  ]
  for (const [from, wanted] of cases) {
    const { subscribed, say, lose } = subscribing(t, {
      pages: ['a'],
      ...(from === undefined ? {} : { from }),
    })
    subscribed(1)
    await say({ type: 'subscribed', epoch: 7 })
    lose()
    t.equal(subscribed(2).from, wanted, String(from))
  }
})

t.test('a reader that begins anew with a snapshot, and loses the connection before it', async (t) => {
  const { changes, subscribed, say, lose } = subscribing(t, { pages: ['a'], from: 5 }, true)
  t.equal(subscribed(1).from, 5)
  await say({ type: 'compacted', minEpoch: 6 })
  t.equal(subscribed(1).from, 'snapshot')
  await say({ type: 'subscribed', epoch: 7 })
  lose()
  t.equal(subscribed(2).from, 'snapshot', 'it has not come')
  await say({ type: 'subscribed', epoch: 7 })
  await say(SNAPSHOT)
  lose()
  t.equal(subscribed(3).from, 7)
  t.same(
    changes.map(({ type }) => type),
    ['snapshot'],
  )
})

/** One that is subscribed, from the history and epoch 7 on. */
async function running(t: Test, options: Partial<SubscribeOptions> = {}, canRestart = false) {
  t.intercept(Math, 'random', { value: () => 0.5 })
  const all = subscribing(t, { pages: ['a'], ...options }, canRestart)
  all.accept()
  const id = all.asked().id as string
  await all.say({ type: 'subscribed', epoch: 7 })
  all.said()
  all.heard()
  const say = (message: Json): Promise<void> => all.say({ id, ...message })
  const change = (epoch: number, of = id): Promise<void> =>
    all.say({ type: 'change', id: of, epoch, first: epoch, changes: [] })
  /** The connection is lost and made again; returns the id of the next subscription. */
  const again = (): string => {
    all.lose()
    all.clock.pass(all.clock.waits[0]!)
    all.accept()
    return all.asked().id as string
  }
  return { ...all, id, say, change, again }
}

t.test('it asks for what its options say, and for nothing that is of the client only', async (t) => {
  const { signal } = new AbortController()
  const options = { pages: ['a', 'b*'], data: 'none', policy: 'latest', maxRate: 3, signal } as const
  const { accept, asked } = subscribing(t, {
    ...options,
    slice: {
      a: [
        [2, 5],
        [0, 1],
      ],
    },
    history: HISTORY,
  })
  accept()
  t.same(asked(), {
    type: 'subscribe',
    id: 's1',
    pages: ['a', 'b*'],
    data: 'none',
    policy: 'latest',
    maxRate: 3,
    slice: {
      a: [
        [2, 5],
        [0, 1],
      ],
    },
    history: HISTORY,
  })
  const { subscription } = subscribing(t, {
    pages: ['a'],
    slice: {
      a: [
        [2, 5],
        [0, 1],
      ],
    },
  })
  t.same(subscription.windowOf('a'), [3, 1])
  t.equal(subscription.windowOf('b'), undefined)
  t.equal(subscribing(t, { pages: ['a'] }).subscription.windowOf('a'), undefined)
})

t.test('its owner hears each epoch once, in order, and of the connection', async (t) => {
  const { subscription, heard, say, change, again, said } = await running(t)
  t.equal(subscription.isListening, true)
  await change(8)
  await change(8)
  await change(6)
  await say({ type: 'progress', epoch: 9 })
  await say({ type: 'progress', epoch: 9 })
  await say({ type: 'progress', epoch: 8 })
  await change(9)
  await change(10)
  t.same(heard(), [8, 'progress 9', 'progress 9', 10])
  const id = again()
  t.same(heard(), ['lost', 'connected'])
  t.match(said(), [{ type: 'subscribe', from: 10, history: HISTORY }], 'under the history of the epoch')
  await change(11)
  t.same(heard(), [], 'that was for the lost one')
  await change(11, id)
  t.same(heard(), [11])
})

t.test('a snapshot is taken whatever its epoch', async (t) => {
  const { heard, say } = await running(t)
  await say({ ...SNAPSHOT, epoch: 5 })
  t.same(heard(), [5])
})

t.test('paused, it hears nothing; resumed, it goes on where it was', async (t) => {
  const { subscription, heard, change, again, said, id, clock, lose, accept, asked } = await running(t)
  subscription.resume()
  t.same(said(), [], 'it is not paused')
  await change(8)
  subscription.pause()
  subscription.pause()
  t.same(said(), [{ type: 'unsubscribe', id }])
  t.same([subscription.isPaused, subscription.isListening], [true, false])
  await change(9)
  t.same(heard(), [8])
  again()
  t.same(said(), [], 'it is still paused')
  t.same(heard(), ['lost', 'connected'])
  subscription.resume()
  t.match(said(), [{ type: 'subscribe', from: 8 }])
  t.equal(subscription.isPaused, false)
  await change(9, asked().id as string)
  t.same(heard(), [9])
  subscription.pause()
  lose()
  subscription.resume()
  t.equal(said().length, 1)
  clock.pass(clock.waits[0]!)
  accept()
  t.match(said(), [{ type: 'subscribe', from: 9 }], 'once, when the connection is there')
  subscription.pause()
  subscription.end()
  said()
  subscription.resume()
  subscription.pause()
  t.same([said(), subscription.isPaused], [[], true], 'after its end nothing')
})

t.test('ended, it leaves and hears no more', async (t) => {
  const { subscription, heard, change, said, id, sockets, connection } = await running(t)
  subscription.end()
  subscription.end()
  t.same(said(), [{ type: 'unsubscribe', id }])
  t.same(sockets[0]!.ended, [1000], 'nobody needs the connection')
  await change(8)
  subscription.fail(new Error('late'))
  subscription.pause()
  t.same([heard(), subscription.isPaused], [[], false])
  connection.failAll(undefined)
  const failing = await running(t)
  failing.subscription.fail({ code: 'FORBIDDEN' })
  failing.subscription.fail({ code: 'INTERNAL' })
  t.same(failing.heard(), ['failed FORBIDDEN'])
  t.same(failing.sockets[0]!.ended, [1000])
})

t.test('a commit is sent, and resolves when the server has it', async (t) => {
  const { subscription, say, change, said, id } = await running(t, { durable: 'd', from: 'now' })
  await change(8)
  await change(9)
  await change(10)
  const commits = [8, 9, 10].map((epoch) => subscription.commit(epoch))
  t.same(
    said(),
    [8, 9, 10].map((epoch) => ({ type: 'commit', id, epoch })),
  )
  await say({ type: 'committed', epoch: 9 })
  t.same(await Promise.all(commits.map((commit) => fate(commit))), ['done', 'done', 'pending'])
  await change(11)
  t.same(said(), [], 'what was sent is not sent again')
  const end = subscription.commit(11)
  t.same(said(), [{ type: 'commit', id, epoch: 11 }])
  subscription.end()
  t.same(await Promise.all([commits[2]!, end].map((commit) => fate(commit))), ['CLOSED', 'CLOSED'])
})

t.test('after a loss a commit waits until the server has come to its epoch again', async (t) => {
  const { subscription, change, said, again, say } = await running(t, { durable: 'd', from: 'now' })
  for (const epoch of [8, 9, 10]) await change(epoch)
  const commits = [8, 9, 10].map((epoch) => subscription.commit(epoch))
  said()
  const id = again()
  t.match(said(), [{ type: 'subscribe', durable: 'd' }])
  await say({ type: 'subscribed', id, epoch: 7 })
  t.same(said(), [])
  await change(8, id)
  t.same(said(), [{ type: 'commit', id, epoch: 8 }])
  await say({ type: 'progress', id, epoch: 9 })
  t.same(said(), [{ type: 'commit', id, epoch: 9 }])
  await say({ type: 'committed', id, epoch: 9 })
  t.same(await Promise.all(commits.map((commit) => fate(commit))), ['done', 'done', 'pending'])
  const next = again()
  said()
  await say({ type: 'subscribed', id: next, epoch: 12 })
  t.same(said(), [{ type: 'commit', id: next, epoch: 10 }])
  subscription.pause()
  said()
  subscription.commit(9).catch(() => {})
  t.same(said(), [], 'nothing runs that could commit')
  commits[2]!.catch(() => {})
})

t.test('a commit between a new connection and its first answer waits, of whichever epoch', async (t) => {
  for (const epoch of [0, 1, 8]) {
    const { subscription, change, said, again, say } = await running(t, { durable: 'd', from: 'now' })
    await change(8)
    const id = again()
    said()
    const commit = subscription.commit(epoch)
    t.same(said(), [], 'the server does not know yet that it has come so far')
    await say({ type: 'subscribed', id, epoch: 8 })
    t.same(said(), [{ type: 'commit', id, epoch }])
    await say({ type: 'progress', id, epoch: 9 })
    t.same(said(), [], 'once')
    await say({ type: 'committed', id, epoch })
    t.equal(await fate(commit), 'done')
  }
})

t.test('what is not for it is not heard, and ids that are over are forgotten', async (t) => {
  const { subscription, connection, heard, id, say } = await running(t)
  const forgotten = t.capture(connection, 'forget', connection.forget.bind(connection))
  subscription.receive({ type: 'progress', id: 'another', epoch: 9 })
  subscription.receive({ type: 'ack', sequence: 1, count: 1, epoch: 9 } as never)
  t.same(heard(), [])
  subscription.receive({ type: 'progress', id, epoch: 9 })
  t.same(heard(), ['progress 9'])
  await say({ type: 'overflow', epoch: 9, resumeFrom: 9 })
  t.same(
    forgotten().map(({ args }) => args[0]),
    [id],
  )
})

t.test('a commit that the server would refuse is refused here', async (t) => {
  const plain = await running(t)
  await plain.change(8)
  await t.rejects(plain.subscription.commit(8), { code: 'INVALID_REQUEST', detail: /not durable/ })
  const fresh = subscribing(t, { pages: ['a'], durable: 'd' })
  await t.rejects(fresh.subscription.commit(undefined), { detail: /nothing has been delivered/ } as never)
  await t.rejects(fresh.subscription.commit(0), { detail: /epoch 0 has not been delivered/ } as never)
  const { subscription, change, said } = await running(t, { durable: 'd', from: 'now' })
  await change(8)
  for (const epoch of [9, 1.5, -1, '8', null]) {
    await t.rejects(subscription.commit(epoch as number), { code: 'INVALID_REQUEST', detail: /^commit: / })
  }
  t.same(said(), [])
  t.equal(await fate(subscription.commit(8)), 'pending')
  subscription.end()
  await t.rejects(subscription.commit(8), { code: 'CLOSED', detail: /subscription/ })
})

t.test('put out by the server, it comes back', async (t) => {
  for (const type of ['overflow', 'unsubscribed']) {
    const { say, change, said, heard, asked } = await running(t)
    await change(8)
    await say({ type, epoch: 8, resumeFrom: 8 })
    t.match(said(), [{ type: 'subscribe', id: 's2', from: 8 }], type)
    await change(9)
    await change(9, asked().id as string)
    t.same(heard(), [8, 9])
  }
})

t.test('what passes with time renews the connection; what does not ends it', async (t) => {
  for (const code of ['OVERLOADED', 'BUS_FAILED']) {
    const { say, heard, sockets } = await running(t)
    await say({ type: 'error', code, detail: '' })
    t.same([heard(), sockets[0]!.ended], [['lost'], ['terminated']], code)
  }
  for (const code of ['EPOCH_COMPACTED', 'EPOCH_NOT_FOUND', 'FORBIDDEN', 'HISTORY_CHANGED']) {
    const { say, heard } = await running(t)
    await say({ type: 'error', code, detail: '' })
    t.same(heard(), [`failed ${code}`])
  }
  const { say, heard, subscription } = await running(t)
  let error: unknown
  t.capture(subscription, 'fail', (reason: unknown) => {
    error = reason
  })
  await say({ type: 'compacted', minEpoch: 12 })
  t.same(heard(), [])
  t.match(error, { code: 'EPOCH_COMPACTED', status: 410, minEpoch: 12, hint: /snapshot/ })
})

t.test('one that may restart begins again with a snapshot', async (t) => {
  for (const code of ['EPOCH_COMPACTED', 'EPOCH_NOT_FOUND']) {
    const { say, heard, said, change, asked } = await running(t, { from: 5 }, true)
    await say({ type: 'error', code, detail: '' })
    t.same(heard(), [])
    const subscribe = said()
    t.match(subscribe, [{ type: 'subscribe', id: 's2', from: 'snapshot' }])
    t.notOk('history' in subscribe[0]!)
    await change(8)
    t.same(heard(), [], 'of the first one')
    await say({ ...SNAPSHOT, id: asked().id })
    t.same(heard(), [7])
  }
})

t.test('another history ends one that has begun, unless it may restart', async (t) => {
  for (const canRestart of [false, true]) {
    for (const how of ['the connection', 'the answer']) {
      const { say, heard, said, connection, clock, accept } = await running(t, {}, canRestart)
      if (how === 'the connection') connection.learn(OTHER)
      else await say({ type: 'error', code: 'HISTORY_CHANGED', detail: '', history: OTHER })
      t.equal(connection.history, OTHER)
      t.same(heard(), canRestart ? ['lost', 'HISTORY_CHANGED'] : ['lost', 'failed HISTORY_CHANGED'])
      if (!canRestart) continue
      said()
      clock.pass(clock.waits[0]!)
      accept()
      t.match(said(), [{ type: 'subscribe', from: 'snapshot' }])
    }
  }
})

t.test('another history means nothing to one that has received nothing yet', async (t) => {
  for (const [options, isLost] of [
    [{}, false],
    [{ history: HISTORY }, true],
    [{ from: 3 }, true],
  ] as const) {
    const { accept, heard, connection } = subscribing(t, { pages: ['a'], ...options })
    connection.learn(HISTORY)
    accept()
    accept()
    heard()
    connection.learn(OTHER)
    t.same(heard(), isLost ? ['lost', 'failed HISTORY_CHANGED'] : ['lost'], JSON.stringify(options))
  }
  const ended = subscribing(t, { pages: ['a'], from: 3 }, true)
  ended.connection.learn(HISTORY)
  ended.accept()
  ended.subscription.end()
  ended.subscription.historyChanged({ code: 'HISTORY_CHANGED' } as never)
  t.notOk(ended.heard().includes('HISTORY_CHANGED'))
})

t.test('a refusal for another history, to one that has received nothing', async (t) => {
  const refusal = { type: 'error', code: 'HISTORY_CHANGED', detail: '', history: OTHER }
  for (const [knows, canRestart, hears] of [
    [undefined, false, ['failed HISTORY_CHANGED']],
    [HISTORY, false, ['lost', 'failed HISTORY_CHANGED']],
    [OTHER, false, ['failed HISTORY_CHANGED']],
    [OTHER, true, ['HISTORY_CHANGED']],
    [HISTORY, true, ['lost', 'HISTORY_CHANGED']],
  ] as const) {
    const all = subscribing(t, { pages: ['a'] }, canRestart)
    all.accept()
    if (knows !== undefined) all.connection.learn(knows)
    all.heard()
    await all.say(refusal)
    t.equal(all.connection.history, OTHER)
    t.same(all.heard(), hears, `${knows} ${canRestart}`)
  }
})
