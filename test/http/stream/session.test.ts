/** One WebSocket of the stream, with a socket, a sink and a bus that the test controls. */
import { EventEmitter } from 'node:events'
import t from 'tap'
import type { Sender } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { StreamSession } from '../../../src/http/stream/session.js'
import {
  JSON_PIECE_BYTES,
  STREAM_BYTES_IN_FLIGHT_MAX,
  STREAM_FREE_BYTES,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_TRANSACTIONS_IN_FLIGHT_MAX,
} from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { turn, until } from '../../lib/wait.js'
import { decodeMessages } from '../../stream/binary.js'

interface Answer {
  readonly type: string
  readonly id?: string
  readonly code?: string
  readonly detail?: string
  readonly epoch?: number
}

/** Calls of what the session talks to, in order, as texts. */
class Fakes {
  readonly calls: string[] = []
  readonly answers: Answer[] = []
  readonly binary: Buffer[] = []
  readonly internal: unknown[] = []
  /** What transactions and commits resolve with. */
  result: Promise<{ epoch: number }> = Promise.resolve({ epoch: 7 })
  submitted: { numbers: number; frames: number; bytes: number } = { numbers: 1, frames: 1, bytes: 100 }
  sender: Sender | undefined
  readonly first: number[] = []
  queuedBytes = 0
  observed = 0
  takenBytes = 0
  isFull = false
  leases = 0
  /** The next message had so many bytes that they were counted. */
  isLeased = false
  ended = 0
  readonly socket = new EventEmitter()
  readonly session: StreamSession

  constructor(isBinary = true) {
    const note = (call: string): void => void this.calls.push(call)
    Object.assign(this.socket, { pause: () => note('pause'), resume: () => note('resume') })
    const fakes = this
    const sink = {
      get queuedBytes() {
        return fakes.queuedBytes
      },
      observe: () => this.observed++,
      write: ([head, ...rest]: Buffer[]) => this.#written(Buffer.concat([head!, ...rest])),
      send: (id: string, message: Answer) => this.answers.push({ ...message, id }),
    }
    const connection = {
      subscribe: (id: string, options: object) => {
        if (id === 'bad') throw new MmsbError('INVALID_REQUEST', 'no')
        note(`subscribe ${id} ${JSON.stringify(options)}`)
      },
      unsubscribe: (id: string) => {
        note(`unsubscribe ${id}`)
        return id !== 'none'
      },
      commit: (id: string, epoch: number) => {
        note(`commit ${id} ${epoch}`)
        return this.result.then((result) => result.epoch)
      },
    }
    const bus = {
      limits: new LimitGuard(),
      transact: (transaction: object) => {
        note(`transact ${JSON.stringify(transaction).slice(0, 60)}`)
        if (JSON.stringify(transaction).includes('bad')) throw new MmsbError('READ_ONLY', 'no')
        return this.result
      },
      submitAll: (sender: Sender, first: number, message: Uint8Array) => {
        this.sender = sender
        this.first.push(first)
        note(`submit ${Buffer.from(message).toString().slice(0, 20)}`)
        return this.submitted
      },
    }
    const receiving = {
      onMessage: () => {
        this.ended++
        if (!this.isLeased) return undefined
        this.leases++
        return { grow: () => {}, release: () => this.leases-- }
      },
    }
    this.session = new StreamSession({
      bus,
      context: {
        bus,
        hub: {
          queues: {
            get isFull() {
              return fakes.isFull
            },
          },
        },
      },
      socket: this.socket,
      sink,
      connection,
      isBinary,
      onInternal: (cause: unknown) => this.internal.push(cause),
      takenBytes: () => this.takenBytes,
      receiving,
    } as unknown as ConstructorParameters<typeof StreamSession>[0])
  }

  #written(frame: Buffer): void {
    const length = frame[1]! < 126 ? 2 : 4
    if (frame[0] === 0x81) this.answers.push(JSON.parse(frame.subarray(length).toString()) as Answer)
    else this.binary.push(frame.subarray(length))
  }

  text(message: unknown): void {
    const text = typeof message === 'string' ? message : JSON.stringify(message)
    this.socket.emit('message', Buffer.from(text), false)
  }

  frame(text = 'f'): void {
    this.socket.emit('message', Buffer.from(text), true)
  }
}

