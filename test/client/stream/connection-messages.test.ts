/** Which user of a connection gets which message, in which order; the test plays the server. */
import t from 'tap'
import type { Message, PageForm } from '../../../src/client/codec/message.js'
import { MmsbError } from '../../../src/client/errors.js'
import { MmsbError as ServerError } from '../../../src/errors.js'
import { ackMessage, refusalMessage } from '../../../src/http/stream/binary-messages.js'
import { turns } from '../../lib/wait.js'
import { binary, clockOf, type Heard, opened, user } from '../played.js'

type Answer = Extract<Message, { type: 'ack' }>

t.test('a message goes to the user of its id, and to nobody once that is forgotten', async (t) => {
  const { connection, socket, mine } = opened(t)
  const calls: string[] = []
  const other = user('other', calls)
  connection.attach(other)
  const ids = [connection.idFor(mine, 's'), connection.idFor(other, 't'), connection.idFor(mine, 's')]
  t.same(ids, ['s1', 't2', 's3'], 'none is used twice')
  const say = async (): Promise<unknown[]> => {
    mine.messages.length = 0
    other.messages.length = 0
    for (const id of ids) socket.say({ type: 'progress', id, epoch: 5 })
    await turns()
    return [...mine.messages, ...other.messages]
  }
  const progress = (id: string) => ({ type: 'progress', id, epoch: 5 })
  t.same(await say(), [progress('s1'), progress('s3'), progress('t2')])
  connection.forget('s1')
  t.same(await say(), [progress('s3'), progress('t2')])
  connection.detach(mine)
  t.same(await say(), [progress('t2')], 'a user that left hears nothing; the other does')
  t.equal(connection.idFor(other, 't'), 't4')
})

t.test('answers to frames go to who sent them, once', async (t) => {
  const clock = clockOf(t)
  const all = opened(t, { protocol: 'binary' })
  const { connection, mine } = all
  const other = user('other')
  const gone = user('gone')
  for (const one of [other, gone]) connection.attach(one)
  const bytes = Uint8Array.of(1, 2)
  t.equal(connection.sendFrames(mine, bytes, 2), 1)
  t.equal(connection.sendFrames(other, bytes, 1), 3)
  t.equal(connection.sendFrames(gone, bytes, 1), 4)
  t.equal(connection.sendFrames(mine, bytes, 3), 5)
  t.equal(all.socket.sent.length, 4)
  connection.detach(gone)
  const answers = ({ messages }: Heard): unknown[] =>
    messages.splice(0).map((message) => {
      const { sequence, count, epoch } = message as Answer
      return message.type === 'ack' ? [sequence, count, epoch] : [message.type, sequence]
    })
  all.socket.say(ackMessage([{ first: 1, count: 1 }], 7))
  t.same(answers(mine), [[1, 1, 7]])
  all.socket.say(ackMessage([{ first: 1, count: 5 }], 8))
  t.same(
    answers(mine),
    [
      [2, 1, 8],
      [5, 1, 8],
    ],
    'the first has its answer',
  )
  t.same(answers(other), [[3, 1, 8]])
  all.socket.say(ackMessage([{ first: 3, count: 2 }], 8))
  t.same([answers(mine), answers(other), answers(gone)], [[], [], []])
  const refused = refusalMessage(6, new ServerError('PRECONDITION_FAILED', 'no'))
  all.socket.say(refused)
  all.socket.say(refused)
  t.same([answers(mine), answers(other)], [[['refusal', 6]], []])
  all.socket.say(refusalMessage(8, new ServerError('PRECONDITION_FAILED', 'of none')))
  t.same([answers(mine), answers(other)], [[], []])
  all.socket.say(ackMessage([{ first: 7, count: 100 }], 9))
  t.same(answers(mine), [[7, 1, 9]], 'no more than were sent')
  all.socket.lose()
  clock.pass(clock.waits[0]!)
  all.socket.accept()
  all.socket.say(refusalMessage(2, new ServerError('PRECONDITION_FAILED', 'of none')))
  t.same([answers(mine), answers(other)], [[], []])
  t.equal(connection.sendFrames(other, bytes, 2), 1, 'each connection counts from 1')
  all.socket.say(ackMessage([{ first: 1, count: 2 }], 10))
  t.same([answers(mine), answers(other)], [[], [[1, 2, 10]]])
})

