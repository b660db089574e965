/**
 * What the thread of a checkpoint is given: which pages, in which pieces, in which order of the steps; and
 * what a failure leaves.
 */
import t from 'tap'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PIECE_PAGES_MAX,
  CHECKPOINT_PIECES_IN_FLIGHT,
} from '../../../src/limits.js'
import { bytesOf, type CheckpointJob, writeCheckpoint } from '../../../src/store/checkpoint/feed-pages.js'
import type { CheckpointRequest } from '../../../src/store/checkpoint/tasks.js'
import type { CheckpointPage, CheckpointSource } from '../../../src/store/types.js'
import { turn, turns } from '../../lib/wait.js'

const CHUNK = CHECKPOINT_CHUNK_BYTES
const pageOf = (id: number, bytes: number, version = 50, createdEpoch = 1): CheckpointPage => ({
  ...{ id, bytes, version, createdEpoch, meta: Uint8Array.of(0, id & 255).subarray(1) },
})

interface Piece {
  readonly pages: [id: number, unchanged: boolean][]
  readonly length: number
}

function jobOf(
  pages: readonly CheckpointPage[],
  changes: Partial<CheckpointJob> = {},
  source: Partial<CheckpointSource> = {},
) {
  const steps: string[] = []
  const pieces: Piece[] = []
  const content: number[] = []
  const answers: (() => unknown)[] = []
  const reads: [id: number, offset: number, length: number][] = []
  const state = { meta: {} as Record<string, unknown>, fail: '', delay: false, most: 0, away: 0 }
  const job: CheckpointJob = {
    thread: {
      ask: async (request: CheckpointRequest, transfer) => {
        if (request.type === 'piece') {
          pieces.push({
            pages: request.pages.map((page) => [page.id, page.unchanged === true]),
            length: request.bytes.length,
          })
          t.equal(transfer?.[0], request.bytes.buffer)
          const areOwn = request.pages.every(({ id, meta: { buffer } }) => {
            return buffer.byteLength === 1 && new Uint8Array(buffer)[0] === (id & 255)
          })
          t.ok(areOwn, 'what is sent of a page is a copy of it alone')
          for (let at = 0; at < request.bytes.length; at += CHUNK) content.push(request.bytes[at] as number)
          state.away++
          state.most = Math.max(state.most, state.away)
          if (state.delay) await new Promise<void>((resolve) => answers.push(() => resolve()))
          state.away--
          if (state.fail === 'piece') throw new Error('piece')
          return request.bytes
        }
        steps.push(request.type)
        if (state.fail === request.type) throw new Error(request.type)
        if (request.type === 'begin') return request.base
        if (request.type === 'end') {
          state.meta = request.meta
          return 123
        }
        return undefined
      },
      end: async () => {},
    },
    busId: 'ab',
    base: undefined,
    pieceBytes: 4 * CHUNK,
    syncLog: async () => {
      steps.push('sync')
      if (state.fail === 'sync') throw new Error('sync')
    },
    onNotice: (message) => steps.push(message),
    source: {
      header: { epoch: 60, timestampMs: 61, digest: Uint8Array.of(9), nextPageId: 62, extra: 'early' },
      pages,
      read: (id, offset, into) => {
        reads.push([id, offset, into.length])
        into.fill(id)
      },
      onRead: () => steps.push('read'),
      ...source,
    },
    ...changes,
  }
  return { job, steps, pieces, reads, content, state, answers }
}

t.test('all pages, ascending, in whole chunks that fill the pieces', async (t) => {
  const pages = [pageOf(3, CHUNK / 2), pageOf(1, 5 * CHUNK + 7), pageOf(2, 0), pageOf(9, 2 * CHUNK)]
  const { job, steps, pieces, reads, state } = jobOf(pages)
  const info = await writeCheckpoint(job)
  t.match(info, { epoch: 60, pages: 4, bytes: 7.5 * CHUNK + 7, newBytes: 123, file: /60.*\.db$/ })
  t.ok(info.ms >= 0 && info.ms < 60_000)
  t.same(steps, ['begin', 'read', 'sync', 'end'])
  t.same(pieces, [
    { pages: [[1, false]], length: 4 * CHUNK },
    {
      pages: [
        [2, false],
        [3, false],
        [9, false],
      ],
      length: CHUNK + 7 + CHUNK / 2 + 2 * CHUNK,
    },
  ])
  t.same(reads, [
    [1, 0, 4 * CHUNK],
    [1, 4 * CHUNK, CHUNK + 7],
    [3, 0, CHUNK / 2],
    [9, 0, 2 * CHUNK],
  ])
  t.strictSame(state.meta, {
    ...{
      bus_id: 'ab',
      bytes: String(7.5 * CHUNK + 7),
      digest: Uint8Array.of(9),
      epoch: '60',
      extra: 'early',
    },
    ...{ next_page_id: '62', pages: '4', timestamp_ms: '61' },
  })
})

t.test('a page that does not fit is cut between chunks, not within one', async (t) => {
  const { job, pieces, reads } = jobOf([pageOf(1, 100), pageOf(2, 6 * CHUNK)])
  await writeCheckpoint(job)
  t.same(
    pieces.map(({ length }) => length),
    [100 + 3 * CHUNK, 3 * CHUNK],
  )
  t.same(reads.slice(1), [
    [2, 0, 3 * CHUNK],
    [2, 3 * CHUNK, 3 * CHUNK],
  ])
  const tight = jobOf([pageOf(1, 3 * CHUNK + 1), pageOf(2, CHUNK)])
  await writeCheckpoint(tight.job)
  t.same(tight.pieces, [
    {
      pages: [
        [1, false],
        [2, false],
      ],
      length: 3 * CHUNK + 1,
    },
    { pages: [], length: CHUNK },
  ])
  const exact = jobOf([pageOf(1, 3 * CHUNK), pageOf(2, CHUNK)])
  await writeCheckpoint(exact.job)
  t.equal(exact.pieces.length, 1)
})

