/**
 * Verification finds a flipped bit in each part of the store and names where it is: the epoch of a record,
 * the page a record tells wrongly of, the checkpoint, the row of the index.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { type VerifyOptions, verifyPast } from '../../../src/engine/history/verify.js'
import { verifyFolder } from '../../../src/engine/history/verify-folder.js'
import type { VerifyResult } from '../../../src/engine/types.js'
import { NativeContext } from '../../../src/ffi/context.js'
import { crc32c } from '../../../src/ffi/library.js'
import { Bus, MmsbError } from '../../../src/index.js'
import { RECORD_HEADER_BYTES } from '../../../src/limits.js'
import type { CheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import type { HistoryReader } from '../../../src/store/history.js'
import { encodeRecordHeader } from '../../../src/store/log/record.js'
import { readSegmentHeader, SegmentScanner } from '../../../src/store/log/segment-reader.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { folder, openFilesIn } from '../../lib/folder.js'
import { pastOf, spied } from '../../lib/past.js'

const CHECKPOINTS = [9, 14]
const story = await pastOf(t, async (bus) => {
  await bus.create('a', { dtype: 'i32', shape: [6], fill: 3 }) // 1
  await bus.derive('b', { op: 'map', inputs: { x: 'a' }, expr: 'x * 2' }) // 2
  await bus.create('c', { dtype: 'f64', shape: [2, 2] }) // 3
  await bus.derive('d', { op: 'map', inputs: { x: 'c' }, expr: 'x + 1' }) // 4
  await bus.derive('step', { op: 'map', inputs: { now: 'c', old: { prev: 'c' } }, expr: 'now - old' }) // 5
  await bus.create('none', { dtype: 'u8', shape: [0] }) // 6
  await bus.create('e', { dtype: 'u8', shape: [4], fill: 1 }) // 7
  await bus.patch('a', { values: [3] }) // 8: the same bytes
  for (const page of ['a', 'e', 'c', 'e', 'e', 'a', 'a', 'e', 'c', 'a', 'e', 'a']) {
    const { epoch } = await bus.patch(page, { values: [bus.epoch] })
    if (CHECKPOINTS.includes(epoch)) await bus.checkpoint()
  }
})
const [first, second] = story.reader.checkpointEpochs().reverse() as [number, number]
const newest = story.epochs.length - 1

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

t.test('a range of one epoch is verified too', async (t) => {
  const dir = folder(t)
  cpSync(await original, dir, { recursive: true })
  const at = { from: CHECKPOINT, to: CHECKPOINT }
  t.match(verifyFolder({ dir, ...at }), { ok: true, ...at, epochs: 0 })
  inDatabase(checkpointFile(dir), "UPDATE pack SET data = CAST(x'01' || substr(data, 2) AS BLOB)")
  t.match(verifyFolder({ dir, ...at }), { ok: false, problems: [/^checkpoint 20: .*chunk/] })
})

t.test('the index is closed, whatever the result is', async (t) => {
  const dir = folder(t)
  cpSync(await original, dir, { recursive: true })
  for (const to of [MADE, MADE + 1]) {
    try {
      verifyFolder({ dir, from: 5, to })
    } catch (error) {
      t.match(error, { code: 'EPOCH_NOT_FOUND' })
    }
    t.same([...openFilesIn('/mmsb-read-'), ...openFilesIn(dir)], [])
  }
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

// ---- what is read and compared ----------------------------------------------------------------------------

/** A checkpoint as it is, but for what is given. `bytesOf` changes what it holds of a page. */
function checkpointOf(
  file: CheckpointFile,
  { digest, bytesOf }: { digest?: Uint8Array; bytesOf?: (pageId: number, bytes: Uint8Array) => Uint8Array },
): CheckpointFile {
  const loading: CheckpointFile['loading'] = (onChunk, wants) =>
    file.loading((id, offset, bytes) => onChunk(id, offset, bytesOf?.(id, bytes) ?? bytes), wants)
  const load: CheckpointFile['load'] = (onChunk) => {
    for (const _ of loading(onChunk));
  }
  const header = digest === undefined ? file.header : { ...file.header, digest }
  return {
    header,
    pages: file.pages,
    info: file.info,
    loading,
    load,
    close: () => file.close(),
  } as CheckpointFile
}