t.test('text is decoded in order, also when a form has to be asked for', async (t) => {
  const asked: [string, (form: PageForm) => void][] = []
  const all = opened(t, {
    formOf: (page) => new Promise((resolve) => asked.push([page, resolve])),
  })
  const { connection, mine, socket } = all
  const windows: Record<string, number[]> = { cut: [1] }
  mine.windowOf = (page) => windows[page]
  const id = connection.idFor(mine, 's')
  const other = connection.idFor(mine, 's')
  const change = (epoch: number, page: string, more = {}, to = id) => ({
    type: 'change',
    id: to,
    epoch,
    first: epoch,
    changes: [{ page, kind: 'source', ranges: [[0, 1]], values: [1], ...more }],
  })
  const forms = (): unknown[] =>
    mine.messages.splice(0).map((message) => {
      if (message.type !== 'change') return message.type
      const [{ dtype, shape }] = message.change.changes as unknown as [PageForm]
      return [message.change.epoch, dtype, shape]
    })
  socket.say(change(1, 'a'))
  socket.say({ type: 'progress', id, epoch: 2 })
  socket.say(binary(id, { type: 'progress', epoch: 3 }))
  await turns()
  t.same(forms(), [], 'all wait for the first')
  asked.shift()![1]({ dtype: 'f32', shape: [4] })
  await turns()
  t.same(forms(), [[1, 'f32', [4]], 'progress', 'progress'])
  socket.say(binary(id, { type: 'progress', epoch: 3 }))
  t.same(forms(), ['progress'], 'nothing waits any more')
  socket.say({ type: 'progress', id, epoch: 3 })
  await turns()
  socket.say(binary(id, { type: 'progress', epoch: 3 }))
  t.same(forms(), ['progress', 'progress'])
  socket.say(change(4, 'a'))
  await turns()
  t.same(forms(), [[4, 'f32', [4]]])
  t.same(asked, [], 'it is known')
  socket.say({ type: 'progress', id, epoch: 5 })
  socket.say(change(5, 'a', {}, other))
  await turns()
  socket.say(binary(id, { type: 'progress', epoch: 6 }))
  await turns()
  t.same(forms(), ['progress'], 'the end of an earlier one is not the end of all')
  const [[page, answer]] = asked as [(typeof asked)[number]]
  t.equal(page, 'a', 'another subscription may see another page')
  answer({ dtype: 'u8', shape: [2] })
  await turns()
  t.same(forms(), [[5, 'u8', [2]], 'progress'])
})

t.test('what is known of a page ends with its deletion and with its subscription', async (t) => {
  const all = opened(t)
  const { connection, mine, socket, calls } = all
  const windows: Record<string, number[]> = { cut: [1] }
  mine.windowOf = (page) => windows[page]
  let id = connection.idFor(mine, 's')
  const say = async (page: string, more = {}): Promise<unknown> => {
    const changes = [{ page, kind: 'source', ...more }]
    socket.say({ type: 'change', id, epoch: 1, first: 1, changes })
    await turns()
    const message = mine.messages.pop()
    return message?.type === 'change' ? message.change.changes[0]!.shape : message
  }
  t.same(await say('a', { kind: 'created', dtype: 'i8', shape: [7] }), [7])
  t.same(await say('a'), [7])
  t.same(calls, [])
  t.same(await say('cut'), [1], 'of a window, not of its page')
  t.same(calls.splice(0), ['form of cut at 1 for s1'])
  t.same(await say('cut'), [1])
  t.same(await say('a'), [7], 'both are known')
  t.same(calls, [])
  await say('a', { kind: 'deleted' })
  t.same(await say('a'), [2])
  t.same(calls.splice(0), ['form of a at 1 for s1'])
  connection.forget(id)
  t.same(await say('a'), undefined)
  t.same(calls.splice(0), ['form of a at 1 for s1'])
  id = connection.idFor(mine, 's')
  t.same(await say('a'), [2])
  t.same(calls.splice(0), ['form of a at 1 for s2'], 'nothing was kept meanwhile')
})

