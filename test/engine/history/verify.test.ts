/**
 * Verification finds a flipped bit in each part of the store and names where it is: the epoch of a record,
 * the page a record tells wrongly of, the checkpoint, the row of the index.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { verifyFolder } from '../../../src/engine/history/verify-folder.js'
import type { VerifyResult } from '../../../src/engine/types.js'
import { NativeContext } from '../../../src/ffi/context.js'
import { crc32c } from '../../../src/ffi/library.js'
import { Bus } from '../../../src/index.js'
import { RECORD_HEADER_BYTES } from '../../../src/limits.js'
import { encodeRecordHeader } from '../../../src/store/log/record.js'
import { readSegmentHeader, SegmentScanner } from '../../../src/store/log/segment-reader.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { folder } from '../../lib/folder.js'

const MADE = 40
const CHECKPOINT = 20

/** A folder with a source, a derived page, a page on its own, a checkpoint and a whole index. */
async function made(): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'mmsb-'))
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1, fsync: 'off' })
  await bus.create('a', { dtype: 'f64', shape: [1000] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' })
  await bus.create('alone', { dtype: 'i32', shape: [16] })
  for (let i = bus.epoch; i < MADE; i++) {
    if (i === CHECKPOINT) await bus.checkpoint()
    await bus.patch(i % 2 === 0 ? 'a' : 'alone', { offset: i % 16, values: [i + 1] })
  }
  await bus.close()
  return dir
}

const original = made()
t.teardown(async () => rmSync(await original, { recursive: true, force: true }))

async function damaged(t: Test, damage: (dir: string) => void): Promise<VerifyResult> {
  const dir = folder(t)
  cpSync(await original, dir, { recursive: true })
  damage(dir)
  return verifyFolder({ dir })
}

const segmentOf = (dir: string): string => join(dir, 'log', readdirSync(join(dir, 'log'))[0] as string)

/**
 * Calls back with the log's bytes and where the record of an epoch stands in them; what it
 * changes is written.
 */
function inRecord(
  dir: string,
  epoch: number,
  change: (bytes: Buffer, offset: number, scanner: SegmentScanner, byteLength: number) => void,
): void {
  const disk = realDisk()
  const file = segmentOf(dir)
  const fd = disk.open(file, {})
  const header = readSegmentHeader(disk, fd, crc32c)
  if (typeof header === 'string') throw new Error(header)
  const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), header, crc32c)
  let found = scanner.next()
  while (found !== undefined && found.record.epoch < epoch) found = scanner.next()
  disk.close(fd)
  if (found === undefined) throw new Error(`no record ${epoch}`)
  const bytes = readFileSync(file)
  change(bytes, found.offset, scanner, found.byteLength)
  writeFileSync(file, bytes)
}

function flip(bytes: Buffer, at: number): void {
  bytes[at] = (bytes[at] as number) ^ 4
}

function inDatabase(file: string, sql: string): void {
  const db = new Database(file)
  const { changes } = db.prepare(sql).run()
  db.close()
  if (changes === 0) throw new Error(`nothing changed: ${sql}`)
}

const checkpointFile = (dir: string): string =>
  join(dir, 'checkpoints', `${String(CHECKPOINT).padStart(20, '0')}.db`)

t.test('what is sound is sound', async (t) => {
  const result = await damaged(t, () => {})
  t.match(result, { ok: true, from: 0, to: MADE, epochs: MADE, divergence: null, problems: [] })
  const dir = await original
  t.match(verifyFolder({ dir, from: CHECKPOINT + 3, to: 30 }), { ok: true, from: 23, to: 30, epochs: 7 })
  t.throws(() => verifyFolder({ dir, to: MADE + 1 }), { code: 'EPOCH_NOT_FOUND' })
  t.throws(() => verifyFolder({ dir: join(dir, 'log') }), { code: 'BUS_FAILED' })
})

for (const epoch of [3, 27, MADE]) {
  t.test(`a flipped bit in the header of record ${epoch}`, async (t) => {
    const { ok, divergence } = await damaged(t, (dir) =>
      inRecord(dir, epoch, (bytes, offset) => flip(bytes, offset + 33)),
    )
    t.match({ ok, divergence }, { ok: false, divergence: { epoch, page: null } })
  })

  t.test(`a flipped bit in the body of record ${epoch}`, async (t) => {
    const { ok, divergence } = await damaged(t, (dir) =>
      inRecord(dir, epoch, (bytes, offset) => flip(bytes, offset + RECORD_HEADER_BYTES + 70)),
    )
    t.match({ ok, divergence }, { ok: false, divergence: { epoch, page: null } })
  })
}

