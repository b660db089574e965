/**
 * The store's errors: classifies system and SQLite errors, and makes the two errors of the error table that
 * the store throws.
 */
import { MmsbError } from '../../errors.js'
import { UnusablePackage } from '../../installed-package.js'

export function systemCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}

export function isNoRoom(error: unknown): boolean {
  const code = systemCode(error)
  // EFBIG: the process may not write larger files (ulimit -f), which is a quota like any other.
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG' || code === 'SQLITE_FULL'
}

/**
 * SQLite's codes for a disk that is full, not writable or failing at the moment. The file itself may be
 * sound.
 */
const DISK_TROUBLE = /^SQLITE_(FULL|CANTOPEN|READONLY|BUSY|NOMEM|PERM|IOERR)/
/** Those of them that mean that the bytes cannot be read. */
const UNREADABLE = /^SQLITE_IOERR_(READ|SHORT_READ|CORRUPTFS|DATA)$/

/**
 * Whether an SQLite file could not be used for a reason outside the file. The file must then be left as it
 * is.
 */
export function isDiskTrouble(error: unknown): boolean {
  const code = systemCode(error)
  return DISK_TROUBLE.test(code) && !UNREADABLE.test(code)
}

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The store has stopped, or must not start; or the cause, if that is an addon that cannot be loaded. */
export function busFailed(detail: string, cause?: unknown): MmsbError {
  if (cause instanceof UnusablePackage) return cause
  return new MmsbError('BUS_FAILED', detail, undefined, cause === undefined ? undefined : { cause })
}

/** Another process has the folder. */
export function folderLocked(detail: string, cause?: unknown): MmsbError {
  return new MmsbError('FOLDER_LOCKED', detail, undefined, cause === undefined ? undefined : { cause })
}

export function logFull(detail: string, cause?: unknown): MmsbError {
  return new MmsbError('LOG_FULL', detail, undefined, cause === undefined ? undefined : { cause })
}