const transaction = (id: string) => ({ type: 'transaction', id, ops: [{ page: 'a', values: [1] }] })
/** Too large to be parsed at once. */
const large = (id: string) => `${JSON.stringify({ type: 'unsubscribe', id })}${' '.repeat(JSON_PIECE_BYTES)}`

t.test('each message does what it says, and gets its answer', async (t) => {
  const fakes = new Fakes()
  fakes.text({ type: 'subscribe', id: 's', pages: ['a'], policy: 'latest' })
  fakes.text({ type: 'unsubscribe', id: 's' })
  fakes.text({ type: 'commit', id: 's', epoch: 3 })
  fakes.text(transaction('t'))
  t.same(fakes.calls, [
    'subscribe s {"pages":["a"],"policy":"latest"}',
    'unsubscribe s',
    'commit s 3',
    'transact {"ops":[{"page":"a","values":[1]}]}',
  ])
  t.same(fakes.answers, [], 'not before it is done')
  await turn()
  t.same(fakes.answers, [
    { type: 'ack', id: 't', epoch: 7 },
    { type: 'committed', epoch: 7, id: 's' },
  ])
  t.equal(fakes.ended, 4, 'each was received whole')
})

t.test('what is wrong is answered with an error that names its message', async (t) => {
  const fakes = new Fakes()
  const cases: [unknown, string | undefined, RegExp][] = [
    ['{', undefined, /not JSON/],
    ['[]', undefined, /not a JSON object/],
    ['null', undefined, /not a JSON object/],
    ['1', undefined, /not a JSON object/],
    [{ type: 'hello', id: 'x' }, 'x', /must be one of subscribe, unsubscribe, commit, transaction/],
    [{ id: 3 }, undefined, /must be one of/],
    [{ type: 'subscribe', id: 'x' }, 'x', /missing "pages"/],
    [{ type: 'subscribe', id: 'bad', pages: [] }, 'bad', /./],
    [{ type: 'unsubscribe', id: 'none' }, 'none', /has no subscription "none"/],
    [{ type: 'commit', id: 'x' }, 'x', /missing "epoch"/],
    [{ ...transaction('x'), ops: [{ page: 'bad', values: [1] }] }, 'x', /^no$/],
  ]
  for (const [message, id, detail] of cases) {
    fakes.text(message)
    const answer = fakes.answers.at(-1)!
    t.match(answer, { type: 'error', detail })
    t.equal(answer.id, id)
  }
  t.equal(fakes.answers.length, cases.length)
  fakes.result = Promise.reject(new MmsbError('NOT_FOUND', 'gone'))
  fakes.text(transaction('t'))
  fakes.text({ type: 'commit', id: 'c', epoch: 1 })
  await turn()
  t.match(
    fakes.answers.slice(-2).map(({ id, code }) => [id, code]),
    [
      ['t', 'NOT_FOUND'],
      ['c', 'NOT_FOUND'],
    ],
  )
  fakes.result = Promise.reject(new TypeError('odd'))
  fakes.text(transaction('u'))
  await turn()
  t.match([fakes.answers.at(-1), fakes.internal], [{ id: 'u', code: 'INTERNAL' }, [{ message: 'odd' }]])
})

t.test('messages behind a large one wait until it is parsed, in order', async (t) => {
  const fakes = new Fakes()
  fakes.isLeased = true
  fakes.text(large('1'))
  fakes.text({ type: 'unsubscribe', id: '2' })
  fakes.text(large('3'))
  fakes.frame('frame 4')
  const shared = Buffer.from('frame 5')
  fakes.isLeased = false
  fakes.session.onFrames(shared)
  fakes.isLeased = true
  shared.fill(120)
  fakes.text({ type: 'unsubscribe', id: '6' })
  t.same([fakes.calls, fakes.leases], [['pause'], 5], 'it is read no further meanwhile')
  await until(() => fakes.calls.includes('unsubscribe 6'), 'the last message')
  await turn()
  t.same(
    fakes.calls.filter((call) => !/pause|resume/.test(call)),
    ['unsubscribe 1', 'unsubscribe 2', 'unsubscribe 3', 'submit frame 4', 'submit frame 5', 'unsubscribe 6'],
  )
  t.equal(fakes.leases, 0)
  t.equal(fakes.calls.at(-1), 'resume')
})

