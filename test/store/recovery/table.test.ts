/**
 * The recovery table: one row for every combination, in theory and on real folders, and the same table in the
 * docs.
 */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { checkpointName } from '../../../src/store/checkpoint/format.js'
import {
  BODY_STATES,
  CHECKPOINT_STATES,
  type CheckpointState,
  type Findings,
  INDEX_STATES,
  RECOVERY_TABLE,
  rowOf,
  TAIL_STATES,
} from '../../../src/store/recovery/table.js'
import type { Store } from '../../../src/store/store.js'
import { ROOT } from '../../lib/place.js'
import { appendAll, epochsIn, epochsTo, framesOf, openStore, recordOf, scratch } from '../helpers.js'

function everyCombination(): Findings[] {
  const all: Findings[] = []
  for (const tail of TAIL_STATES)
    for (const body of BODY_STATES)
      for (const index of INDEX_STATES)
        for (const checkpoint of CHECKPOINT_STATES) all.push({ tail, body, index, checkpoint })
  return all
}

t.test('every combination has exactly one row, and every row is needed', async (t) => {
  const used = new Set<string>()
  for (const f of everyCombination()) {
    const rows = RECOVERY_TABLE.filter(
      (r) =>
        r.tail.includes(f.tail) &&
        r.body.includes(f.body) &&
        r.index.includes(f.index) &&
        r.checkpoint.includes(f.checkpoint),
    )
    t.equal(rows.length, 1, `${JSON.stringify(f)}: ${rows.map((r) => r.row).join()}`)
    t.equal(rowOf(f), rows[0])
    used.add(rows[0]?.row ?? '')
  }
  t.same([...used].sort(), RECOVERY_TABLE.map((r) => r.row).sort())
})

t.test('docs/internals/DURABILITY.md prints this table', async (t) => {
  const text = fs.readFileSync(`${ROOT}docs/internals/DURABILITY.md`, 'utf8')
  const cell = (states: readonly string[], all: readonly string[]): string =>
    states.length === all.length ? 'any' : states.join(', ')
  for (const r of RECOVERY_TABLE) {
    const cells = [
      r.row,
      cell(r.tail, TAIL_STATES),
      cell(r.body, BODY_STATES),
      cell(r.index, INDEX_STATES),
      cell(r.checkpoint, CHECKPOINT_STATES),
      r.outcome,
    ]
    t.ok(text.includes(`| ${cells.join(' | ')} |`), `row ${r.row}`)
  }
  const rows = text.split('\n').filter((line) => /^\| (?:[A-Z]|R\d) \|/.test(line))
  t.equal(rows.length, RECOVERY_TABLE.length)
})

const SNAPSHOTS = [8, 12, 20, 38] as const
type Snapshot = (typeof SNAPSHOTS)[number]
const CHECKPOINTS = [10, 15]

async function checkpointAt(store: Store, epoch: number): Promise<void> {
  await store.checkpoint({
    header: { epoch, timestampMs: 1, digest: framesOf(1, 16), nextPageId: 2, extra: '{}' },
    pages: [{ id: 1, version: epoch, createdEpoch: 1, bytes: 70_000, meta: framesOf(2, 40) }],
    read: (_, offset, into) => into.set(framesOf(epoch, 70_000).subarray(offset, offset + into.length)),
  })
}

const open = (dir: string) => openStore(dir, { segmentBytes: 12 * 1024 })

/** One history, copied at several epochs after a clean close. */
async function snapshots(): Promise<Record<Snapshot, string>> {
  const dir = scratch()
  const copies: Partial<Record<Snapshot, string>> = {}
  let epoch = 0
  for (const stop of [...SNAPSHOTS, ...CHECKPOINTS].sort((a, b) => a - b)) {
    const store = await open(dir)
    await appendAll(store, epoch + 1, stop, 500)
    epoch = stop
    if (CHECKPOINTS.includes(stop)) await checkpointAt(store, stop)
    await store.close()
    const snapshot = SNAPSHOTS.find((at) => at === stop)
    if (snapshot === undefined) continue
    const copy = scratch()
    fs.cpSync(dir, copy, { recursive: true })
    copies[snapshot] = copy
  }
  return copies as Record<Snapshot, string>
}

const segmentsOf = (dir: string): string[] =>
  fs
    .readdirSync(path.join(dir, 'log'))
    .filter((name) => name.endsWith('.seg'))
    .sort()
    .map((name) => path.join(dir, 'log', name))

/** A folder in the given state. */
function arrange(from: Record<Snapshot, string>, f: Findings): string {
  const dir = scratch()
  const log: Snapshot = f.checkpoint === 'ahead' ? 12 : f.index === 'ahead' ? 20 : 38
  const older = SNAPSHOTS[SNAPSHOTS.indexOf(log) - 1] ?? 8
  fs.cpSync(path.join(from[log], 'log'), path.join(dir, 'log'), { recursive: true })
  fs.cpSync(path.join(from[38], 'checkpoints'), path.join(dir, 'checkpoints'), { recursive: true })
  const catalog = { current: log, behind: older, ahead: 38 as Snapshot, lost: undefined }[f.index]
  if (catalog !== undefined)
    fs.copyFileSync(path.join(from[catalog], 'catalog.db'), path.join(dir, 'catalog.db'))
  arrangeTail(dir, f)
  arrangeCheckpoints(dir, f.checkpoint)
  return dir
}

