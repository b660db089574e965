/** Files with secrets. */
import fs from 'node:fs'
import { MmsbError } from '../errors.js'

/** Bits that let somebody else than the owner read or write. */
const OTHERS = 0o077
/** The same, but the group may read. */
const OTHERS_THAN_GROUP = 0o037
const SUPERUSER = 0

/** The text of a file that only this server and root can read. @throws MmsbError INVALID_REQUEST */
export function readPrivate(file: string): string {
  let fd: number
  try {
    fd = fs.openSync(file, 'r')
  } catch (error) {
    throw unusable(file, `cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  try {
    const stats = fs.fstatSync(fd)
    if (isPrivate(stats, process.geteuid?.())) return fs.readFileSync(fd, 'utf8')
    throw unusable(file, `can be read by others (mode ${(stats.mode & 0o777).toString(8)}); use chmod 600`)
  } finally {
    fs.closeSync(fd)
  }
}

/** The text of a file that anybody may read. @throws MmsbError INVALID_REQUEST */
export function readPublic(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (error) {
    throw unusable(file, `cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
}

/**
 * A file of the user itself, for it alone; or one that root gave to the user by its group or an access
 * list, which shows in the bits of the group: Secrets of Kubernetes and credentials of systemd. PostgreSQL
 * has the same rule.
 */
export function isPrivate({ mode, uid }: Pick<fs.Stats, 'mode' | 'uid'>, user: number | undefined): boolean {
  const isLent = uid === SUPERUSER && user !== SUPERUSER
  return (mode & (isLent ? OTHERS_THAN_GROUP : OTHERS)) === 0
}

/** The error for a file that cannot be used; `what` says what is wrong with it. */
export const unusable = (file: string, what: string): MmsbError =>
  new MmsbError('INVALID_REQUEST', `${file} ${what}`)
