/**
 * backup.json: what a backup holds ("Backup" in docs/internals/FORMAT.md). Format 2 lists every file with its
 * size and hash; backups of format 1 have no list.
 *
 * Invariants: a path of the list is the name of a log segment or a checkpoint file and nothing else, so a
 * backup cannot make a restore write elsewhere. Anything else in backup.json is refused, in words.
 * Null because JSON has it.
 */
import fs from 'node:fs'
import path from 'node:path'
import { busFailed, textOf } from '../os/errors.js'

export const MANIFEST_NAME = 'backup.json'
const FILE_PATTERN = /^(log\/\d{20}\.seg|checkpoints\/\d{20}\.(db|old))$/
const HASH_PATTERN = /^[0-9a-f]{64}$/
const BUS_PATTERN = /^[0-9a-f]{32}$/

export interface BackupFile {
  /** Below the folder, with `/`. */
  readonly path: string
  readonly bytes: number
  /** 64 hexadecimal digits. */
  readonly sha256: string
}

export interface BackupInfo {
  readonly format: 1 | 2
  readonly busId: string
  /** The newest epoch in the copy. */
  readonly epoch: number
  readonly checkpoints: readonly number[]
  readonly bytes: number
  /** Absent in format 1. */
  readonly files?: readonly BackupFile[]
}

/** Whether a file with this path below the folder belongs to a backup. */
export const isBackupPath = (file: string): boolean => FILE_PATTERN.test(file)

/** Throws BUS_FAILED when the folder is no complete backup that this release knows. */
export function readManifest(dir: string): BackupInfo {
  const file = path.join(dir, MANIFEST_NAME)
  let info: Partial<BackupInfo>
  try {
    requirePlain(file)
    info = JSON.parse(fs.readFileSync(file, 'utf8')) as Partial<BackupInfo>
  } catch (error) {
    throw busFailed(`${dir} is not a complete backup: ${textOf(error)}`, error)
  }
  if (typeof info !== 'object' || info === null || (info.format !== 1 && info.format !== 2))
    throw busFailed(`${dir} is a backup in a format that this release does not know`)
  const why = faultOf(info)
  if (why !== undefined) throw busFailed(`${file} is damaged: ${why}`)
  return info as BackupInfo
}

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0

function faultOf({ format, busId, epoch, bytes, files }: Partial<BackupInfo>): string | undefined {
  if (typeof busId !== 'string' || !BUS_PATTERN.test(busId)) return 'it names no bus'
  if (!isCount(epoch) || !isCount(bytes)) return 'its epoch or its size is no number'
  if (format === 1) return undefined
  if (!Array.isArray(files)) return 'it lists no files'
  const seen = new Set<string>()
  let sum = 0
  for (const file of files as readonly (Partial<BackupFile> | null)[]) {
    const { path: name, bytes: size, sha256 } = file ?? {}
    if (typeof name !== 'string' || !isBackupPath(name))
      return `${JSON.stringify(name)} is no file of a backup`
    if (seen.has(name)) return `it lists ${name} twice`
    if (!isCount(size) || typeof sha256 !== 'string' || !HASH_PATTERN.test(sha256))
      return `the size or the hash of ${name} is missing`
    seen.add(name)
    sum += size as number
  }
  return sum === bytes ? undefined : `its files have ${sum} bytes, not ${bytes}`
}

/** Size of a file. Throws unless it is a plain file: no link, no folder, no device. */
export function requirePlain(file: string): number {
  const stat = fs.lstatSync(file)
  if (!stat.isFile()) throw busFailed(`${file} is not a plain file`)
  return stat.size
}
