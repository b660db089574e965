/**
 * The replay thread, run on this one: the test plays its port and its clock, and holds the words that it
 * shares with the thread that asks.
 */
import { EventEmitter } from 'node:events'
import { syncBuiltinESMExports } from 'node:module'
import { constants } from 'node:os'
import t, { type Test } from 'tap'
import { Timelines } from '../../../src/engine/history/cones/timelines.js'
import type {
  ReplayAnswer,
  ReplayMessage,
  ReplayRequest,
  ReplayWorkerData,
} from '../../../src/engine/history/replay-client.js'
import { epochPast, epochsPast, historyPast, readPast } from '../../../src/engine/history/replay-queries.js'
import { verifyPast } from '../../../src/engine/history/verify.js'
import type { DiffResult } from '../../../src/engine/types.js'
import { REPLAY_IDLE_MS, REPLAY_NICE } from '../../../src/limits.js'
import { BinaryList, type JsonParts } from '../../../src/state/json-parts.js'
import { valuesToJson, valuesToJsonText } from '../../../src/state/value.js'
import { identityAt } from '../../../src/store/os/lock.js'
import { asker, pastOf, tellStory } from '../../lib/past.js'
import { moduleUrl } from '../../lib/place.js'

const past = await pastOf(t, tellStory)
const newest = past.epochs.length - 1

interface Sent {
  readonly id: number
  readonly value: ReplayAnswer
}

class Port extends EventEmitter {
  readonly sent: Sent[] = []
  readonly transfers: (readonly ArrayBuffer[])[] = []
  postMessage(message: Sent, transfer: readonly ArrayBuffer[] = []): void {
    this.sent.push(structuredClone(message, { transfer: [...transfer] }))
    this.transfers.push(transfer)
  }
}

/** What the thread waits for: each callback, and after how long. */
class Timers {
  readonly waiting = new Map<unknown, readonly [run: () => void, delayMs: number]>()
  readonly set = (run: () => void, delayMs: number): object => {
    const timer = {}
    this.waiting.set(timer, [run, delayMs])
    return timer
  }
  readonly clear = (timer: unknown): void => {
    this.waiting.delete(timer)
  }
}

/** Puts these in the place of what an object has, until the function that is returned is called. */
function replace(object: object, values: object): () => void {
  const own = object as Record<string, unknown>
  const before = Object.entries(values).map(([name]) => [name, own[name]] as const)
  Object.assign(own, values)
  return () => Object.assign(own, Object.fromEntries(before))
}

let started = 0

/** Starts the thread on this one. */
async function start(t: Test, given: Partial<ReplayWorkerData> = {}) {
  const port = new Port()
  const data = {
    dir: past.dir,
    identity: undefined,
    isReadOnly: true,
    quotaBytes: 2 ** 24,
    cancelled: new Int32Array(1),
    ended: new Int32Array(new SharedArrayBuffer(4)),
    progress: new BigInt64Array(1),
    ...given,
  }
  const priorities: unknown[][] = []
  const setPriority = (...args: unknown[]): unknown => priorities.push(args)
  const restoreThreads = replace(process.getBuiltinModule('node:worker_threads'), {
    parentPort: port,
    workerData: data,
  })
  const restorePriority = replace(process.getBuiltinModule('node:os'), { setPriority })
  syncBuiltinESMExports()
  // Each time another instance of the module.
  await import(`${moduleUrl('src/engine/history/replay-worker.ts')}?${++started}`)
  restoreThreads()
  restorePriority()
  const timers = new Timers()
  const trims: boolean[] = []
  const { trim } = Timelines.prototype
  /** The clock stands, or goes on by `stepMs` whenever somebody looks at it. */
  const clock = { nowMs: performance.now(), stepMs: 0 }
  let number = 0
  const send = (request: ReplayRequest, more: Partial<ReplayMessage> = {}): ReplayAnswer => {
    const restores = [
      replace(globalThis, { setTimeout: timers.set, clearTimeout: timers.clear }),
      replace(performance, { now: () => (clock.nowMs += clock.stepMs) }),
      replace(Timelines.prototype, {
        trim(this: Timelines, isIdle: boolean): void {
          trims.push(isIdle)
          trim.call(this, isIdle)
        },
      }),
    ]
    number++
    port.emit('message', { id: number + 100, number, caller: 1, request, ...more })
    for (const restore of restores.toReversed()) restore()
    const { id, value } = port.sent.at(-1)!
    t.equal(id, number + 100, 'every request has one answer')
    t.equal(port.sent.length, number)
    return value
  }
  t.teardown(() => {
    for (const [run] of timers.waiting.values()) run()
  })
  return { data, port, send, timers, trims, clock, priorities }
}