t.test('on a base only what has changed is fed', async (t) => {
  const pages = [
    ...[pageOf(1, CHUNK, 40), pageOf(2, CHUNK, 41), pageOf(3, CHUNK, 30, 41), pageOf(4, CHUNK, 40, 40)],
    pageOf(5, 9 * CHUNK, 39),
  ]
  let begun: ReadonlySet<number> | undefined
  const { job, pieces, reads } = jobOf(pages, { base: 40 }, { begin: (changed) => (begun = changed) })
  await writeCheckpoint(job)
  t.same([...(begun ?? [])], [2, 3])
  t.same(
    reads.map(([id]) => id),
    [2, 3],
  )
  t.same(pieces, [
    {
      pages: [
        [1, true],
        [2, false],
        [3, false],
        [4, true],
        [5, true],
      ],
      length: 2 * CHUNK,
    },
  ])
})

t.test('a base that cannot be used: it is said, and everything is fed', async (t) => {
  const { job, steps, reads } = jobOf([pageOf(1, CHUNK, 3)], { base: 40 })
  const { ask } = job.thread
  job.thread.ask = (request, transfer) =>
    request.type === 'begin' ? Promise.resolve('it is damaged') : ask(request, transfer)
  await writeCheckpoint(job)
  t.equal(steps[0], 'checkpoint 40 cannot be built on (it is damaged); all pages are written again')
  t.equal(reads.length, 1)
})

t.test('a piece has so many pages at most', async (t) => {
  const pages = Array.from({ length: CHECKPOINT_PIECE_PAGES_MAX + 1 }, (_, i) => pageOf(i, 8))
  const { job, pieces } = jobOf(pages)
  await writeCheckpoint(job)
  t.same(
    pieces.map(({ pages }) => pages.length),
    [CHECKPOINT_PIECE_PAGES_MAX, 1],
  )
  const exact = jobOf(pages.slice(1))
  await writeCheckpoint(exact.job)
  t.equal(exact.pieces.length, 1)
})

t.test('so many pieces are away at most, and the log is synced only after all of them', async (t) => {
  const { job, state, answers, steps, content } = jobOf([pageOf(7, 4 * 10 * CHUNK)])
  state.delay = true
  const written = writeCheckpoint(job)
  await turns(30)
  t.equal(answers.length, CHECKPOINT_PIECES_IN_FLIGHT)
  t.same(steps, ['begin'])
  while (!steps.includes('end')) {
    if (answers.length === 1) t.notOk(steps.includes('sync') || steps.includes('read'))
    answers.shift()?.()
    await turn()
  }
  await written
  t.equal(state.most, CHECKPOINT_PIECES_IN_FLIGHT)
  t.same(content, Array(40).fill(7))
})

t.test('the source is asked before each piece, and told how far it was read', async (t) => {
  const seen: unknown[] = []
  const { job } = jobOf(
    [pageOf(1, 6 * CHUNK), pageOf(2, 8, 3)],
    { base: 40 },
    {
      ready: async () => {
        await turn()
        seen.push('ready')
      },
      read: () => seen.push('read'),
      wasRead: (done, all) => seen.push([done, all]),
    },
  )
  await writeCheckpoint(job)
  const all = 6 * CHUNK
  t.same(seen, ['ready', 'read', [4 * CHUNK, all], 'ready', 'read', [all, all]])
})

t.test('what is known only at the end goes into the file', async (t) => {
  const { job, state } = jobOf([], {}, { lateExtra: async () => 'late' })
  await writeCheckpoint(job)
  t.equal(state.meta.extra, 'late')
  t.equal(state.meta.pages, '0')
})

t.test('the event loop runs after every piece', async (t) => {
  let turns = 0
  let isOver = false
  const turn = (): void => {
    turns++
    if (!isOver) setImmediate(turn)
  }
  const seen: number[] = []
  const { job } = jobOf([pageOf(1, 40 * CHUNK)], {}, { read: () => seen.push(turns) })
  setImmediate(turn)
  await writeCheckpoint(job)
  isOver = true
  t.equal(new Set(seen).size, 10, 'no two pieces in one turn')
})

t.test('a failure of any step is said, and the file is given up', async (t) => {
  for (const fail of ['begin', 'piece', 'sync', 'end']) {
    const { job, state, steps } = jobOf([pageOf(1, 8)])
    state.fail = fail
    const message = `the checkpoint of epoch 60 could not be written: ${fail}`
    await t.rejects(writeCheckpoint(job), { code: 'INTERNAL', message })
    t.equal(steps.at(-1), 'abandon')
  }
  const full = jobOf([])
  const job = {
    ...full.job,
    syncLog: async () => {
      throw Object.assign(new Error('no room'), { code: 'ENOSPC' })
    },
  }
  await t.rejects(writeCheckpoint(job), { code: 'LOG_FULL', message: /could not be written: no room/ })
})

t.test('bytes of pages', async (t) => {
  t.equal(bytesOf([]), 0)
  t.equal(bytesOf([pageOf(1, 5), pageOf(2, 6)]), 11)
})
