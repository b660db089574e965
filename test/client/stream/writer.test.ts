/** What a writer sends, in which order, and which promise gets which answer; the test plays the server. */
import t from 'tap'
import { MmsbError } from '../../../src/client/errors.js'
import type { Delta } from '../../../src/client/types.js'
import { ackMessage } from '../../../src/http/stream/binary-messages.js'
import { decodeFrame, splitFrames } from '../../../src/state/frame/reader.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../../src/wire/limits.js'
import { turns } from '../../lib/wait.js'
import { clockOf, type Json } from '../played.js'
import { all, answer, fates, HISTORY, writing } from '../writing.js'

const OTHER = `${'12'.repeat(16)}.${'34'.repeat(8)}`
const MIB = 1024 ** 2

const one = (value: number): Delta => ({ values: [value] })
const op = (value: number) => ({ page: 'a', ...one(value) })

for (const protocol of ['binary', 'json'] as const) {
  t.test(`${protocol}: transactions leave in the order of the calls, each gets its own answer`, async (t) => {
    const { writer, socket, calls, connection } = writing(t, protocol)
    const forgotten = t.capture(connection, 'forget', (id: string) => void id)
    t.equal(writer.pending, 0)
    const writes = [
      writer.patch('a', one(1)),
      writer.transact({ ops: [op(2), op(3)] }),
      writer.transact({ ops: [op(4)], expect: [{ page: 'b', version: 3 }] }, { key: 'mine' }),
      writer.patch('a', one(5)),
    ]
    t.equal(writer.pending, 4)
    await turns()
    t.same(all(socket), [
      ['key0', [1]],
      ['key1', [2], [3]],
      ['mine', [4]],
      ['key2', [5]],
    ])
    t.equal(socket.sent.length, protocol === 'binary' ? 1 : 4, 'those of one turn leave together')
    calls.length = 0
    answer(socket, protocol, 2, 12)
    t.same(await fates(writes), ['pending', 12, 'pending', 'pending'])
    t.equal(writer.pending, 3)
    answer(socket, protocol, 3, 'PRECONDITION_FAILED')
    answer(socket, protocol, 1, 11)
    t.same(await fates(writes), [11, 12, 'PRECONDITION_FAILED', 'pending'])
    t.same(calls, ['forget a', 'forget b'], 'they may be other pages now')
    answer(socket, protocol, 4, 14)
    answer(socket, protocol, 4, 'PRECONDITION_FAILED')
    t.same(await fates(writes), [11, 12, 'PRECONDITION_FAILED', 14])
    t.equal(calls.length, 2)
    if (protocol === 'json')
      t.same(
        forgotten()
          .slice(0, 4)
          .map(({ args }) => args[0]),
        [2, 3, 1, 4].map((number) => socket.told[number - 1]!.id),
        'nothing is kept of what is answered',
      )
    t.same(socket.ended, [])
  })

  t.test(`${protocol}: who waits for its page holds back the later ones, and fails alone`, async (t) => {
    const asked: { resolve: (page: never) => void; reject: (error: unknown) => void }[] = []
    const known = { id: 5, dtype: 'u8', elements: 64 } as const
    const { writer, socket } = writing(t, protocol, {
      pageOf: (name) =>
        name === 'new' ? new Promise((resolve, reject) => asked.push({ resolve, reject })) : known,
    })
    const bytes = (value: number): Delta => ({ values: Uint8Array.of(value) })
    const writes = [
      writer.patch('a', bytes(1)),
      writer.patch('new', bytes(2)),
      writer.patch('a', bytes(3)),
      writer.patch('new', bytes(4)),
      writer.patch('a', bytes(5)),
    ]
    const closed = writer.close()
    await turns()
    t.equal(writer.pending, 5)
    t.same(all(socket), [['key0', [1]]])
    asked[1]!.reject(new MmsbError({ code: 'PAGE_NOT_FOUND', detail: '' }))
    await turns()
    t.equal(all(socket).length, 1)
    asked[0]!.resolve(known as never)
    t.same(await fates(writes), ['pending', 'pending', 'pending', 'PAGE_NOT_FOUND', 'pending'])
    t.same(all(socket).slice(1), [
      ['key1', [2]],
      ['key2', [3]],
      ['key4', [5]],
    ])
    t.equal(writer.pending, 4)
    for (const number of [1, 2, 3]) answer(socket, protocol, number, number)
    t.same(await fates([closed]), ['pending'])
    answer(socket, protocol, 4, 4)
    t.same(await fates([...writes, closed]), [1, 2, 3, 'PAGE_NOT_FOUND', 4, 'done'])
  })

  t.test(`${protocol}: after a lost connection all are sent again, in order, with their keys`, async (t) => {
    const clock = clockOf(t)
    const all5 = writing(t, protocol)
    const { writer, connection } = all5
    const forgotten = t.capture(connection, 'forget', connection.forget)
    const writes = [1, 2, 3].map((value) => writer.patch('a', one(value)))
    await turns()
    const [old] = all5.sockets
    answer(old!, protocol, 2, 20)
    await turns()
    old!.lose()
    writes.push(writer.patch('a', one(4)))
    await turns()
    t.equal(writer.pending, 3)
    clock.pass(clock.waits[0]!)
    t.same(all5.socket.sent, [])
    all5.socket.accept()
    await turns()
    t.same(all(all5.socket), [
      ['key0', [1]],
      ['key2', [3]],
      ['key3', [4]],
    ])
    if (protocol === 'json') {
      const lost = [0, 2].map((i) => old!.told[i]!.id)
      t.same(
        forgotten()
          .slice(-2)
          .map(({ args }) => args[0]),
        lost,
      )
    }
    for (const number of [1, 2, 3]) answer(all5.socket, protocol, number, 30 + number)
    t.same(await fates(writes), [31, 20, 32, 33])
    t.equal(writer.pending, 0)
  })

  t.test(`${protocol}: once nothing waits for a page, a transaction is sent in its own turn`, async (t) => {
    const pages: ((page: never) => void)[] = []
    const { writer, socket } = writing(t, protocol, {
      pageOf: (name) =>
        name === 'a' ? { id: 5, dtype: 'u8', elements: 64 } : new Promise((resolve) => pages.push(resolve)),
    })
    const bytes = (value: number): Delta => ({ values: Uint8Array.of(value) })
    writer.patch('slow', bytes(1))
    writer.patch('slower', bytes(2))
    pages[0]!({ id: 6, dtype: 'u8', elements: 64 } as never)
    await turns()
    writer.patch('a', bytes(3))
    await turns()
    t.same(all(socket), [['key0', [1]]], 'one still waits')
    pages[1]!({ id: 7, dtype: 'u8', elements: 64 } as never)
    await turns()
    t.same(all(socket).slice(1), [
      ['key1', [2]],
      ['key2', [3]],
    ])
    writer.patch('a', bytes(4))
    await undefined
    t.equal(all(socket).length, 4)
  })

  t.test(`${protocol}: nothing leaves before the server was asked for its history, once`, async (t) => {
    for (const answers of [true, false]) {
      let end = (): void => {}
      const { writer, socket, calls } = writing(t, protocol, {
        history: '',
        askHistory: () =>
          new Promise((resolve, reject) => {
            end = answers ? () => resolve(undefined) : () => reject(new Error('away'))
          }),
      })
      t.notOk(calls.includes('ask'), 'not before there is something to send')
      void writer.patch('a', one(1))
      await turns()
      void writer.patch('a', one(2))
      await turns()
      t.same(socket.sent, [])
      t.equal(calls.filter((call) => call === 'ask').length, 1)
      end()
      await turns()
      t.same(all(socket), [
        ['key0', [1]],
        ['key1', [2]],
      ])
      void writer.patch('a', one(3))
      await turns()
      t.equal(all(socket).length, 3)
      t.equal(calls.filter((call) => call === 'ask').length, 1)
    }
    const known = writing(t, protocol)
    void known.writer.patch('a', one(1))
    await turns()
    t.notOk(known.calls.includes('ask'))
  })

  t.test(`${protocol}: on another history only what has its own key is sent, encoded anew`, async (t) => {
    const clock = clockOf(t)
    let id = 5
    const forms: (() => void)[] = []
    const known = () => ({ id, dtype: 'u8', elements: 64 }) as const
    const all6 = writing(t, protocol, {
      pageOf: (name) =>
        name === 'slow' ? new Promise((resolve) => forms.push(() => resolve(known()))) : known(),
    })
    const { writer, connection } = all6
    const bytes = (page: string, value: number) => ({ ops: [{ page, values: Uint8Array.of(value) }] })
    const writes = [writer.transact(bytes('a', 1), { key: 'own' }), writer.transact(bytes('a', 2))]
    await turns()
    t.equal(all(all6.socket).length, 2)
    writes.push(writer.transact(bytes('slow', 3), { key: 'slow' }), writer.transact(bytes('slow', 4)))
    id = 6
    connection.learn(OTHER)
    for (const resolve of forms.splice(0)) resolve()
    t.same(await fates(writes), ['pending', 'HISTORY_CHANGED', 'pending', 'HISTORY_CHANGED'])
    for (const resolve of forms.splice(0)) resolve()
    await turns()
    clock.pass(clock.waits[0]!)
    all6.socket.accept()
    await turns()
    t.same(all(all6.socket), [
      ['own', [1]],
      ['slow', [3]],
    ])
    if (protocol === 'binary') {
      const frames = splitFrames(all6.socket.sent[0] as Uint8Array)
      const ids = frames.map((bytes) => decodeFrame(Uint8Array.from(bytes)).commands[0])
      t.match(ids, [{ pageId: 6 }, { pageId: 6 }])
    }
    t.equal(writer.pending, 2)
    await t.rejects(writes[1]!, { code: 'HISTORY_CHANGED', extra: { history: OTHER } })
    const closed = writer.close()
    connection.learn(HISTORY)
    for (const resolve of forms.splice(0)) resolve()
    await turns()
    clock.pass(clock.waits[0]!)
    all6.socket.accept()
    await turns()
    answer(all6.socket, protocol, 1, 7)
    answer(all6.socket, protocol, 2, 8)
    t.same(await fates([writes[0]!, writes[2]!, closed]), [7, 8, 'done'], 'as often as it changes')
  })

  t.test(
    `${protocol}: a writer that waits to be closed ends when another history refuses the rest`,
    async (t) => {
      const { writer, connection, calls } = writing(t, protocol)
      const write = writer.patch('a', one(1))
      const closed = writer.close()
      await turns()
      connection.learn(OTHER)
      t.same(await fates([write, closed]), ['HISTORY_CHANGED', 'done'])
      t.equal(calls.at(-1), 'end')
    },
  )

  t.test(`${protocol}: a page that does not fit is asked for once more`, async (t) => {
    const pages = [1, 2, 64].map((elements) => ({ id: 5, dtype: 'f32', elements }) as const)
    const odd = { id: 5, dtype: 'u8', elements: 64 } as const
    let known: (typeof pages)[number] | typeof odd = odd
    const { writer, socket, calls } = writing(t, protocol, {
      pageOf: () =>
        calls.at(-1)?.startsWith('page') && calls.at(-2)?.startsWith('forget')
          ? Promise.resolve(pages[2]!)
          : known,
    })
    const values = Float32Array.of(1, 2)
    void writer.patch('a', { values })
    await turns()
    t.same(calls, ['page a', 'page a', 'forget a', 'page a'].slice(calls.length === 3 ? 1 : 0))
    t.same(all(socket), [['key0', [1, 2]]])
    known = pages[2]!
    await t.rejects(writer.patch('a', { values: Float64Array.of(1) }), { code: 'INVALID_DELTA' })
    t.equal(writer.pending, 1)
    void writer.patch('a', { values })
    await turns()
    t.equal(all(socket).length, 2)
  })

  t.test(`${protocol}: what cannot be sent rejects by itself and at once`, async (t) => {
    const { writer, socket, calls } = writing(t, protocol)
    const unreadable = new Proxy([1], {
      get: (list, name) => {
        if (name === '0') throw new Error('unreadable')
        return Reflect.get(list, name)
      },
    })
    await t.rejects(writer.patch('a', { values: unreadable }), {
      code: 'INVALID_REQUEST',
      detail: /cannot be sent: Error: unreadable/,
    })
    await t.rejects(writer.transact({ ops: [op(1)], intent: 5n as never }), { code: 'INVALID_REQUEST' })
    t.notOk(calls.includes('forget a'))
    t.equal(writer.pending, 0)
    t.same(socket.sent, [])
    await t.rejects(writer.patch('', one(1)), { code: 'INVALID_REQUEST', detail: /^page/ })
    await t.rejects(writer.patch('a', {} as never), { code: 'INVALID_DELTA' })
    await t.rejects(writer.transact({ ops: [], kind: 1 } as never), {
      code: 'INVALID_REQUEST',
      detail: /^kind/,
    })
    await t.rejects(writer.transact({ ops: [] }, { key: '' }), { code: 'INVALID_REQUEST' })
    await t.rejects(writer.transact({ ops: [] }, { kei: '' } as never), { code: 'INVALID_REQUEST' })
  })

  t.test(`${protocol}: closed, it takes no more and ends when all are answered`, async (t) => {
    const clock = clockOf(t)
    const { writer, socket, calls } = writing(t, protocol)
    const write = writer.patch('a', one(1))
    const closed = [writer.close(), writer.close()]
    await t.rejects(writer.patch('a', one(2)), { code: 'CLOSED', detail: /writer/ })
    t.same(await fates(closed), ['pending', 'pending'])
    t.notOk(calls.includes('end'))
    clock.pass(60_000)
    t.same(socket.ended, [], 'silence means nothing to a writer')
    answer(socket, protocol, 1, 3)
    t.same(await fates([write, ...closed]), [3, 'done', 'done'])
    t.equal(calls.at(-1), 'end')
    t.same(socket.ended, [1000], 'nobody needs the connection')
    const idle = writing(t, protocol)
    t.same(await fates([idle.writer.close()]), ['done'])
    const missing = writing(t, protocol, {
      pageOf: () => Promise.reject(new MmsbError({ code: 'NETWORK', detail: '' })),
    })
    const failing = missing.writer.patch('a', { values: Uint8Array.of(1) })
    t.same(await fates([missing.writer.close(), failing]), ['done', 'NETWORK'])
  })

  t.test(
    `${protocol}: what is pending rejects when the connection fails, and what comes later`,
    async (t) => {
      const known = { id: 5, dtype: 'u8', elements: 64 } as const
      let resolve = (_page: typeof known): void => {}
      const { writer, socket, connection, calls } = writing(t, protocol, {
        pageOf: (name) =>
          name === 'slow'
            ? new Promise((done) => {
                resolve = done
              })
            : known,
      })
      const bytes = { values: Uint8Array.of(1) }
      const sent = Array.from({ length: 2_049 }, () => writer.patch('a', bytes))
      await turns()
      const waiting = writer.patch('slow', bytes)
      connection.failAll(new MmsbError({ code: 'FORBIDDEN', detail: '' }))
      t.equal(writer.pending, 1, 'its page is not known yet')
      resolve(known)
      for (const write of [...sent, waiting, writer.patch('a', bytes)])
        await t.rejects(write, { code: 'FORBIDDEN' })
      t.equal(writer.pending, 0)
      t.ok(calls.includes('end'))
      t.same(await fates([writer.close()]), ['done'])
      writer.fail(new Error('later'))
      await t.rejects(writer.patch('a', bytes), { code: 'FORBIDDEN' }, 'the first reason stays')
      await t.rejects(Promise.all(sent), { code: 'FORBIDDEN' })
      t.equal(socket.sent.length, protocol === 'binary' ? 1 : 2_048)
    },
  )
}

