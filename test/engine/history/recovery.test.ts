/**
 * Recovery: the state at start is the one that was live, it says how far it has come and not too often, the
 * event loop has its turn, and it can be ended. The log and the clock are the test's own.
 */
import t, { type Test } from 'tap'
import { recover } from '../../../src/engine/history/recovery.js'
import { REAL_HOST } from '../../../src/engine/host.js'
import { hex } from '../../../src/engine/pages/describe.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import type { ReadableStore } from '../../../src/store/read-only.js'
import type { CheckpointReader } from '../../../src/store/types.js'
import { emptyState } from '../../lib/engine-state.js'
import { type LivePast, pastOf } from '../../lib/past.js'
import { turn } from '../../lib/wait.js'

const CHECKPOINT = 4
const NEWEST = 24

const past = await pastOf(t, async (bus) => {
  await bus.create('x', { dtype: 'i32', shape: [6], fill: 3 }) // 1
  await bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x * 2' }) // 2
  await bus.create('z', { dtype: 'u8', shape: [300], fill: 1 }) // 3
  await bus.transact({ ops: [{ page: 'x', values: [4] }], key: 'early' }) // 4
  await bus.checkpoint()
  await bus.derive('w', { op: 'map', inputs: { x: 'x' }, expr: 'x + 7' }) // 5
  await bus.transact({ ops: [{ page: 'x', values: [5] }], key: 'late' }) // 6
  while (bus.epoch < NEWEST) await bus.patch('x', { offset: 1, values: [bus.epoch] })
})

interface Given {
  readonly checkpoint?: boolean
  readonly to?: number
  /** How much time each record takes, and each piece of a checkpoint, in ms. */
  readonly recordMs?: number
  readonly pieceMs?: number
  readonly hasThreads?: boolean
  readonly signal?: AbortSignal
  readonly onProgress?: BusOptions['onProgress']
  readonly of?: LivePast
}

/** Recovers, every record in a slice of its own. */
async function recovering(t: Test, given: Given = {}) {
  const { checkpoint = false, to = NEWEST, recordMs = 0, pieceMs = 0, hasThreads = true, of = past } = given
  const told: string[] = []
  const steps: string[] = []
  const loaded: number[] = []
  let nowMs = 1_000_000
  let isClosed = false
  let totalBytes = 0
  const store = {
    recovery: { newestEpoch: to, ...(checkpoint ? { checkpointEpoch: CHECKPOINT } : {}) },
    openCheckpoint: () => {
      if (!checkpoint) return undefined
      const file = of.reader.openCheckpoint(CHECKPOINT) as CheckpointReader & { close(): void }
      totalBytes = file.pages.reduce((sum, { bytes }) => sum + bytes, 0)
      return {
        header: file.header,
        pages: file.pages,
        loading: (onChunk: (id: number, offset: number, bytes: Uint8Array) => void, wants: never) =>
          file.loading((id, offset, bytes) => {
            nowMs += pieceMs
            onChunk(id, offset, bytes)
            loaded.push(bytes.byteLength)
          }, wants),
        close: () => {
          isClosed = true
          file.close()
        },
      }
    },
    *records(from: number) {
      for (const record of of.reader.records(from + 1, to)) {
        nowMs += recordMs
        yield record
      }
    },
  } as unknown as ReadableStore
  const state = emptyState(t, 2 ** 28)
  const { context } = state
  const [execute, executeAsync] = [context.execute.bind(context), context.executeAsync.bind(context)]
  context.execute = (...args) => {
    steps.push('here')
    return execute(...args)
  }
  context.executeAsync = (...args) => {
    steps.push('thread')
    told.push('on a thread')
    return executeAsync(...args)
  }
  const { now } = performance
  performance.now = () => nowMs
  let ticksMs = 0
  try {
    const recovered = await recover({
      state,
      store,
      limits: new LimitGuard(),
      options: {
        onNotice: ({ level, message }) => told.push(`${level}: ${message}`),
        onProgress: (progress) => {
          told.push(`${progress.phase} ${progress.percent}: ${progress.detail}`)
          given.onProgress?.(progress)
        },
        ...(given.signal === undefined ? {} : { signal: given.signal }),
      },
      // Every look at the clock ends a slice.
      host: { ...REAL_HOST, hasThreads, ticksMs: () => (ticksMs += 1_000) },
    }).catch((error: unknown) => error)
    return {
      recovered: recovered as Awaited<ReturnType<typeof recover>>,
      state,
      told,
      steps,
      loaded,
      totalBytes,
      isClosed,
    }
  } finally {
    performance.now = now
  }
}

const epochsIn = (told: readonly string[], what: RegExp): number[] =>
  told.flatMap((text) => what.exec(text)?.[1] ?? []).map(Number)

