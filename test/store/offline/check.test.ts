/**
 * `mmsb log check` on folders broken by hand: every fault is reported, a repair keeps the newest state
 * possible, and what it cut is set aside. One flipped bit in each part of a folder is found.
 */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { verifyFolder } from '../../../src/engine/history/verify-folder.js'
import { type CheckReport, checkFolder } from '../../../src/store/offline/check.js'
import { repairLog } from '../../../src/store/offline/repair.js'
import { scratch } from '../helpers.js'
import { copyOf, open, place, type Sample, sampleOf, segments } from './sample.js'

/** 120 epochs in about four segments, with checkpoints at the epochs given. */
const sample = (checkpoints: readonly number[]): Promise<Sample> => sampleOf(120, 250, checkpoints)

function flip(file: string, at: number): void {
  const bytes = fs.readFileSync(file)
  bytes[at] = (bytes[at] ?? 0) ^ 8
  fs.writeFileSync(file, bytes)
}

/** Repairs a folder and opens it. */
async function repaired(
  t: Test,
  dir: string,
  { digests }: Sample,
): Promise<{ epoch: number; minEpoch: number }> {
  const before = checkFolder(place(dir))
  t.ok(before.repair !== undefined, 'a repair is proposed')
  const aside = await repairLog(place(dir), before)
  t.ok(aside !== undefined && fs.readdirSync(aside).length > 0, 'what was cut is kept')
  t.same(checkFolder(place(dir)).problems, [])
  const bus = await open(dir)
  const { epoch, minEpoch, digest } = bus.status()
  t.equal(digest, digests.get(epoch), `the state is that of epoch ${epoch}`)
  t.match(await bus.verify(), { ok: true })
  await bus.patch('a', { values: [1] })
  await bus.close()
  return { epoch, minEpoch }
}

const middleOf = (file: string): number => Math.floor(fs.statSync(file).size / 2)

t.test('sound folders and torn tails', async (t) => {
  const whole = await sample([60])
  const dir = copyOf(t, whole)
  t.match(checkFolder(place(dir)), { problems: [], notes: [], repair: undefined, soundEpoch: 120 })
  const last = segments(dir).at(-1) as string
  fs.writeFileSync(last, Buffer.concat([fs.readFileSync(last).subarray(0, -64), Buffer.alloc(333, 7)]))
  const report = checkFolder(place(dir))
  t.match(report, { problems: [], repair: undefined, soundEpoch: 120 })
  t.match(report.notes.join(), /333 bytes behind epoch 120/)
  t.match(checkFolder(place(scratch())), { segments: [], problems: [] })
})

t.test('damage without a checkpoint behind it: the log is cut', async (t) => {
  const whole = await sample([20])
  for (const [what, at] of [
    ['body', (file: string) => middleOf(file)],
    ['header of a segment', () => 20],
    ['first record', () => 4096 + 20],
  ] as const) {
    const dir = copyOf(t, whole)
    const file = segments(dir)[2] as string
    flip(file, at(file))
    const report = checkFolder(place(dir))
    t.equal(report.problems.length, 1, what)
    t.match(report.problems[0], new RegExp(`^log/${path.basename(file)}, offset \\d+: `))
    t.match(report.repair?.loses, new RegExp(`^epochs ${report.soundEpoch + 1} to `))
    const { epoch, minEpoch } = await repaired(t, dir, whole)
    t.equal(epoch, report.soundEpoch, what)
    t.equal(minEpoch, 0)
  }
  const dir = copyOf(t, whole)
  fs.rmSync(segments(dir)[1] as string)
  t.match(checkFolder(place(dir)).problems.join(), /is not sound/)
  await repaired(t, dir, whole)
})

