/**
 * How the store names what went wrong: which system errors mean "no room", and the errors of the table it throws.
 */
import { MmsbError } from '../../errors.js'

export function systemCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}

export function isNoRoom(error: unknown): boolean {
  const code = systemCode(error)
  // EFBIG: the process may not write larger files (ulimit -f), which is a quota like any other.
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG' || code === 'SQLITE_FULL'
}

/** SQLite's codes for a disk that is full, not to be written or failing at the moment: the file itself may be sound. */
const DISK_TROUBLE = /^SQLITE_(FULL|CANTOPEN|READONLY|BUSY|NOMEM|PERM|IOERR)/
/** Of those, the ones that say that the bytes cannot be read. */
const UNREADABLE = /^SQLITE_IOERR_(READ|SHORT_READ|CORRUPTFS|DATA)$/

/** Whether an SQLite file could not be used for a reason that lies outside it. It must then be left as it is. */
export function isDiskTrouble(error: unknown): boolean {
  const code = systemCode(error)
  return DISK_TROUBLE.test(code) && !UNREADABLE.test(code)
}

export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The store has stopped, or must not start. */
export function busFailed(detail: string, cause?: unknown): MmsbError {
  return new MmsbError('BUS_FAILED', detail, undefined, cause === undefined ? undefined : { cause })
}

export function logFull(detail: string, cause?: unknown): MmsbError {
  return new MmsbError('LOG_FULL', detail, undefined, cause === undefined ? undefined : { cause })
}