t.test('what cannot be decoded fails all users', async (t) => {
  for (const data of ['{', '{"type":"what"}', Uint8Array.of(1, 2, 3), Buffer.alloc(16, 8)]) {
    const all = opened(t)
    const other = user('other')
    all.connection.attach(other)
    all.socket.say(data)
    await turns()
    for (const { failures } of [all.mine, other]) t.match(failures, [{ code: 'PROTOCOL' }])
    t.equal(all.connection.isUp, false)
    t.same(all.socket.ended, [1000])
  }
  const refusing = opened(t)
  refusing.socket.say({ type: 'error', code: 'FORBIDDEN', detail: 'go away', status: 403 })
  await turns()
  t.match(refusing.mine.failures, [{ code: 'FORBIDDEN', status: 403 }], 'an error for nobody is for all')
  t.same(refusing.socket.ended, [1000])
})

t.test('a page that cannot be asked for because the network is gone renews the connection', async (t) => {
  const change = { type: 'change', id: 's1', epoch: 1, first: 1, changes: [{ page: 'a', kind: 'source' }] }
  for (const [code, isLost] of [
    ['NETWORK', true],
    ['TIMEOUT', true],
    ['PAGE_NOT_FOUND', false],
  ] as const) {
    const error = new MmsbError({ code, detail: '' })
    const { mine, socket, connection } = opened(t, { formOf: () => Promise.reject(error) })
    connection.idFor(mine, 's')
    socket.say(change)
    await turns()
    t.same(mine.calls, isLost ? ['user up', 'user down'] : ['user up', 'user failed'], code)
    t.same(mine.failures, isLost ? [] : [error])
    connection.failAll(undefined)
  }
})

t.test('messages of a lost socket are dropped, those that still wait for a form too', async (t) => {
  const clock = clockOf(t)
  for (const ending of ['resolves', 'rejects', 'never ends'] as const) {
    const asked: { resolve: (form: PageForm) => void; reject: (error: unknown) => void }[] = []
    const all = opened(t, {
      formOf: () => new Promise((resolve, reject) => asked.push({ resolve, reject })),
    })
    const { mine, connection } = all
    const id = connection.idFor(mine, 's')
    const change = (page: string) => ({
      type: 'change',
      id,
      epoch: 1,
      first: 1,
      changes: [{ page, kind: 'source' }],
    })
    const [old] = all.sockets
    const { onmessage } = old!
    old!.say(change('a'))
    old!.say(change('b'))
    await turns()
    old!.lose()
    clock.pass(clock.waits[0]!)
    all.socket.accept()
    if (ending === 'resolves') asked[0]!.resolve({ dtype: 'u8', shape: [1] })
    else if (ending === 'rejects') asked[0]!.reject(new Error('late'))
    old!.say(binary(id, { type: 'progress', epoch: 3 }))
    old!.lose()
    onmessage?.({ data: JSON.stringify({ type: 'progress', id, epoch: 3 }) } as never)
    await turns()
    t.same([mine.messages, mine.failures], [[], []], ending)
    t.equal(asked.length, 1, 'nothing more is asked for them')
    t.equal(connection.isUp, true)
    all.socket.say({ type: 'progress', id, epoch: 4 })
    await turns()
    t.match(mine.messages, [{ epoch: 4 }])
    connection.failAll(undefined)
  }
})