const answerOf = (answer: ReplayAnswer): unknown => ('value' in answer ? answer.value : answer)

/** What went through a message, with lists as JSON values. */
const plain = (value: unknown): unknown => {
  if (value instanceof BinaryList) return valuesToJson(value.dtype, value.values)
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plain(field)]))
}

const textOf = ({ parts }: JsonParts): string =>
  parts
    .map((part) =>
      part instanceof Uint8Array ? Buffer.from(part).toString() : valuesToJsonText(part.dtype, part.values),
    )
    .join('')

t.test('every kind of question has the answer that it has on this thread', async (t) => {
  const { send, port } = await start(t)
  const reads = [{ name: 'a' }, { name: 'c', offset: 1, count: 2 }]
  t.strictSame(answerOf(send({ kind: 'read', epoch: 17, pages: reads })), readPast(asker(past), 17, reads))
  t.equal(port.transfers.at(-1)!.length, 2, 'whose bytes are handed over')
  t.ok(port.transfers.at(-1)!.every(({ byteLength }) => byteLength === 0))
  t.match(answerOf(send({ kind: 'peek', epoch: 14, name: 'b' })), { name: 'b', dtype: 'u8', version: 14 })
  for (const epoch of [1, 4, 7, 11, newest])
    t.strictSame(answerOf(send({ kind: 'epoch', epoch })), plain(epochPast(asker(past), epoch)))
  const query = { from: 3, to: newest, limit: 6 }
  t.strictSame(answerOf(send({ kind: 'epochs', query })), plain(epochsPast(asker(past), query)))
  t.strictSame(
    answerOf(send({ kind: 'history', name: 'a', query, mustExist: true })),
    historyPast(asker(past), 'a', query),
  )
  t.match(answerOf(send({ kind: 'diff', from: 16, to: 17, names: undefined })), {
    from: 16,
    to: 17,
    pages: { a: { ranges: [[2, 3]] } },
  })
  const { pages } = answerOf(send({ kind: 'diff', from: 1, to: 4, names: ['b'] })) as DiffResult
  t.strictSame(Object.keys(pages), ['b'])
  const changed = { after: 16, to: 17, pages: ['a'], values: true }
  t.match(answerOf(send({ kind: 'changes', query: changed })), {
    through: 17,
    epochs: [{ epoch: 17, changes: [{ page: 'a', values: Int32Array.of(100, 101, 102) }] }],
  })
  const { reader } = past
  t.strictSame(
    answerOf(send({ kind: 'verify', from: 2, to: newest })),
    verifyPast({ reader, from: 2, to: newest }),
  )
  t.match(answerOf(send({ kind: 'verify', from: 0, to: 3, digest: new Uint8Array(16) })), {
    ok: false,
    divergence: { epoch: 3 },
  })
})

t.test('an answer as JSON has the text of the answer as an object', async (t) => {
  const { send, port } = await start(t)
  const query = { from: 1, to: newest, limit: 100 }
  for (const request of [
    { kind: 'epoch', epoch: 4 },
    { kind: 'epochs', query },
    { kind: 'history', name: 'a', query },
    { kind: 'diff', from: 3, to: 9, names: undefined },
  ] as const) {
    const parts = answerOf(send({ ...request, asJson: true })) as JsonParts
    t.ok(port.transfers.at(-1)!.length >= parts.parts.length)
    const object = answerOf(send({ ...request, asJson: false }))
    t.strictSame(textOf(parts), JSON.stringify(object), request.kind)
  }
})

t.test('a page that must exist', async (t) => {
  const { send } = await start(t)
  const history = (name: string, mustExist: boolean, from = 1, to = newest, limit = 1) =>
    send({ kind: 'history', name, query: { from, to, limit }, mustExist })
  t.match(history('nobody', true), {
    failure: { code: 'PAGE_NOT_FOUND', detail: 'There was no page "nobody" in these epochs.' },
  })
  t.match(history('nobody', false), { value: { versions: [], next: null } })
  t.match(history('a', true), { value: { versions: [{ epoch: 1 }], next: 2 } })
  t.match(history('none', true, 16), { value: { versions: [{ epoch: 16 }] } })
  t.match(history('a', true, 5, 6), { failure: { code: 'PAGE_NOT_FOUND' } })
})