t.test('the state is the one that was live', async (t) => {
  for (const checkpoint of [false, true]) {
    const { recovered, state, steps, isClosed } = await recovering(t, { checkpoint })
    const live = past.epochs[NEWEST]!
    t.match(recovered, { epoch: NEWEST, timestampMs: live.timestampMs, nextPageId: 5 })
    t.equal(hex(recovered.digest), live.digest)
    t.equal(hex(state.context.stateDigest()), live.digest)
    t.same([...state.registry.names()], ['w', 'x', 'y', 'z'])
    t.strictSame(
      recovered.answers.map(([key, { epoch }]) => [key, epoch]),
      [
        ['early', 4],
        ['late', 6],
      ],
    )
    const records = [...past.reader.records(checkpoint ? CHECKPOINT + 1 : 1, NEWEST)]
    t.equal(
      recovered.replayedBytes,
      records.reduce((sum, { frames }) => sum + frames.byteLength, 0),
    )
    t.same(
      steps,
      records.map(() => 'here'),
      'little is executed at once',
    )
    t.equal(isClosed, checkpoint)
    for (const name of ['y', 'w'])
      t.not(state.registry.require(name).derived!.costNs, 6, `${name} has an estimate`)
  }
})

t.test('progress and notices of a replay', async (t) => {
  const all = Array.from({ length: NEWEST }, (_, i) => i + 1)
  const { told } = await recovering(t, { recordMs: 100 })
  t.strictSame(epochsIn(told, /replaying epoch (\d+) of 24/), all, 'ten times a second')
  t.strictSame(
    epochsIn(told, /replaying (\d+): /),
    all.map((epoch) => Math.min(99, Math.floor((100 * epoch) / NEWEST))),
  )
  t.strictSame(epochsIn(told, /^info: recovering: epoch (\d+) of 24/), [10, 20], 'every second')
  t.equal(told.at(-1), 'info: recovered epoch 24: 24 epochs replayed in 2400 ms')
  const { told: seldom } = await recovering(t, { recordMs: 99 })
  t.strictSame(
    epochsIn(seldom, /replaying epoch (\d+) of 24/),
    all.filter((epoch) => epoch % 2 === 1),
  )
  t.strictSame(epochsIn(seldom, /^info: recovering: epoch (\d+) of 24/), [11, 22])
})

t.test('progress and notices of a checkpoint and what follows it', async (t) => {
  const { told, loaded, totalBytes } = await recovering(t, { checkpoint: true, pieceMs: 100, recordMs: 100 })
  t.ok(loaded.length >= 3, 'in pieces')
  t.ok(totalBytes >= 6 * 4 * 2 + 300)
  let bytes = 0
  t.strictSame(
    epochsIn(told, /^loading (\d+): loading checkpoint 4$/),
    loaded.map((count) => {
      bytes += count
      return Math.floor((50 * bytes) / totalBytes)
    }),
    'the first half',
  )
  t.strictSame(
    epochsIn(told, /^replaying (\d+): /),
    Array.from({ length: NEWEST - CHECKPOINT }, (_, i) =>
      Math.min(99, Math.floor(50 + (50 * (i + 1)) / (NEWEST - CHECKPOINT))),
    ),
  )
  t.equal(told.at(-1), 'info: recovered epoch 24: 20 epochs replayed in 2000 ms', 'without the loading')

  const notice = async (pieceMs: number): Promise<string[]> =>
    (await recovering(t, { checkpoint: true, to: CHECKPOINT, pieceMs })).told
  const pieces = loaded.length
  t.notOk((await notice(1_000 / pieces)).join().includes('info'))
  const slow = await notice(1_200 / pieces)
  t.strictSame(
    slow.filter((text) => text.startsWith('info')),
    ['info: recovering: checkpoint 4 loaded in 1200 ms'],
    'and nothing was replayed',
  )
  const percents = epochsIn(slow, /^loading (\d+): /)
  t.equal(percents.at(-1), Math.min(99, Math.floor((100 * bytes) / totalBytes)), 'that was all of it')
})

t.test('what may take long is executed on another thread, and is told before', async (t) => {
  const size = 40_000_000
  const large = await pastOf(t, async (bus) => {
    await bus.create('short', { dtype: 'u8', shape: [size - 10_000] })
    await bus.delete('short')
    await bus.create('long', { dtype: 'u8', shape: [size + 10_000] })
  })
  const { steps, told, recovered } = await recovering(t, { of: large, to: 3, recordMs: 50 })
  t.same(steps, ['here', 'here', 'thread'])
  t.equal(recovered.epoch, 3)
  t.strictSame(
    told.slice(0, 3),
    ['replaying 33: replaying epoch 1 of 3', 'replaying 99: replaying epoch 3 of 3', 'on a thread'],
    'before it begins',
  )
  const { steps: without } = await recovering(t, { of: large, to: 3, hasThreads: false })
  t.same(without, ['here', 'here', 'here'])
})

t.test('it can be ended, and the event loop has its turn meanwhile', async (t) => {
  for (const checkpoint of [false, true]) {
    const controller = new AbortController()
    const reason = new Error('enough')
    let turns = 0
    let isOver = false
    const counting = (async () => {
      for (; !isOver; turns++) await turn()
    })()
    const { recovered, steps, isClosed } = await recovering(t, {
      checkpoint,
      recordMs: 100,
      pieceMs: 100,
      signal: controller.signal,
      onProgress: ({ detail }) => {
        if (/(epoch 9|checkpoint 4)/.test(detail)) controller.abort(reason)
      },
    })
    isOver = true
    await counting
    t.equal(recovered as unknown, reason)
    t.equal(steps.length, checkpoint ? 0 : 9)
    t.equal(isClosed, checkpoint, 'what was opened is closed')
    t.ok(turns >= (checkpoint ? 1 : 8), `${turns} turns`)
  }
})