t.test('a record that tells another story under a right checksum: its epoch and page', async (t) => {
  const epoch = 26
  const result = await damaged(t, (dir) =>
    inRecord(dir, epoch, (bytes, offset, scanner, byteLength) => {
      const copy = Buffer.from(bytes.subarray(offset, offset + byteLength))
      // The lowest byte of the value that the delta writes.
      const framesLength = copy.readUInt32LE(52)
      flip(copy, RECORD_HEADER_BYTES + framesLength - 8)
      const head = copy.subarray(0, RECORD_HEADER_BYTES)
      const body = copy.subarray(RECORD_HEADER_BYTES)
      const record = {
        epoch,
        timestampMs: Number(copy.readBigUInt64LE(24)),
        digestBefore: Uint8Array.from(copy.subarray(32, 48)),
        frameCount: copy.readUInt32LE(48),
        frames: new Uint8Array(framesLength),
        touchedPages: new Uint32Array(copy.readUInt32LE(56)),
      }
      const flags = copy.readUInt32LE(60)
      const mark = { eachSynced: flags >= 0x8000_0000, unsynced: flags & 0x7fff_ffff }
      const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
      encodeRecordHeader(head, view, record, [body], scanner.segment, mark, crc32c)
      copy.copy(bytes, offset)
    }),
  )
  t.match(result, { ok: false, divergence: { epoch, page: 'alone', detail: /digest/ } })
})

t.test('bytes in memory that are not those of the digest kept for them: the page', async (t) => {
  const { readPage } = NativeContext.prototype
  t.teardown(() => {
    NativeContext.prototype.readPage = readPage
  })
  const dir = await original
  for (const [id, page] of [
    [2, 'sum'],
    [3, 'alone'],
  ] as const) {
    NativeContext.prototype.readPage = function (this: NativeContext, read, offset, out) {
      readPage.call(this, read, offset, out)
      if (read === id) flip(Buffer.from(out.buffer, out.byteOffset, out.byteLength), 5)
    }
    const { ok, divergence } = verifyFolder({ dir })
    t.match({ ok, divergence }, { ok: false, divergence: { page, detail: /^The digest kept for page/ } })
  }
})

t.test('a flipped bit in the header of a segment', async (t) => {
  const result = await damaged(t, (dir) => {
    const file = segmentOf(dir)
    const bytes = readFileSync(file)
    flip(bytes, 20)
    writeFileSync(file, bytes)
  })
  t.match(result, { ok: false, divergence: { epoch: 1, detail: /segment/ } })
})

t.test('a flipped bit in a chunk of a checkpoint', async (t) => {
  const result = await damaged(t, (dir) =>
    inDatabase(checkpointFile(dir), "UPDATE pack SET data = CAST(x'01' || substr(data, 2) AS BLOB)"),
  )
  t.match(result, { ok: false, divergence: null, problems: [/^checkpoint 20: .*chunk/] })
})

t.test('a flipped bit in a row of a checkpoint', async (t) => {
  const result = await damaged(t, (dir) =>
    inDatabase(checkpointFile(dir), 'UPDATE page SET version = version | 512 WHERE id = 1'),
  )
  t.match(result, { ok: false, divergence: null, problems: [/^checkpoint 20: /] })
})

t.test('a flipped bit in a row of the index, and of the list of checkpoints', async (t) => {
  const index = await damaged(t, (dir) =>
    inDatabase(join(dir, 'catalog.db'), 'UPDATE block SET stop = stop | 1 WHERE first_epoch = 1'),
  )
  t.match(index, { ok: false, divergence: null, problems: [/^catalog.db: the index row of epoch 1 /] })
  const list = await damaged(t, (dir) =>
    inDatabase(join(dir, 'catalog.db'), 'UPDATE checkpoint SET pages = pages | 64'),
  )
  t.match(list, { ok: false, divergence: null, problems: [/^catalog.db: .*checkpoint 20/] })
})