t.test('a large message that is none is answered, and what is behind it goes on', async (t) => {
  const fakes = new Fakes()
  fakes.text(`{${' '.repeat(JSON_PIECE_BYTES)}`)
  fakes.text({ type: 'unsubscribe', id: '2' })
  const idle = fakes.session.finish()
  await idle
  t.match(fakes.answers, [{ type: 'error', detail: /not JSON/ }])
  t.same(fakes.calls, ['pause', 'unsubscribe 2', 'resume'])
})

t.test('a small message is in memory no longer than it is handled', async (t) => {
  const fakes = new Fakes()
  fakes.isLeased = true
  fakes.text({ type: 'unsubscribe', id: '1' })
  t.equal(fakes.leases, 0)
})

t.test('binary messages need their subprotocol', async (t) => {
  const fakes = new Fakes(false)
  fakes.frame()
  t.match(fakes.answers, [{ type: 'error', code: 'INVALID_REQUEST', detail: /mmsb.v1.bin/ }])
  t.same(fakes.calls, [])
})

t.test('frames are numbered, and those of one epoch acknowledged together', async (t) => {
  const fakes = new Fakes()
  fakes.submitted = { numbers: 3, frames: 2, bytes: 10 }
  fakes.frame()
  fakes.session.onFrames(Buffer.from('g'))
  t.same([fakes.first, fakes.ended], [[1, 4], 2])
  const { sender } = fakes
  sender!.committed(1, 2, 10, 5)
  sender!.committed(4, 1, 5, 5)
  t.equal(fakes.binary.length, 0)
  sender!.committed(5, 1, 5, 6)
  t.equal(fakes.binary.length, 1, 'those of the epoch before')
  await turn()
  sender!.refused(3, new MmsbError('PAGE_NOT_FOUND', 'no page'))
  const messages = fakes.binary.flatMap((bytes) => decodeMessages(bytes))
  t.match(messages, [
    { type: 'ack', sequence: 1, count: 2, epoch: 5 },
    { type: 'ack', sequence: 4, count: 1, epoch: 5 },
    { type: 'ack', sequence: 5, count: 1, epoch: 6 },
    { type: 'refusal', sequence: 3, code: 'PAGE_NOT_FOUND' },
  ])
  fakes.frame()
  sender!.failed(7, 2, 10, new MmsbError('LOG_FULL', 'no room'))
  const refusals = fakes.binary.slice(3).flatMap((bytes) => decodeMessages(bytes))
  t.match(refusals, [
    { type: 'refusal', sequence: 7, code: 'LOG_FULL' },
    { type: 'refusal', sequence: 8, code: 'LOG_FULL' },
  ])
  t.equal(refusals.length, 2)
})

t.test('a client that is too far ahead is not read from until half is done', async (t) => {
  const half = STREAM_TRANSACTIONS_IN_FLIGHT_MAX / 2
  const fakes = new Fakes()
  fakes.submitted = { numbers: 1, frames: 2 * half - 1, bytes: 0 }
  fakes.frame()
  t.same(fakes.calls, ['submit f'])
  fakes.submitted = { numbers: 1, frames: 1, bytes: 0 }
  fakes.session.onFrames(Buffer.from('f'))
  t.same(fakes.calls.slice(1), ['submit f', 'pause'])
  fakes.frame()
  t.same(fakes.calls.slice(3), ['submit f'], 'once')
  fakes.sender!.committed(1, half + 1, 0, 1)
  t.equal(fakes.calls.length, 4, 'half is left')
  fakes.sender!.failed(1, 1, 0, new MmsbError('LOG_FULL', 'no'))
  t.equal(fakes.calls.at(-1), 'resume')
  fakes.sender!.committed(1, 1, 0, 1)
  t.equal(fakes.calls.length, 5)
})