t.test('damage before a checkpoint: the state is kept, older history is lost', async (t) => {
  const whole = await sample([60, 118])
  for (const index of [1, -1]) {
    const dir = copyOf(t, whole)
    const file = segments(dir).at(index) as string
    flip(file, index === -1 ? 4096 + 200 : middleOf(file))
    const report = checkFolder(place(dir))
    t.match(report.repair?.loses, /^no epoch, and the history before epoch/)
    const { epoch, minEpoch } = await repaired(t, dir, whole)
    t.equal(epoch, 120, 'nothing newer is lost')
    t.ok(minEpoch === 60 || minEpoch === 118, `history begins at ${minEpoch}`)
  }
})

t.test('a log shorter than the index and the checkpoints know', async (t) => {
  const whole = await sample([60])
  const dir = copyOf(t, whole)
  for (const file of segments(dir).slice(2)) fs.rmSync(file)
  const last = segments(dir).at(-1) as string
  t.ok(fs.existsSync(last))
  const report = checkFolder(place(dir))
  t.match(report.problems.join(), /epoch 120 was durable/)
  const { epoch } = await repaired(t, dir, whole)
  t.equal(epoch, report.soundEpoch)
})

/** Flips a bit in the bytes of a column, in the row that a statement finds. */
function flipInRow(file: string, table: string, column: string): void {
  const db = new Database(file)
  const key = (db.pragma(`table_info(${table})`) as { name: string; pk: number }[]).find(({ pk }) => pk === 1)
  const row = db.prepare(`SELECT ${key?.name} AS key, ${column} AS value FROM ${table} LIMIT 1`).get() as {
    key: number
    value: Buffer | number
  }
  const value = typeof row.value === 'number' ? row.value ^ 8 : Buffer.from(row.value)
  if (typeof value !== 'number') value[value.length >> 1] = (value[value.length >> 1] ?? 0) ^ 8
  db.prepare(`UPDATE ${table} SET ${column} = ? WHERE ${key?.name} = ?`).run(value, row.key)
  db.pragma('journal_mode = DELETE')
  db.close()
}

t.test('one flipped bit in each part is found and named, by check and by verify', async (t) => {
  const whole = await sample([60, 118])
  const checkpoint = (dir: string): string => path.join(dir, 'checkpoints', `${'60'.padStart(20, '0')}.db`)
  const parts: Record<string, [(dir: string) => void, RegExp]> = {
    'record header': [
      (dir) => flip(segments(dir)[1] as string, 4096 + 18),
      /log.*the record of epoch \d+ is not sound/,
    ],
    'record body': [
      (dir) => flip(segments(dir)[1] as string, 4096 + 500),
      /log.*the record of epoch \d+ is not sound/,
    ],
    'index row': [
      (dir) => flipInRow(path.join(dir, 'catalog.db'), 'block', 'stop'),
      /catalog.db: the index row/,
    ],
    'list of checkpoints': [
      (dir) => flipInRow(path.join(dir, 'catalog.db'), 'checkpoint', 'bytes'),
      /catalog.db: the catalog row of checkpoint/,
    ],
    chunk: [
      (dir) => flipInRow(checkpoint(dir), 'pack', 'data'),
      /checkpoint 60: chunk \d+ of pack \d+ does not match/,
    ],
    'checkpoint row': [
      (dir) => flipInRow(checkpoint(dir), 'page', 'version'),
      /checkpoint 60: its tables do not match/,
    ],
    'page of SQLite': [(dir) => flip(checkpoint(dir), 65536 * 2 + 3), /checkpoint/],
  }
  for (const [part, [breakIt, message]] of Object.entries(parts)) {
    const dir = copyOf(t, whole)
    breakIt(dir)
    const report: CheckReport = checkFolder(place(dir))
    t.match(report.problems.join('\n'), message, `check: ${part}`)
    const found = verifyFolder({ dir })
    t.equal(found.ok, false, `verify: ${part}`)
    const said = [...found.problems, found.divergence?.detail ?? ''].join('\n')
    t.match(said, part.startsWith('record') ? /record of epoch \d+/ : message, `verify: ${part}`)
  }
})
