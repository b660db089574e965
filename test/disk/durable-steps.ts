/**
 * Everything that a store does to its folder, on the real disk, in a process that is traced
 * (folder-syncs.test.ts): begins a log and new segments, makes and removes checkpoints, removes history, and
 * is opened again; then cursors, backup, restore, cut and repair. After each step it leaves a mark: from then
 * on the step must survive a crash.
 */
import fs from 'node:fs'
import path from 'node:path'
import { checkpointFolder } from '../../src/store/checkpoint/folder.js'
import { checkpointName } from '../../src/store/checkpoint/format.js'
import { CheckpointTasks } from '../../src/store/checkpoint/tasks.js'
import { CursorDb } from '../../src/store/cursors/cursor-db.js'
import { backupFolder } from '../../src/store/offline/backup.js'
import { checkFolder } from '../../src/store/offline/check.js'
import { cutFolder, planCut } from '../../src/store/offline/cut.js'
import { repairLog } from '../../src/store/offline/repair.js'
import { restoreFolder } from '../../src/store/offline/restore.js'
import type { StoreOptions } from '../../src/store/options.js'
import { realDisk } from '../../src/store/os/disk.js'
import type { Store } from '../../src/store/store.js'
import type { CheckpointSource } from '../../src/store/types.js'
import { crc32c, framesOf, noCatalog, openStore, recordOf } from '../store/helpers.js'

const CHUNK = 64 * 1024
const CHUNKS = 12
const LENGTH = 900
/** Nothing has changed since the checkpoint before, so no other one needs the file of this one. */
const IDLE_EPOCH = 15
/** At least as many as fit into one. */
const EPOCHS_OF_A_SEGMENT = 14
/** A place in the second record of a segment. */
const SECOND_RECORD = 4096 + 1100

const root = process.argv[2] as string
const dir = path.join(root, 'above', 'data')
const disk = realDisk()

/** Read from the trace: everything done so far must be durable. */
function mark(text: string): void {
  try {
    fs.accessSync(`MARK:${text}`)
  } catch {
    // There is no such file.
  }
}

function open(options: Partial<StoreOptions> = {}): Promise<Store> {
  const place = checkpointFolder(path.join(dir, 'checkpoints'))
  return openStore(dir, {
    catalog: noCatalog(),
    segmentBytes: 12 * 1024,
    checkpointsKept: 4,
    checkpointThread: () => {
      const tasks = new CheckpointTasks(place)
      return { ask: (request) => tasks.handle(request), end: async () => {} }
    },
    ...options,
  })
}

async function append(store: Store, to: number): Promise<void> {
  for (let epoch = store.newestEpoch + 1; epoch <= to; epoch++) {
    await store.reserve(LENGTH)
    await store.append(recordOf(epoch, LENGTH))
    mark(`epoch ${epoch} is acknowledged`)
  }
}

/** A state most of whose chunks change from checkpoint to checkpoint, so that older files become thin. */
function sourceAt(epoch: number): CheckpointSource {
  const bytes = new Uint8Array(CHUNKS * CHUNK)
  const changed = epoch === IDLE_EPOCH ? epoch - 1 : epoch
  for (let i = 0; i < CHUNKS; i++)
    bytes.set(framesOf(changed - ((changed + CHUNKS - i) % CHUNKS), 3000), i * CHUNK)
  return {
    header: { epoch, timestampMs: 1, digest: framesOf(epoch, 16), nextPageId: 3, extra: '{}' },
    pages: [{ id: 1, version: epoch, createdEpoch: 1, bytes: bytes.length, meta: framesOf(1, 40) }],
    read: (_, offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
  }
}

async function live(): Promise<void> {
  const store = await open()
  mark('the store is open')
  for (const epoch of [4, 9, 14, IDLE_EPOCH, 19, 24, 31]) {
    await append(store, epoch)
    await store.checkpoint(sourceAt(epoch))
    mark(`checkpoint ${epoch} is made`)
    await store.retain({ maxEpochs: 6 })
    mark('history was removed')
  }
  await store.close()
  mark('the store is closed')
}

async function openAgain(): Promise<void> {
  const lazy = await open({ fsync: 'interval' })
  mark('the store is open under interval')
  await lazy.close()
  mark('the store is closed again')
  const store = await open()
  mark('killed')
  await store.close()
  const next = await open()
  mark('the store is open after a process was killed')
  await append(next, 36)
  await next.close()
  const cursors = new CursorDb(dir)
  cursors.open()
  cursors.write([{ name: 'r', epoch: 1, definition: '{}', createdMs: 1, seenMs: 1 }], [])
  mark('a cursor is kept')
  cursors.close()
}

async function offline(): Promise<void> {
  const access = { disk, crc32c }
  const backup = path.join(root, 'elsewhere', 'backup')
  await backupFolder(access, dir, backup)
  mark('the backup is complete')
  await restoreFolder(access, backup, path.join(root, 'new', 'restored'))
  mark('the backup is restored')
  const folder = { dir, disk, crc32c }
  await cutFolder(folder, planCut(folder, 34))
  mark('the log is cut')
  damage(segmentBeforeEnd(1), SECOND_RECORD)
  await repairLog(folder, checkFolder(folder))
  mark('the log is repaired')
  const longer = await open()
  await append(longer, longer.newestEpoch + EPOCHS_OF_A_SEGMENT)
  await longer.close()
  damage(segmentBeforeEnd(2), SECOND_RECORD)
  await repairLog(folder, checkFolder(folder))
  mark('the log is repaired, and the segment behind it is gone')
  const store = await open()
  const newest = store.newestEpoch + 3
  await append(store, newest)
  await store.checkpoint(sourceAt(newest))
  await store.close()
  mark('the store is closed after a repair')
  const checkpoint = path.join(dir, 'checkpoints', checkpointName(newest))
  damage(segmentBeforeEnd(1), SECOND_RECORD)
  damage(checkpoint, fs.statSync(checkpoint).size / 2)
  await repairLog(folder, checkFolder(folder))
  mark('the log is repaired before its newest checkpoint')
}

/** The file of the newest segment, or of one before it. */
const segmentBeforeEnd = (back: number): string => {
  const names = fs.readdirSync(path.join(dir, 'log')).filter((name) => name.endsWith('.seg'))
  return path.join(dir, 'log', names.at(-back) as string)
}

/** Breaks some bytes of a file, durably. */
function damage(file: string, at: number): void {
  const fd = fs.openSync(file, 'r+')
  fs.writeSync(fd, framesOf(1, 64), 0, 64, at)
  fs.fsyncSync(fd)
  fs.closeSync(fd)
}

await live()
await openAgain()
await offline()
