/** Answers in flight: what they hold is counted, and readers that take nothing are cut off. */
import { EventEmitter } from 'node:events'
import type { FastifyReply } from 'fastify'
import t from 'tap'
import { Answers } from '../../src/http/answers.js'
import { ANSWER_FREE_BYTES } from '../../src/limits.js'
import { LimitGuard } from '../../src/operator-limits.js'
import { sleep, until } from '../lib/wait.js'

const IDLE_MS = 60

/** A socket of which the test says what it has sent. */
class FakeSocket {
  bytesWritten = 0
  writableLength = 0
  isCut = false

  destroy(): void {
    this.isCut = true
  }
}

class FakeResponse extends EventEmitter {
  readonly socket: FakeSocket | null
  constructor(socket: FakeSocket | null = new FakeSocket()) {
    super()
    this.socket = socket
  }
  get reply(): FastifyReply {
    return { raw: this, request: {} } as unknown as FastifyReply
  }
}

function answers(limits: Partial<ConstructorParameters<typeof LimitGuard>[0]> = {}) {
  const guard = new LimitGuard({ idleTimeoutMs: IDLE_MS, ...limits })
  return { guard, all: new Answers(guard) }
}

t.test('what an answer holds is given back once, however it ends', async (t) => {
  const { all, guard } = answers()
  const bytes = ANSWER_FREE_BYTES + 1
  for (const ends of [['finish'], ['close'], ['finish', 'close']]) {
    const response = new FakeResponse()
    all.reserve(response.reply, bytes)
    t.equal(all.bytes, bytes)
    t.equal(new Map(guard.uses()).get('answerBudgetBytes'), bytes)
    for (const end of ends) response.emit(end)
    t.equal(all.bytes, 0)
    response.emit('close')
  }
})

t.test('small answers are not counted', async (t) => {
  const { all } = answers()
  const response = new FakeResponse()
  all.reserve(response.reply, ANSWER_FREE_BYTES)
  t.same([all.bytes, response.listenerCount('close'), response.listenerCount('finish')], [0, 0, 0])
})

t.test('a budget of all, and one of each connection', async (t) => {
  const size = 2 * ANSWER_FREE_BYTES
  const { all } = answers({ answerBudgetBytes: 3 * size, answerBudgetPerConnectionBytes: 2 * size })
  const socket = new FakeSocket()
  all.reserve(new FakeResponse(socket).reply, size)
  all.reserve(new FakeResponse(socket).reply, size)
  t.throws(() => all.reserve(new FakeResponse(socket).reply, size), { code: 'OVERLOADED' })
  const other = new FakeResponse(null)
  all.reserve(other.reply, size)
  t.throws(() => all.reserve(new FakeResponse().reply, size), { code: 'OVERLOADED' })
  other.emit('close')
  all.reserve(new FakeResponse().reply, size)
  t.equal(all.bytes, 3 * size)
  const { all: apart } = answers({ answerBudgetPerConnectionBytes: 2 * size })
  for (let i = 0; i < 3; i++) apart.reserve(new FakeResponse(null).reply, size)
  t.equal(apart.bytes, 3 * size, 'those without a connection have none in common')
})

t.test('a reader that takes nothing is cut off; one that takes something, or all, is not', async (t) => {
  const { all, guard } = answers()
  const [stalled, slow, done, ended] = Array.from({ length: 4 }, () => new FakeResponse())
  for (const response of [stalled, slow, done, ended]) {
    Object.assign(response!.socket!, { bytesWritten: 1_000, writableLength: 900 })
    if (response !== stalled) all.watch(response!.reply)
  }
  all.reserve(stalled!.reply, ANSWER_FREE_BYTES + 1)
  all.watch(stalled!.reply)
  t.equal(stalled!.listenerCount('close'), 2, 'watched once, and released')
  Object.assign(done!.socket!, { writableLength: 0 })
  ended!.emit('close')
  const takes = setInterval(() => slow!.socket!.writableLength--, 1)
  t.teardown(() => clearInterval(takes))
  const startMs = performance.now()
  await until(() => stalled!.socket!.isCut, 'the reader is cut off')
  t.ok(performance.now() - startMs >= IDLE_MS, 'not before its time')
  t.same(
    [slow, done, ended].map((response) => response!.socket!.isCut),
    [false, false, false],
  )
  t.ok(new Map(guard.refusals()).get('idleTimeoutMs')! > 0)
  for (const response of [stalled, slow, done]) response!.emit('close')
})

t.test('the time of a reader begins anew with each byte that it takes', async (t) => {
  const clock = { nowMs: 0, look: (): void => {} }
  t.intercept(performance, 'now', { value: () => clock.nowMs })
  const setInterval = (look: () => void): object => {
    clock.look = look
    return { unref: () => {} }
  }
  t.intercept(globalThis, 'setInterval', { value: setInterval as typeof globalThis.setInterval })
  const { all } = answers()
  const slow = new FakeResponse()
  const { socket } = slow
  Object.assign(socket!, { bytesWritten: 1_000, writableLength: 900 })
  all.watch(slow.reply)
  for (const [passedMs, taken, isCut] of [
    [0, 1, false],
    [IDLE_MS - 1, 0, false],
    [1, 1, false],
    [IDLE_MS - 1, 0, false],
    [1, 0, true],
  ] as const) {
    clock.nowMs += passedMs
    socket!.writableLength -= taken
    clock.look()
    t.equal(socket!.isCut, isCut, `at ${clock.nowMs} ms`)
  }
  slow.emit('close')
})

t.test('while one answer is left, it is looked at; after the last, nothing runs', async (t) => {
  const { all } = answers()
  const [first, last] = [new FakeResponse(), new FakeResponse()]
  let looks = 0
  Object.defineProperty(last.socket, 'writableLength', { get: () => 0 * looks++ })
  for (const response of [first, last]) all.watch(response.reply)
  first.emit('close')
  await until(() => looks > 0, 'it is looked at')
  last.emit('close')
  const before = looks
  await sleep(IDLE_MS)
  t.equal(looks, before)
  all.watch(last.reply)
  await until(() => looks > before, 'it begins again')
  last.emit('close')
})

t.test('an answer without a socket is not watched', async (t) => {
  const { all } = answers()
  const response = new FakeResponse(null)
  all.watch(response.reply)
  t.equal(response.listenerCount('close'), 0)
})