t.test('nor one that sent too many bytes', async (t) => {
  const half = STREAM_BYTES_IN_FLIGHT_MAX / 2
  const fakes = new Fakes()
  fakes.submitted = { numbers: 1, frames: 1, bytes: 2 * half - 1 }
  fakes.frame()
  fakes.submitted = { numbers: 1, frames: 1, bytes: 1 }
  t.same(fakes.calls, ['submit f'])
  fakes.frame()
  t.same(fakes.calls.slice(1), ['submit f', 'pause'])
  fakes.sender!.committed(1, 0, half, 1)
  t.equal(fakes.calls.length, 3)
  fakes.sender!.committed(1, 0, 1, 1)
  t.equal(fakes.calls.at(-1), 'resume')
})

t.test('nor one that does not read its answers', async (t) => {
  const fakes = new Fakes()
  const message = (queuedBytes: number): string | undefined => {
    fakes.calls.length = 0
    fakes.queuedBytes = queuedBytes
    fakes.text({ type: 'unsubscribe', id: '1' })
    return fakes.calls[1]
  }
  t.equal(message(STREAM_FREE_BYTES), undefined)
  t.equal(fakes.observed, 0, 'little is not looked at')
  t.equal(message(STREAM_QUEUE_MAX_BYTES - 1), undefined)
  t.equal(fakes.observed, 1)
  t.equal(message(STREAM_QUEUE_MAX_BYTES), 'pause')
  fakes.queuedBytes = STREAM_QUEUE_MAX_BYTES / 2
  fakes.session.drained()
  t.equal(fakes.calls.length, 2)
  fakes.queuedBytes--
  fakes.session.drained()
  t.equal(fakes.calls.at(-1), 'resume')
  fakes.isFull = true
  t.equal(message(STREAM_FREE_BYTES), undefined)
  t.equal(message(STREAM_FREE_BYTES + 1), 'pause', 'the budget of all is used up')
  fakes.isFull = false
  fakes.session.drained()
  t.equal(fakes.calls.at(-1), 'resume')
})

t.test('a client shows life by what it sends, or reads while it is held back', async (t) => {
  const fakes = new Fakes()
  t.equal(fakes.session.showedLife(), true, 'it has just come')
  t.equal(fakes.session.showedLife(), false)
  fakes.text({ type: 'unsubscribe', id: '1' })
  t.equal(fakes.session.showedLife(), true)
  fakes.takenBytes = 10
  t.equal(fakes.session.showedLife(), false, 'to read is not enough')
  fakes.session.onFrames(Buffer.from('f'))
  t.equal(fakes.session.showedLife(), true)
  t.equal(fakes.session.showedLife(), false, 'nor that its frame is not committed')
  fakes.queuedBytes = STREAM_QUEUE_MAX_BYTES
  fakes.sender!.committed(1, 1, 100, 1)
  fakes.text({ type: 'unsubscribe', id: '1' })
  t.equal(fakes.session.showedLife(), true)
  t.equal(fakes.session.showedLife(), false, 'it is held back and reads nothing')
  fakes.takenBytes = 11
  t.equal(fakes.session.showedLife(), true)
  t.equal(fakes.session.showedLife(), false)
  fakes.queuedBytes = 0
  fakes.session.drained()
  fakes.submitted = { numbers: 1, frames: STREAM_TRANSACTIONS_IN_FLIGHT_MAX, bytes: 0 }
  fakes.frame()
  t.equal(fakes.session.showedLife(), true)
  t.equal(fakes.session.showedLife(), true, 'the commits are behind, not the client')
})

t.test('once it ends it takes no more, and waits for what it has taken', async (t) => {
  const idle = new Fakes()
  await idle.session.finish()
  const fakes = new Fakes()
  let isDone = false
  let answer = (_result: { epoch: number }): void => {}
  fakes.result = new Promise((resolve) => {
    answer = resolve
  })
  fakes.text(transaction('t'))
  fakes.frame()
  const finished = fakes.session.finish().then(() => {
    isDone = true
  })
  fakes.isLeased = true
  fakes.text(transaction('u'))
  fakes.frame('late')
  fakes.isLeased = false
  fakes.session.onFrames(Buffer.from('late'))
  await turn()
  t.same([fakes.calls.length, isDone], [2, false])
  answer({ epoch: 1 })
  await turn()
  t.equal(isDone, false, 'the frame is not committed yet')
  fakes.sender!.committed(1, 1, 100, 1)
  await finished
  t.equal(fakes.leases, 0, 'what came late is not kept')
})
