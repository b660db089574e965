/** Writing the trail: batches, days, errors of the disk, crashes, and other writers. */
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { filesIn } from '../../src/audit/files.js'
import { AuditJournal } from '../../src/audit/journal.js'
import { verifyTrail } from '../../src/audit/verify.js'
import { lockDescriptor } from '../../src/ffi/library.js'
import {
  AUDIT_LOCK_WAIT_MS,
  AUDIT_QUEUE_MAX_BYTES,
  AUDIT_SYNC_MS,
  AUDIT_TEXT_MAX_LENGTH,
} from '../../src/limits.js'
import { sleep, until } from '../lib/wait.js'
import { entriesOf, isSound, journalIn, linesOf, trailFolder, trailOf } from './helpers.js'

const DAY = 86_400_000
const MIDNIGHT = Date.UTC(2026, 11, 1)
const done = (action: string) => ({ action, outcome: 'done' as const })

t.test('entries that wait are written together, in their order, for the owner alone', async (t) => {
  const dir = trailFolder(t)
  rmSync(dir, { recursive: true })
  const { journal } = journalIn(t, dir)
  journal.open()
  await Promise.all(Array.from({ length: 100 }, (_, i) => journal.append(done(`a${i}`))))
  t.equal(journal.lines, 100)
  t.same(
    entriesOf(dir).map(({ action }) => action),
    Array.from({ length: 100 }, (_, i) => `a${i}`),
  )
  t.same(verifyTrail(dir).problems, [])
  t.equal(statSync(dir).mode & 0o777, 0o700)
  for (const name of ['head', ...filesIn(dir)]) t.equal(statSync(join(dir, name)).mode & 0o777, 0o600, name)
})

t.test('a line has its fields in one order, and long texts are cut', async (t) => {
  const dir = trailFolder(t)
  const { journal } = journalIn(t, dir)
  await journal.append({
    ...{
      code: 'FORBIDDEN',
      count: 2,
      epoch: 7,
      target: 'x'.repeat(AUDIT_TEXT_MAX_LENGTH + 1),
      pages: ['p"\n\u2028'],
    },
    ...{ action: 'a', outcome: 'refused', ip: '::1', principal: 'desk', requestId: 'r' },
  })
  const [entry = {}] = entriesOf(dir)
  t.same(
    Object.keys(entry),
    'ts seq requestId principal ip action pages target epoch outcome code count prev'.split(' '),
  )
  t.same(entry.pages, ['p"\n\u2028'])
  t.equal(entry.target, `${'x'.repeat(AUDIT_TEXT_MAX_LENGTH)}...`)
})

t.test('at midnight UTC another file begins, and a clock that is put back does not go back', async (t) => {
  const dir = trailFolder(t)
  const { journal, clock } = journalIn(t, dir)
  clock.nowMs = MIDNIGHT - 1
  const before = journal.append(done('before'))
  clock.nowMs = MIDNIGHT
  await Promise.all([before, journal.append(done('after'))])
  clock.nowMs = MIDNIGHT - DAY
  await journal.append(done('put back'))
  clock.nowMs = MIDNIGHT + 3 * DAY
  await journal.append(done('later'))
  t.same(filesIn(dir), ['2026-11-30.jsonl', '2026-12-01.jsonl', '2026-12-04.jsonl'])
  t.match(
    filesIn(dir).map((file) =>
      readFileSync(join(dir, file), 'utf8')
        .match(/"action":"([^"]*)/g)
        ?.join(),
    ),
    ['"action":"before', '"action":"after,"action":"put back', '"action":"later'],
  )
  isSound(t, dir, 4)
})

t.test('a start after a crash cuts off a torn line, and the chain goes on', async (t) => {
  const dir = await trailOf(t, ['a', 'b'])
  const file = join(dir, '2026-11-30.jsonl')
  // Lines that were written and not yet named by head, and one of which only the beginning was written.
  const head = readFileSync(join(dir, 'head'))
  const { journal: crashed } = journalIn(t, dir)
  await crashed.append(done('c'))
  await crashed.close()
  writeFileSync(join(dir, 'head'), head)
  // Longer than the line that takes its place.
  appendFileSync(file, `{"ts":"2026-11-30T12:00${'x'.repeat(2000)}`)
  const { journal, notices } = journalIn(t, dir)
  journal.open()
  await journal.append(done('d'))
  t.match(notices, [/goes on/, /warn: cut a torn line off/])
  t.same(
    entriesOf(dir).map(({ action, seq }) => [action, seq]),
    [
      ['a', 1],
      ['b', 2],
      ['c', 3],
      ['d', 4],
    ],
  )
  isSound(t, dir, 4)
})

