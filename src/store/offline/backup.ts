/**
 * Backups: copies log and checkpoints of a data folder, while a server writes to it or not. The catalog is
 * left out, since it can be rebuilt.
 *
 * Invariants: the source is only read, without a lock, because the log only grows and checkpoints never
 * change. The copy ends with the last sound record that was there when the log was inspected, so a record
 * that is just being written is not in it. A complete copy has a file that says so, made durable last; only a
 * complete copy is restored.
 */
import fs from 'node:fs'
import path from 'node:path'
import { isSoundCheckpoint } from '../checkpoint/file-reader.js'
import { checkpointEpochs, checkpointFolder, epochOfStem, stemOf } from '../checkpoint/folder.js'
import { CHECKPOINT_FILE } from '../checkpoint/format.js'
import { inspectLog, type LogFindings } from '../log/log.js'
import { type Disk, makeDurableDirs } from '../os/disk.js'
import { busFailed } from '../os/errors.js'
import { PARTS } from '../os/lock.js'
import { PRIVATE_FILE } from '../os/private-files.js'
import type { Crc32c } from '../types.js'
import { copyFile, type OnCopied } from './copy-file.js'
import { type BackupFile, type BackupInfo, MANIFEST_NAME } from './manifest.js'

/** How often a folder that changes meanwhile is listed again. */
const TRIES = 5

export interface BackupAccess {
  readonly disk: Disk
  readonly crc32c: Crc32c
  readonly onCopied?: OnCopied
}

/** Copies the data folder `from` into the folder `to`, which must be empty or missing. Throws BUS_FAILED. */
export async function backupFolder(access: BackupAccess, from: string, to: string): Promise<BackupInfo> {
  const log = inspectWritten(access, from)
  const first = log.segments[0]?.header.firstEpoch ?? 1
  await begin(access, to)
  const files = copyCheckpoints(access, from, to, log.newestEpoch)
  for (const { file, end } of log.segments) {
    const name = `log/${path.basename(file)}`
    files.push({ path: name, ...copyFile(file, path.join(to, name), end, access.onCopied) })
  }
  const copies = checkpointFolder(path.join(to, 'checkpoints'))
  const checkpoints = checkpointEpochs(copies).reverse()
  const sound = checkpoints.filter((epoch) => isSoundCheckpoint(copies, epoch, log.busId))
  if (first > 1 && !sound.some((epoch) => epoch >= first - 1)) {
    throw busFailed(`the log begins at epoch ${first}, and no sound checkpoint reaches it`)
  }
  const copied = inspectLog({ ...access, logDir: path.join(to, 'log') }, () => {})
  if (copied.damage !== undefined || copied.newestEpoch !== log.newestEpoch) {
    throw busFailed(
      `the copy in ${to} is not sound: ${copied.damage ?? `it ends at epoch ${copied.newestEpoch}`}`,
    )
  }
  const info: BackupInfo = {
    format: 2,
    busId: log.busId ?? '',
    epoch: log.newestEpoch,
    checkpoints,
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    files,
  }
  await complete(access, to, info)
  return info
}

/**
 * Copies the files of checkpoints up to `newestEpoch` and those they refer to. The server may retire or
 * remove files meanwhile, so the folder is listed again until nothing new appears.
 */
function copyCheckpoints(
  { onCopied }: BackupAccess,
  from: string,
  to: string,
  newestEpoch: number,
): BackupFile[] {
  const dir = path.join(from, 'checkpoints')
  const done = new Set<string>()
  const files: BackupFile[] = []
  for (let tries = 0; tries < TRIES; tries++) {
    const names = checkpointFolder(dir)
      .list()
      .filter((name) => CHECKPOINT_FILE.test(name) && epochOfStem(stemOf(name)) <= newestEpoch)
    const missing = names.filter((name) => !done.has(stemOf(name)))
    if (missing.length === 0) break
    for (const name of missing) {
      if (!fs.existsSync(path.join(dir, name))) continue
      const file = `checkpoints/${name}`
      files.push({ path: file, ...copyFile(path.join(dir, name), path.join(to, file), undefined, onCopied) })
      done.add(stemOf(name))
    }
  }
  return files
}

/**
 * Inspects a log that may be being written. A half-written record with another behind it looks like damage:
 * try again.
 */
function inspectWritten({ disk, crc32c }: BackupAccess, dir: string): LogFindings {
  const logDir = path.join(dir, 'log')
  let damage = 'there is no log'
  for (let tries = 0; tries < TRIES; tries++) {
    const found = inspectLog({ disk, logDir, crc32c }, () => {})
    if (found.damage === undefined && found.segments.length > 0) return found
    damage = found.damage ?? damage
  }
  throw busFailed(`${dir} cannot be copied: ${damage}`)
}

async function begin({ disk }: BackupAccess, to: string): Promise<void> {
  if (fs.existsSync(to) && fs.readdirSync(to).length > 0) throw busFailed(`${to} is not empty`)
  await makeDurableDirs(disk, to, PARTS)
}

async function complete({ disk }: BackupAccess, to: string, info: BackupInfo): Promise<void> {
  for (const part of PARTS) await disk.syncDir(path.join(to, part))
  const file = path.join(to, MANIFEST_NAME)
  fs.writeFileSync(file, `${JSON.stringify(info)}\n`, { flag: 'wx', flush: true, mode: PRIVATE_FILE })
  await disk.syncDir(to)
}
