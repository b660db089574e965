/** Files with secrets. */
import fs from 'node:fs'
import { MmsbError } from '../errors.js'

/** Bits that let somebody else than the owner read or write. */
const OTHERS = 0o077

/** The text of a file that only its owner can read. @throws MmsbError INVALID_REQUEST */
export function readPrivate(file: string): string {
  let fd: number
  try {
    fd = fs.openSync(file, 'r')
  } catch (error) {
    throw unusable(file, `cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  try {
    const { mode } = fs.fstatSync(fd)
    if ((mode & OTHERS) === 0) return fs.readFileSync(fd, 'utf8')
    throw unusable(file, `can be read by others (mode ${(mode & 0o777).toString(8)}); use chmod 600`)
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

/** The error for a file that cannot be used; `what` says what is wrong with it. */
export const unusable = (file: string, what: string): MmsbError =>
  new MmsbError('INVALID_REQUEST', `${file} ${what}`)