t.test('a start on a trail that was changed goes on, and what was changed stays to be found', async (t) => {
  for (const change of ['line', 'head', 'file']) {
    const dir = await trailOf(t, ['a', 'b', 'c'])
    const file = join(dir, '2026-11-30.jsonl')
    if (change === 'line') writeFileSync(file, linesOf(dir).slice(0, 1).concat('x', '').join('\n'))
    if (change === 'head') writeFileSync(join(dir, 'head'), 'x')
    if (change === 'file') rmSync(file)
    const { journal } = journalIn(t, dir)
    journal.open()
    await journal.append(done('d'))
    await journal.close()
    const { problems } = verifyTrail(dir)
    if (change === 'head') isSound(t, dir, 4)
    else t.ok(problems.length > 0, change)
    t.match(JSON.parse(linesOf(dir).at(-1) as string), { action: 'd', seq: 4 }, change)
  }
})

t.test('files may be archived while the journal is open', async (t) => {
  const dir = await trailOf(t, ['a'])
  const { journal } = journalIn(t, dir)
  await journal.append(done('b'))
  rmSync(join(dir, '2026-11-30.jsonl'))
  await journal.append(done('c'))
  t.match(entriesOf(dir), [{ action: 'c', seq: 3 }])
})

t.test('what cannot be written is counted, and the next line says so', async (t) => {
  const dir = await trailOf(t, ['a'])
  const { journal, notices } = journalIn(t, dir)
  const file = join(dir, '2026-11-30.jsonl')
  const text = readFileSync(file)
  // Nobody can open a folder as a file to write.
  rmSync(file)
  mkdirSync(file)
  await t.rejects(journal.append(done('b')))
  await t.rejects(journal.append(done('c')))
  t.equal(journal.failures, 2)
  t.equal(notices.filter((notice) => notice.startsWith('error')).length, 1, 'the log says so once')
  rmSync(file, { recursive: true })
  writeFileSync(file, text)
  await journal.append(done('d'))
  t.match(entriesOf(dir), [
    { action: 'a' },
    { action: 'auditLost', outcome: 'failed', count: 2 },
    { action: 'd' },
  ])
  t.same(verifyTrail(dir).problems, [])
  t.match(notices.at(-1), /^warn: the audit trail is written again/)
})

t.test('what waits is bounded', async (t) => {
  const dir = trailFolder(t)
  const { journal } = journalIn(t, dir)
  const pages = Array.from({ length: 1000 }, (_, i) => `page.${i}`.padEnd(200, 'x'))
  const waiting = Array.from({ length: Math.ceil(AUDIT_QUEUE_MAX_BYTES / 203_400) + 5 }, () =>
    journal.append({ ...done('a'), pages }),
  )
  const outcomes = await Promise.allSettled(waiting)
  const lost = outcomes.filter(({ status }) => status === 'rejected').length
  t.ok(lost >= 5 && lost <= 7, `${lost} are lost`)
  t.equal(journal.failures, lost)
  const { pages: _, ...first } = entriesOf(dir)[0] ?? {}
  t.match(first, { action: 'auditLost', count: lost })
  t.same(verifyTrail(dir).problems, [])
})

t.test('where nobody waits, lines are durable soon', async (t) => {
  const dir = trailFolder(t)
  const { journal } = journalIn(t, dir, false)
  await journal.append(done('a'))
  t.match(readFileSync(join(dir, 'head'), 'utf8'), /"seq":0/, 'not yet')
  isSound(t, dir, 1)
  await sleep(AUDIT_SYNC_MS)
  await until(() => readFileSync(join(dir, 'head'), 'utf8').includes('"seq":1'), 'head is written')
  await journal.append(done('b'))
  await journal.close()
  t.match(readFileSync(join(dir, 'head'), 'utf8'), /"seq":2/, 'closing does not wait')
})

t.test('two writers take turns', async (t) => {
  const dir = trailFolder(t)
  const one = journalIn(t, dir)
  const other = journalIn(t, dir, false)
  for (let i = 0; i < 20; i++)
    await Promise.all([one.journal.append(done(`one ${i}`)), other.journal.append(done(`other ${i}`))])
  one.clock.nowMs += DAY
  await one.journal.append(done('another day'))
  await other.journal.append(done('the day before'))
  await Promise.all([one.journal.close(), other.journal.close()])
  isSound(t, dir, 42)
  t.match(verifyTrail(dir), { seq: 42, files: 2 })
})

t.test('a writer that holds the folder too long is not waited for', async (t) => {
  const dir = await trailOf(t, ['a'])
  const journal = new AuditJournal({ dir, lock: () => 11, isDurable: true, onNotice: () => {} })
  const startMs = performance.now()
  await t.rejects(journal.append(done('b')), /another process holds/)
  t.ok(performance.now() - startMs >= AUDIT_LOCK_WAIT_MS / 2)
  t.equal(lockDescriptor(1e6), 9, 'and errors of the lock other than that do not hold anybody up')
})

t.test('a folder that cannot be made', async (t) => {
  const dir = join(trailFolder(t), 'a/b')
  const { journal } = journalIn(t, dir)
  t.throws(() => journal.open(), /ENOENT/)
  await t.rejects(journal.append(done('a')), /ENOENT/)
  t.notOk(existsSync(dir))
  mkdirSync(join(dir, '..'))
  chmodSync(join(dir, '..'), 0o700)
  await journal.append(done('b'))
  t.match(entriesOf(dir), [{ action: 'auditLost', count: 1 }, { action: 'b' }])
})
