/**
 * Which questions about the past are refused before any thread is asked, and how a bus without a folder
 * answers them.
 */
import t from 'tap'
import type { PastQuestion } from '../../../src/engine/call-types.js'
import type { Committer } from '../../../src/engine/commit/committer.js'
import { Past } from '../../../src/engine/history/past.js'
import type { Registry } from '../../../src/engine/pages/registry.js'
import { MmsbError } from '../../../src/errors.js'
import { HISTORY_LIMIT_MAX } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'

const NEWEST = 20

interface Kept {
  /** The first epoch of the log. */
  readonly first: number
  readonly checkpoints: readonly number[]
}

/** A past whose threads never start, because nothing gets through to them. */
function pastOf(kept: Kept | undefined, failed?: Error): Past {
  const lifecycle = {
    refuseWhenFailed() {
      if (failed !== undefined) throw failed
    },
  }
  const committer = { epoch: NEWEST, digest: new Uint8Array(16), lifecycle } as unknown as Committer
  const registry = { byName: (name: string) => (name === 'x' ? { createdEpoch: 15 } : undefined) }
  const lost = new MmsbError('BUS_FAILED', 'stopped here')
  const store = {
    minEpoch: kept?.first,
    checkpoints: () => kept?.checkpoints.map((epoch) => ({ epoch })),
    refuseWhenLost() {
      throw lost
    },
  }
  const folder =
    kept === undefined
      ? undefined
      : { dir: '/nowhere', identity: undefined, store: store as never, isReadOnly: false, quotaBytes: 1 }
  return new Past({ committer, registry: registry as unknown as Registry, folder, limits: new LimitGuard() })
}

const WHOLE = { first: 1, checkpoints: [4] }
/** The log begins at 9, and the checkpoints that lead on from there are those at 8 and 12. */
const CUT = { first: 9, checkpoints: [5, 8, 12] }

/** How a call ends: REACHED if it would have asked the thread. */
async function ending(run: () => unknown): Promise<string> {
  try {
    await run()
    return 'answered'
  } catch (error) {
    const { code, message, extra } = error as MmsbError
    if (message === 'stopped here') return 'REACHED'
    const minEpoch = (extra as { minEpoch?: number } | undefined)?.minEpoch
    return minEpoch === undefined ? code : `${code} ${minEpoch}`
  }
}

t.test('the oldest epoch', async (t) => {
  t.equal(pastOf(WHOLE).minEpoch, 0)
  t.equal(pastOf(CUT).minEpoch, 8)
  t.equal(pastOf({ first: 10, checkpoints: [8, 12] }).minEpoch, 12, 'not one before a gap')
  t.equal(pastOf({ first: 2, checkpoints: [1] }).minEpoch, 1)
  t.equal(pastOf({ first: 9, checkpoints: [] }).minEpoch, NEWEST)
  t.equal(pastOf(undefined).minEpoch, NEWEST)
})

t.test('an epoch whose state is asked for', async (t) => {
  for (const [kept, cases] of [
    [
      WHOLE,
      { 0: 'fine', 20: 'fine', 21: 'EPOCH_NOT_FOUND', '-1': 'INVALID_REQUEST', 1.5: 'INVALID_REQUEST' },
    ],
    [CUT, { 8: 'fine', 7: 'EPOCH_COMPACTED 8', 0: 'EPOCH_COMPACTED 8' }],
  ] as const) {
    const past = pastOf(kept)
    for (const [epoch, wanted] of Object.entries(cases)) {
      const found = await ending(() => past.check(Number(epoch)))
      t.equal(found, wanted === 'fine' ? 'answered' : wanted, `epoch ${epoch}`)
      const isFine = wanted === 'fine'
      if (!isFine) continue
      t.equal(await ending(() => past.read(Number(epoch), [{ name: 'x' }], {})), 'REACHED')
      t.equal(await ending(() => past.peek(Number(epoch), 'x', {})), 'REACHED')
    }
  }
})

const ask = (past: Past, question: PastQuestion): Promise<string> => ending(() => past.json(question, {}))

t.test('the record of an epoch', async (t) => {
  const [whole, cut] = [pastOf(WHOLE), pastOf(CUT)]
  const record = (past: Past, epoch: number) =>
    Promise.all([ask(past, { kind: 'epoch', epoch }), ending(() => past.epochInfo(epoch, {}))])
  const both = (end: string) => [end, end]
  t.same(await record(whole, 1), both('REACHED'))
  t.same(await record(whole, 0), both('EPOCH_NOT_FOUND'))
  t.same(await record(whole, 21), both('EPOCH_NOT_FOUND'))
  t.same(await record(cut, 9), both('REACHED'))
  t.same(await record(cut, 8), both('EPOCH_COMPACTED 9'))
  t.same(await record(cut, 7), both('EPOCH_COMPACTED 8'))
})

