/** A data folder made without a bus: small segments, small checkpoints, quickly filled. */
import fs from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { CheckpointTasks } from '../../../src/store/checkpoint/tasks.js'
import { firstEpochOf } from '../../../src/store/log/segment-file.js'
import { readSegmentHeader, SegmentScanner } from '../../../src/store/log/segment-reader.js'
import { type Disk, realDisk } from '../../../src/store/os/disk.js'
import type { Store } from '../../../src/store/store.js'
import { folder } from '../../lib/folder.js'
import { turn } from '../../lib/wait.js'
import { appendAll, crc32c, framesOf, openStore, scratch } from '../helpers.js'

/** The epochs of a small folder; each segment holds about five. */
export const EPOCHS = 30

export function openSmall(dir: string): Promise<Store> {
  const tasks = new CheckpointTasks(checkpointFolder(path.join(dir, 'checkpoints')))
  return openStore(dir, {
    segmentBytes: 8192,
    checkpointThread: () => ({ ask: (request) => tasks.handle(request), end: async () => {} }),
  })
}

/** Folders that were filled already, by their checkpoints. */
const filled = new Map<string, Promise<{ from: string; busId: string }>>()

async function fill(checkpoints: readonly number[]): Promise<{ from: string; busId: string }> {
  const from = scratch()
  const store = await openSmall(from)
  for (const epoch of new Set([...checkpoints, EPOCHS])) {
    await appendAll(store, store.newestEpoch + 1, epoch, 600)
    if (!checkpoints.includes(epoch)) continue
    await store.checkpoint({
      header: { epoch, timestampMs: 1, digest: framesOf(1, 16), nextPageId: 2, extra: '{}' },
      pages: [{ id: 1, version: epoch, createdEpoch: 1, bytes: 90, meta: framesOf(2, 40) }],
      read: (_, offset, into) => into.set(framesOf(epoch, 90).subarray(offset, offset + into.length)),
    })
  }
  await store.close()
  return { from, busId: store.busId }
}

/** `data` in a temporary folder, with checkpoints of these epochs. */
export async function smallFolder(
  t: Test,
  checkpoints: readonly number[] = [],
): Promise<{ place: string; dir: string; busId: string }> {
  const made = filled.get(checkpoints.join()) ?? fill(checkpoints)
  filled.set(checkpoints.join(), made)
  const { from, busId } = await made
  const place = folder(t)
  const dir = path.join(place, 'data')
  fs.cpSync(from, dir, { recursive: true })
  return { place, dir, busId }
}

/** The segments of a folder, oldest first: file and first epoch. */
export const segmentsOf = (dir: string): { file: string; first: number }[] =>
  fs
    .readdirSync(path.join(dir, 'log'))
    .sort()
    .map((name) => ({ file: path.join(dir, 'log', name), first: firstEpochOf(name) ?? 0 }))

/** Where the record of an epoch lies. */
export function recordAt(dir: string, epoch: number): { file: string; offset: number } {
  const { file } = segmentsOf(dir).findLast(({ first }) => first <= epoch)!
  const disk = realDisk()
  const fd = disk.open(file, {})
  try {
    const header = readSegmentHeader(disk, fd, crc32c)
    if (typeof header === 'string') throw new Error(header)
    const offset = new SegmentScanner(disk, fd, disk.sizeBytes(fd), header, crc32c).find(epoch)
    if (offset === undefined) throw new Error(`no record of epoch ${epoch}`)
    return { file, offset }
  } finally {
    disk.close(fd)
  }
}

/** Flips a bit. */
export function flip(file: string, at: number): void {
  const fd = fs.openSync(file, 'r+')
  const byte = Buffer.alloc(1)
  fs.readSync(fd, byte, 0, 1, at)
  byte[0] = (byte[0] as number) ^ 8
  fs.writeSync(fd, byte, 0, 1, at)
  fs.closeSync(fd)
}

/** Breaks the body of the record of each epoch. */
export function breakRecords(dir: string, ...epochs: number[]): void {
  const places = epochs.map((epoch) => recordAt(dir, epoch))
  for (const { file, offset } of places) flip(file, offset + 100)
}

/** The disk of this machine, which says what it did to names, and what of it has ended. */
export function tellingDisk(said: string[], look: (dir: string) => string = () => ''): Disk {
  const real = realDisk()
  return {
    ...real,
    syncDir: async (dir) => {
      await turn()
      await real.syncDir(dir)
      said.push(`sync ${path.basename(dir)}${look(dir)}`)
    },
    remove: (file) => {
      if (fs.existsSync(file)) said.push(`remove ${path.basename(file)}`)
      real.remove(file)
    },
    rename: (from, to) => {
      said.push(`${path.basename(from)} to ${path.basename(path.dirname(to))}/${path.basename(to)}`)
      real.rename(from, to)
    },
  }
}
