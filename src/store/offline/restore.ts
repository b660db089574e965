/**
 * Restores a backup as a data folder.
 *
 * Invariants: only files that the backup lists are read (in format 1: files named as they are), none of them
 * through a link, and each must have the size and hash of the list. They are written into a draft inside the
 * folder; the log gets its place last, so a folder with a draft and no log is an interrupted restore, which
 * no store opens and the next restore removes. Nothing of the source's history file is taken: the restored
 * folder begins a new generation.
 */
import fs from 'node:fs'
import path from 'node:path'
import { inspectLog } from '../log/log.js'
import { type Disk, makeDurableDirs } from '../os/disk.js'
import { busFailed } from '../os/errors.js'
import { PARTS } from '../os/lock.js'
import { PRIVATE_FOLDER } from '../os/private-files.js'
import type { BackupAccess } from './backup.js'
import { copyFile } from './copy-file.js'
import { type BackupFile, type BackupInfo, isBackupPath, readManifest, requirePlain } from './manifest.js'

const RESTORE_DRAFT_NAME = 'restore.tmp'

/** Whether the folder holds a restore that did not end. */
export const interruptedRestore = (disk: Disk, dir: string): boolean =>
  disk.exists(path.join(dir, RESTORE_DRAFT_NAME)) && !disk.exists(path.join(dir, 'log'))

/** `to` must be empty or missing, or hold an interrupted restore. Throws BUS_FAILED. */
export async function restoreFolder(access: BackupAccess, from: string, to: string): Promise<BackupInfo> {
  const info = readManifest(from)
  for (const part of PARTS) {
    if (!fs.lstatSync(path.join(from, part), { throwIfNoEntry: false })?.isDirectory())
      throw busFailed(`${from} is not a complete backup: ${part} is not a folder`)
  }
  const files = info.files ?? filesOf(from)
  for (const file of files) refuseOtherSize(from, file)
  const wasThere = fs.existsSync(to)
  clearDraft(to)
  const draft = path.join(to, RESTORE_DRAFT_NAME)
  try {
    await makeDurableDirs(access.disk, draft, PARTS)
    for (const file of files) copyChecked(access, from, draft, file)
    refuseUnsound(access, from, draft, info)
    for (const part of PARTS) await access.disk.syncDir(path.join(draft, part))
  } catch (error) {
    fs.rmSync(wasThere ? draft : to, { recursive: true, force: true })
    throw error
  }
  for (const part of PARTS) {
    fs.renameSync(path.join(draft, part), path.join(to, part))
    await access.disk.syncDir(to)
  }
  fs.rmdirSync(draft)
  fs.chmodSync(to, wasThere ? fs.statSync(to).mode : PRIVATE_FOLDER)
  await access.disk.syncDir(to)
  return info
}

/** The files of a backup of format 1. */
function filesOf(from: string): Partial<BackupFile>[] {
  return PARTS.flatMap((part) => fs.readdirSync(path.join(from, part)).map((name) => `${part}/${name}`))
    .filter(isBackupPath)
    .map((file) => ({ path: file }))
}

function refuseOtherSize(from: string, { path: name = '', bytes }: Partial<BackupFile>): void {
  const file = path.join(from, name)
  if (!fs.lstatSync(file, { throwIfNoEntry: false }))
    throw busFailed(`${from} is not complete: ${name} is missing`)
  const size = requirePlain(file)
  if (bytes !== undefined && size !== bytes) throw busFailed(`${file} has ${size} bytes, not ${bytes}`)
}

function copyChecked(
  { onCopied }: BackupAccess,
  from: string,
  draft: string,
  { path: name = '', bytes, sha256 }: Partial<BackupFile>,
): void {
  const copied = copyFile(path.join(from, name), path.join(draft, name), undefined, onCopied)
  if (sha256 === undefined || (copied.sha256 === sha256 && copied.bytes === bytes)) return
  throw busFailed(`${path.join(from, name)} is damaged: its hash is not the one in backup.json`)
}

function refuseUnsound(access: BackupAccess, from: string, draft: string, info: BackupInfo): void {
  const found = inspectLog({ ...access, logDir: path.join(draft, 'log') }, () => {})
  if (found.damage === undefined && found.newestEpoch === info.epoch && found.busId === info.busId) return
  const why =
    found.damage ?? `its log ends at epoch ${found.newestEpoch}, not ${info.epoch}, or is of another bus`
  throw busFailed(`${from} is not sound: ${why}`)
}

/** Removes what an interrupted restore left. */
function clearDraft(to: string): void {
  const names = fs.existsSync(to) ? fs.readdirSync(to) : []
  const isInterrupted = names.includes(RESTORE_DRAFT_NAME) && !names.includes('log')
  const own = isInterrupted ? [RESTORE_DRAFT_NAME, 'checkpoints'] : []
  if (names.some((name) => !own.includes(name))) throw busFailed(`${to} is not empty`)
  for (const name of own) fs.rmSync(path.join(to, name), { recursive: true, force: true })
}