/**
 * The reader of the story, but for what is given; `open` gets each checkpoint and how often it was opened.
 */
function readerWith({
  open = (file) => file,
  ...rest
}: Partial<Pick<HistoryReader, 'records' | 'checkpointEpochs'>> & {
  open?: (file: CheckpointFile, epoch: number, times: number) => CheckpointFile | string
}) {
  const { reader, reads } = spied(story.reader)
  const opened: number[] = []
  let left = 0
  const openCheckpoint = (epoch: number): CheckpointFile | string => {
    opened.push(epoch)
    const file = reader.openCheckpoint(epoch)
    if (typeof file === 'string') return file
    const given = open(file, epoch, opened.filter((one) => one === epoch).length)
    if (typeof given === 'string') {
      file.close()
      return given
    }
    left++
    const close = given.close.bind(given)
    return Object.assign(checkpointOf(given, {}), {
      close: () => {
        left--
        close()
      },
    })
  }
  const { checkpointEpochs, records, checkpointPages } = reader
  const own = { firstEpoch: reader.firstEpoch, checkpointEpochs, records, checkpointPages, openCheckpoint }
  return { reader: { ...own, ...rest } as unknown as HistoryReader, reads, left: () => left }
}

const verified = (reader: HistoryReader, options: Partial<VerifyOptions> = {}): VerifyResult =>
  verifyPast({ reader, from: 0, to: newest, ...options })

t.test('it replays from one checkpoint to the next, and leaves none open', async (t) => {
  t.same([first, second], CHECKPOINTS)
  for (const [from, to, wanted] of [
    [0, newest, '1..9 10..14 15..20'],
    [0, second, '1..9 10..14'],
    [0, second - 1, '1..9 10..13'],
    [3, first, '1..3 4..9'],
    [3, first - 1, '1..3 4..8'],
    [first, newest, 'checkpoint 9 10..14 15..20'],
    [first + 1, newest, 'checkpoint 9 10..10 11..14 15..20'],
    [second, second, 'checkpoint 14'],
    [second + 2, newest, 'checkpoint 14 15..16 17..20'],
  ] as const) {
    const { reader, reads, left } = readerWith({})
    t.strictSame(verified(reader, { from, to }), {
      ...{ ok: true, from, to, epochs: to - from, divergence: null, problems: [] },
    })
    t.equal(reads(), `checkpoint 9 checkpoint 14 ${wanted}`)
    t.equal(left(), 0)
  }
})

t.test('the digest of each checkpoint within the range is compared, both ends included', async (t) => {
  const digest = new Uint8Array(16)
  const at = (epoch: number, from: number, to: number) => {
    // Only what is recorded is wrong, not what is loaded or compared afterwards.
    const { reader, left } = readerWith({
      open: (file, opened, times) =>
        opened === epoch && times === 1 ? checkpointOf(file, { digest }) : file,
    })
    const { ok, divergence, epochs } = verified(reader, { from, to })
    t.equal(ok, divergence === null)
    t.equal(left(), 0)
    if (divergence === null) return 'sound'
    t.equal(divergence.page, null, 'no page differs')
    t.match(divergence.detail, new RegExp(`digest at epoch ${epoch} is [0-9a-f]{32}, recorded was 0{32}\\.`))
    return `${divergence.epoch} after ${epochs}`
  }
  t.equal(at(first, 0, newest), '9 after 9')
  t.equal(at(second, 0, newest), '14 after 14')
  t.equal(at(first, first, newest), '9 after 0')
  t.equal(at(second, first, second), '14 after 5')
  t.equal(at(first, first + 1, newest), 'sound')
  t.equal(at(second, 0, second - 1), 'sound')
})

t.test('the digest that the caller knows is that of the last epoch', async (t) => {
  const { reader } = readerWith({})
  const digest = Uint8Array.from(Buffer.from(story.epochs[newest]!.digest, 'hex'))
  t.match(verified(reader, { digest }), { ok: true })
  const wrong = digest.with(3, digest[3]! ^ 1)
  t.match(verified(reader, { digest: wrong }), { ok: false, epochs: newest, divergence: { epoch: newest } })
  t.match(verified(reader, { digest: wrong, to: second }), { ok: true }, 'that of a checkpoint is known')
})