function arrangeTail(dir: string, f: Findings): void {
  const last = segmentsOf(dir).at(-1) ?? ''
  const bytes = fs.readFileSync(last)
  const unsealed = bytes.subarray(0, bytes.length - 64)
  const torn = Buffer.concat([unsealed, f.tail === 'torn' ? Buffer.from(framesOf(99, 333)) : Buffer.alloc(0)])
  if (f.body === 'bad') torn[4096 + 100] = (torn[4096 + 100] ?? 0) ^ 4
  fs.writeFileSync(last, torn)
}

const checkpointFile = (dir: string, epoch: number): string =>
  path.join(dir, 'checkpoints', checkpointName(epoch))

function arrangeCheckpoints(dir: string, state: CheckpointState): void {
  const file = (epoch: number): string =>
    path.join(dir, 'checkpoints', `${String(epoch).padStart(20, '0')}.db`)
  if (state === 'none') fs.rmSync(path.join(dir, 'checkpoints'), { recursive: true })
  if (state === 'missing') fs.rmSync(file(15))
  if (state === 'damaged') {
    const bytes = fs.readFileSync(file(15))
    const at = bytes.indexOf(Buffer.from(framesOf(15, 64)))
    bytes[at + 1000] = (bytes[at + 1000] ?? 0) ^ 1
    fs.writeFileSync(file(15), bytes)
  }
  if (state === 'unreachable') {
    for (const epoch of CHECKPOINTS) fs.rmSync(file(epoch))
    fs.rmSync(segmentsOf(dir)[0] ?? '')
  }
}

/** The findings as the store sees them: only the catalog knows of a checkpoint file that is gone. */
function visible(f: Findings): Findings {
  if (f.body === 'bad') return f
  if (f.checkpoint === 'missing' && f.index === 'lost') return { ...f, checkpoint: 'sound' }
  if (f.checkpoint === 'none' && f.index !== 'lost') return { ...f, checkpoint: 'missing' }
  return f
}

function fingerprint(dir: string): string {
  const hash = createHash('sha256')
  for (const part of ['log', 'checkpoints']) {
    const folder = path.join(dir, part)
    for (const name of fs.existsSync(folder) ? fs.readdirSync(folder).sort() : []) {
      hash.update(name).update(fs.readFileSync(path.join(folder, name)))
    }
  }
  return hash.digest('hex')
}

t.test('every combination on a real folder has the outcome of its row', async (t) => {
  const from = await snapshots()
  for (const findings of everyCombination()) {
    const name = JSON.stringify(findings)
    const dir = arrange(from, findings)
    const row = rowOf(visible(findings))
    const before = fingerprint(dir)
    const left = CHECKPOINTS.filter((epoch) => fs.existsSync(checkpointFile(dir, epoch)))
    const notices: string[] = []
    const opened = await openStore(dir, {
      segmentBytes: 12 * 1024,
      onNotice: (notice) => notices.push(notice.message),
    }).catch((error: Error & { code: string }) => error)
    if (opened instanceof Error) {
      t.equal(row.action, 'refuse', `${name}: ${opened.message}`)
      t.match(opened, { code: 'BUS_FAILED', message: `recovery row ${row.row})` }, name)
      t.equal(fingerprint(dir), before, `${name}: nothing changed`)
    } else {
      t.equal(row.action, 'start', name)
      t.equal(opened.recovery.row, row.row, name)
      await checkStarted(t, opened, visible(findings), left, notices, name)
    }
    fs.rmSync(dir, { recursive: true })
  }
})

async function checkStarted(
  t: Test,
  store: Store,
  f: Findings,
  left: readonly number[],
  notices: readonly string[],
  name: string,
): Promise<void> {
  const { recovery } = store
  t.equal(recovery.newestEpoch, 38, name)
  t.equal(recovery.tornBytes > 0, f.tail === 'torn', name)
  const usable = f.checkpoint === 'damaged' ? [10] : left
  t.equal(recovery.checkpointEpoch, usable.at(-1), name)
  t.same(epochsIn(store, 10), epochsTo(38, 11), name)
  t.same(notices, recovery.notes, name)
  const reader = store.openCheckpoint()
  t.equal(reader?.header.epoch, recovery.checkpointEpoch, name)
  reader?.close()
  await appendAll(store, 39, 40, 500)
  t.equal((await store.read(3)).frames.length, recordOf(3, 500).frames.length, name)
  await store.close()
  t.equal(store.stats().indexedEpoch, 40, `${name}: the index is whole again`)
}