t.test('a limited number is unanswered at a time; the others wait here', async (t) => {
  const clock = clockOf(t)
  const rig = writing(t, 'binary')
  const { writer, socket } = rig
  const writes = Array.from({ length: 2_051 }, (_, i) => writer.patch('a', one(i % 256)))
  await turns()
  t.equal(all(socket).length, 2_048)
  t.equal(writer.pending, 2_051)
  answer(socket, 'binary', 1, 5)
  answer(socket, 'binary', 2, 'PRECONDITION_FAILED')
  await t.rejects(writes[1]!, { code: 'PRECONDITION_FAILED' })
  await turns()
  t.same(all(socket).slice(2_048), [
    ['key2048', [0]],
    ['key2049', [1]],
  ])
  t.equal(writer.pending, 2_049)
  socket.lose()
  clock.pass(clock.waits[0]!)
  rig.socket.accept()
  await turns()
  t.same(
    all(rig.socket).map((sent) => (sent as [string])[0]),
    Array.from({ length: 2_048 }, (_, i) => `key${i + 2}`),
    'those that waited come behind those that were sent before',
  )
})

t.test('frames are joined up to 1 MiB; a transaction has at most 16 MiB', async (t) => {
  const page = { id: 5, dtype: 'u8', elements: 64 * MIB } as const
  const { writer, socket } = writing(t, 'binary', { pageOf: () => page })
  /** Of so many bytes, with a key of three letters. */
  const frameOf = (bytes: number): Promise<unknown> => {
    const ops = [{ page: 'a', values: new Uint8Array(bytes - 72) }]
    return writer.transact({ ops }, { key: 'key' })
  }
  const sizes = (): number[] => socket.sent.splice(0).map(({ length }) => length)
  void frameOf(MIB / 2)
  void frameOf(MIB / 2)
  await turns()
  t.same(sizes(), [MIB])
  void frameOf(MIB / 2)
  void frameOf(MIB / 2)
  void frameOf(80)
  void frameOf(88)
  await turns()
  t.same(sizes(), [MIB, 168])
  void frameOf(80)
  void frameOf(MIB)
  void frameOf(80)
  await turns()
  t.same(sizes(), [80, MIB, 80])
  t.equal(writer.pending, 9)
  socket.say(ackMessage([{ first: 1, count: 9 }], 5))
  t.equal(writer.pending, 0, 'each has its number')
  void frameOf(STREAM_MESSAGE_MAX_BYTES)
  await turns()
  t.same(sizes(), [STREAM_MESSAGE_MAX_BYTES])
  const values = new Uint8Array(STREAM_MESSAGE_MAX_BYTES - 71)
  await t.rejects(writer.transact({ ops: [{ page: 'a', values }] }, { key: 'key' }), {
    code: 'PAYLOAD_TOO_LARGE',
    detail: /16777216 bytes; this has 16777224/,
    hint: /HTTP/,
  })
})