t.test('what cannot be answered', async (t) => {
  const { send, data } = await start(t)
  t.strictSame(send({ kind: 'peek', epoch: 1, name: 'c' }), {
    failure: { code: 'PAGE_NOT_FOUND', detail: 'There was no page "c" at epoch 1.', extra: undefined },
  })
  t.match(send({ kind: 'read', epoch: 17, pages: [{ name: 'a', offset: 7 }] }), {
    failure: { code: 'RANGE_NOT_SATISFIABLE', detail: /has 6/ },
  })
  t.match(send({ kind: 'epochs' } as never), { failure: { code: 'INTERNAL', detail: /undefined/ } })
  data.ended[0] = 1
  t.strictSame(send({ kind: 'peek', epoch: newest, name: 'a' }), {
    failure: {
      code: 'COST_EXCEEDED',
      detail: 'The replay was given up within an epoch, because it takes too long.',
    },
  })
  data.ended[0] = 0
  t.match(send({ kind: 'peek', epoch: newest, name: 'a' }), { value: { version: 20 } }, 'the next one is')
})

t.test('a request is cancelled by its number', async (t) => {
  const { send, data } = await start(t)
  const peek = { kind: 'peek', epoch: 4, name: 'a' } as const
  const cancelled = { failure: { code: 'INTERNAL', detail: 'the request was cancelled' } }
  t.match(send(peek), { value: {} })
  data.cancelled[0] = 1
  t.match(send(peek), { value: {} }, 'one before it was')
  data.cancelled[0] = 3
  t.strictSame(send(peek), cancelled)
  data.cancelled[0] = 5
  t.strictSame(send(peek), cancelled, 'before it came')
  t.strictSame(send(peek), cancelled)
  t.match(send(peek), { value: {} })
})

t.test('a replay is given up between two epochs, and says how far it is', async (t) => {
  const { send, data, clock } = await start(t)
  const verify = { kind: 'verify', from: 0, to: newest } as const
  t.match(send(verify, { limitMs: 1 }), { value: { ok: true } }, 'while no time passes')
  t.match(send(verify, { limitMs: 0 }), {
    failure: {
      code: 'COST_EXCEEDED',
      detail: 'The replay was given up at epoch 0, because it takes too long.',
    },
  })
  clock.stepMs = 20
  t.match(send(verify), { value: { ok: true } }, 'without a limit')
  t.equal(Number(data.progress[0]), newest)
  t.match(send(verify, { limitMs: 150 }), {
    failure: { code: 'COST_EXCEEDED', detail: /given up at epoch [1-9]\d*, / },
  })
  const reached = Number(data.progress[0])
  t.ok(reached > 0 && reached < newest, `it had reached ${reached}`)
  clock.stepMs = 0
  t.match(send({ kind: 'peek', epoch: 1, name: 'a' }), { value: {} })
  t.equal(Number(data.progress[0]), 1, 'that of the current request')
})

t.test('states are kept small after each request, and are freed when none comes', async (t) => {
  const { send, timers, trims } = await start(t)
  for (let epoch = 1; epoch <= 3; epoch++) {
    send({ kind: 'peek', epoch, name: 'a' })
    t.strictSame(trims.splice(0), [false])
    t.equal(timers.waiting.size, 1, 'one timer, whatever came before')
  }
  const [[run, delayMs]] = timers.waiting.values() as unknown as [readonly [() => void, number]]
  t.equal(delayMs, REPLAY_IDLE_MS)
  const { trim } = Timelines.prototype
  const restore = replace(Timelines.prototype, {
    trim(this: Timelines, isIdle: boolean): void {
      trims.push(isIdle)
      trim.call(this, isIdle)
    },
  })
  run()
  restore()
  t.strictSame(trims, [true])
})

t.test('it has a low priority, a quota, and only the folder that it was given', async (t) => {
  const { send, priorities } = await start(t, { identity: identityAt(past.dir) })
  t.strictSame(priorities, process.platform === 'linux' ? [[REPLAY_NICE]] : [])
  t.ok(REPLAY_NICE > constants.priority.PRIORITY_NORMAL)
  t.match(send({ kind: 'peek', epoch: 1, name: 'a' }), { value: {} })
  const other = await start(t, { identity: { dev: 1n, ino: 1n } })
  t.match(other.send({ kind: 'peek', epoch: 1, name: 'a' }), { failure: { code: 'BUS_FAILED' } })
  const small = await start(t, { quotaBytes: 10 })
  t.match(small.send({ kind: 'read', epoch: 1, pages: [{ name: 'a' }] }), {
    failure: { code: 'OUT_OF_MEMORY' },
  })
  t.match(small.send({ kind: 'verify', from: 0, to: 1 }), { failure: { code: 'OUT_OF_MEMORY' } })
})