t.test('lists of epochs', async (t) => {
  const [whole, cut] = [pastOf(WHOLE), pastOf(CUT)]
  const list = (past: Past, query: object) => ask(past, { kind: 'epochs', query })
  for (const limit of [1, HISTORY_LIMIT_MAX]) t.equal(await list(whole, { limit }), 'REACHED')
  for (const limit of [0, -1, 1.5, HISTORY_LIMIT_MAX + 1])
    t.equal(await list(whole, { limit }), 'INVALID_REQUEST')
  t.equal(await list(whole, { from: 1, to: 20 }), 'REACHED')
  t.equal(await list(whole, { from: 20, to: 20 }), 'REACHED')
  t.equal(await list(whole, { to: 21 }), 'EPOCH_NOT_FOUND')
  t.equal(await list(whole, { from: 22 }), 'EPOCH_NOT_FOUND')
  t.equal(await list(whole, { from: 21 }), 'answered', 'nothing yet')
  t.strictSame(await whole.epochs({ from: 21 }, {}), { epochs: [], next: null })
  t.equal(await list(cut, {}), 'REACHED')
  t.equal(await list(cut, { from: 9 }), 'REACHED')
  t.equal(await list(cut, { from: 8 }), 'REACHED', 'from the first record on')
  t.equal(await list(cut, { from: 7 }), 'EPOCH_COMPACTED 8')
  t.equal(await list(cut, { from: 8, to: 8 }), 'answered', 'there is none')
})

t.test('histories and differences', async (t) => {
  const [whole, cut] = [pastOf(WHOLE), pastOf(CUT)]
  const history = (past: Past, query: object, name = 'x') => ask(past, { kind: 'history', name, query })
  t.equal(await history(whole, {}), 'REACHED')
  t.equal(await history(whole, { limit: 0 }), 'INVALID_REQUEST')
  t.equal(await history(cut, { from: 7 }), 'EPOCH_COMPACTED 8')
  t.equal(await history(whole, { from: 21 }), 'REACHED', 'it says whether there is such a page')
  t.strictSame(await whole.history('x', { from: 21 }, {}), { name: 'x', versions: [], next: null })
  t.strictSame(
    await whole.history('x', { to: 14 }, {}),
    { name: 'x', versions: [], next: null },
    'made in 15',
  )
  t.equal(await ending(() => whole.history('nobody', { from: 21 }, {})), 'PAGE_NOT_FOUND')
  t.equal(await ending(() => whole.history('nobody', {}, {})), 'REACHED')
  const diff = (past: Past, query: { from: number; to?: number }) => ask(past, { kind: 'diff', query })
  t.equal(await diff(whole, { from: 0 }), 'REACHED')
  t.equal(await diff(whole, { from: 5, to: 5 }), 'REACHED')
  t.equal(await diff(whole, { from: 6, to: 5 }), 'INVALID_REQUEST')
  t.equal(await diff(whole, { from: 6, to: 21 }), 'EPOCH_NOT_FOUND')
  t.equal(await diff(cut, { from: 7 }), 'EPOCH_COMPACTED 8')
  t.equal(await diff(cut, { from: 8 }), 'REACHED')
  const changes = (past: Past, after: number, to: number) =>
    ending(() => past.changes({ after, to, pages: ['*'], values: true }, {}))
  t.equal(await changes(whole, 3, 9), 'REACHED')
  t.equal(await changes(whole, 9, 3), 'INVALID_REQUEST')
  t.equal(await changes(cut, 7, 9), 'EPOCH_COMPACTED 8')
  t.equal(await ending(() => whole.verify({ from: 9, to: 8 }, {})), 'INVALID_REQUEST')
  t.equal(await ending(() => whole.verify({ to: 21 }, {})), 'EPOCH_NOT_FOUND')
})

t.test('a bus that has failed', async (t) => {
  const past = pastOf(WHOLE, new MmsbError('BUS_FAILED', 'broken'))
  t.equal(await ending(() => past.read(3, [{ name: 'x' }], {})), 'BUS_FAILED')
  t.equal(await ending(() => past.changes({ after: 3, to: 9, pages: ['x'], values: true }, {})), 'BUS_FAILED')
  await past.close()
})

t.test('a bus without a folder has only the newest epoch', async (t) => {
  const past = pastOf(undefined)
  t.equal(await ending(() => past.check(NEWEST)), 'answered')
  t.equal(await ending(() => past.check(19)), 'EPOCH_COMPACTED 20')
  t.equal(await ask(past, { kind: 'epoch', epoch: 20 }), 'EPOCH_COMPACTED 21')
  t.strictSame(await past.epochs({ from: 21 }, {}), { epochs: [], next: null })
  t.equal(await ask(past, { kind: 'diff', query: { from: 20 } }), 'INVALID_REQUEST')
  t.equal(await ending(() => past.verify({}, {})), 'INVALID_REQUEST')
  t.equal(
    await ending(() => past.changes({ after: 20, to: 20, pages: ['x'], values: true }, {})),
    'EPOCH_COMPACTED 20',
  )
  await past.close()
})