t.test('the page that differs from a checkpoint', async (t) => {
  const idOf = (name: string): number => story.epochs[second]!.pages[name]!.id
  const other = (names: readonly string[], text?: string) => {
    const ids = names.map(idOf)
    const bytesOf = (id: number, bytes: Uint8Array): Uint8Array =>
      ids.includes(id) ? bytes.with(bytes.length - 1, bytes.at(-1)! ^ 1) : bytes
    const { reader, left } = readerWith({
      open: (file, epoch, times) => {
        if (epoch !== second) return file
        if (times === 1) return checkpointOf(file, { digest: new Uint8Array(16) })
        return text ?? checkpointOf(file, { bytesOf })
      },
    })
    const { divergence } = verified(reader)
    t.equal(left(), 0)
    t.equal(divergence?.epoch, second)
    return divergence?.page
  }
  t.equal(other(['a']), 'a')
  t.equal(other(['c', 'd']), 'c', 'the first one')
  t.equal(other(['d', 'c', 'a']), 'a')
  t.equal(other([]), null)
  t.equal(other(['a'], 'it is gone'), null)
})

t.test('a checkpoint that cannot be read is a problem, unless it is gone', async (t) => {
  const open = (file: CheckpointFile, epoch: number): CheckpointFile | string =>
    epoch === first ? 'broken' : file
  const { reader } = readerWith({ open })
  const problems = ['checkpoint 9: broken']
  t.strictSame(verified(reader), {
    ok: false,
    from: 0,
    to: newest,
    epochs: newest,
    divergence: null,
    problems,
  })
  let lists = 0
  const { reader: without } = readerWith({
    open,
    checkpointEpochs: () => (lists++ === 0 ? [second, first] : [second]),
  })
  t.match(verified(without), { ok: true, problems: [] })
})

t.test('a log that cannot be followed: the epoch it names, or the one before and its page', async (t) => {
  const failing = (after: number, error: Error) => {
    const { reader } = readerWith({
      *records(from, to) {
        for (const record of story.reader.records(from, to)) {
          if (record.epoch > after) throw error
          yield record
        }
      },
    })
    return () => verified(reader, { from: 1 })
  }
  const odd = new MmsbError('INTERNAL', 'odd')
  const found = (after: number, error: Error = odd) => {
    const { ok, divergence, epochs } = failing(after, error)()
    t.notOk(ok)
    t.equal(divergence?.detail, 'odd')
    return [divergence?.epoch, divergence?.page, epochs]
  }
  t.strictSame(found(13), [13, 'e', 12], 'it changed one page')
  t.strictSame(found(9), [9, null, 8], 'it changed two')
  t.strictSame(found(8), [8, null, 7], 'it changed none')
  t.strictSame(found(0), [1, null, 0])
  t.strictSame(found(15, new MmsbError('INTERNAL', 'odd', { epoch: 17 })), [17, null, 16])
  t.throws(failing(15, new MmsbError('EPOCH_COMPACTED', 'gone')), { code: 'EPOCH_COMPACTED' })
  t.throws(failing(15, new TypeError('no')), { name: 'TypeError' })
})

t.test('it may be bounded in memory, ended, and tells where it is', async (t) => {
  const { reader } = readerWith({})
  t.throws(() => verified(reader, { quotaBytes: 10 }), { code: 'OUT_OF_MEMORY' })
  const cancelledBy = new Int32Array(new SharedArrayBuffer(4)).fill(1)
  t.throws(() => verified(reader, { cancelledBy }), { code: 'COST_EXCEEDED' })
  const { now } = performance
  let nowMs = 0
  performance.now = () => (nowMs += 20)
  const told: number[] = []
  verified(reader, { from: 3, onPause: (epoch) => told.push(epoch) })
  performance.now = now
  t.same(
    told,
    Array.from({ length: newest }, (_, i) => i + 1),
  )
})

t.test('pages of more than one piece', async (t) => {
  const size = 1024 ** 2
  const { reader, epochs } = await pastOf(t, async (bus) => {
    for (const length of [size - 1, size, size + 1])
      await bus.create(`p${length}`, { dtype: 'u8', shape: [length], fill: 3 })
    await bus.patch(`p${size + 1}`, { offset: size, values: [7] })
  })
  t.match(verifyPast({ reader, from: 0, to: epochs.length - 1 }), { ok: true })
})