t.test('in JSON a page is asked for only where there is a typed array', async (t) => {
  const { writer, socket, calls } = writing(t, 'json')
  void writer.transact({ ops: [op(1)], expect: [{ page: 'b', version: 1 }] })
  await turns()
  t.same(calls, [])
  void writer.transact({ ops: [op(1), { page: 'c', values: Uint8Array.of(2) }] })
  await turns()
  t.same(calls, ['page c'])
  t.match(socket.told as Json[], [
    { type: 'transaction', key: 'key0', expect: [{ page: 'b', version: 1 }] },
    { type: 'transaction', key: 'key1', ops: [{ page: 'a' }, { page: 'c', values: [2] }] },
  ])
  writer.transact({
    ops: [
      { page: 'c', values: Uint8Array.of(3) },
      { page: 'c', values: [4] },
    ],
  })
  await turns()
  t.match(socket.told[2], { ops: [{ values: [3] }, { values: [4] }] })
  calls.length = 1
  await t.rejects(writer.patch('c', { values: [{}] as never }), { code: 'INVALID_DELTA' })
  t.equal(calls.length, 1, 'no page would take it')
  await t.rejects(writer.patch('c', { values: Int8Array.of(2) }), { code: 'INVALID_DELTA', detail: /u8/ })
  t.same(calls.slice(1), ['page c', 'forget c', 'page c'])
  const binary = writing(t, 'binary')
  void binary.writer.transact({ ops: [op(1)], expect: [{ page: 'b', version: 1 }] })
  t.same(binary.calls, ['page a', 'page b'])
  const known = { id: 5, dtype: 'u8', elements: 64 } as const
  const slow = writing(t, 'binary', { pageOf: async () => known })
  await t.rejects(slow.writer.patch('a', { ...one(1), merge: 'max!' as never }), { code: 'INVALID_REQUEST' })
  t.same(slow.calls, ['page a'], 'no page would take it')
})
