/**
 * Modes of what the store creates: files and folders that only their owner can read. Pages may hold what
 * other users of the machine must not see.
 */
import fs from 'node:fs'

export const PRIVATE_FILE = 0o600
export const PRIVATE_FOLDER = 0o700
/** Bits that let somebody else than the owner in. */
const OTHERS = 0o077

/**
 * Creates an empty file for its owner alone; one that exists stays as it is and is not opened. For SQLite,
 * which would let everybody read the files that it creates itself.
 */
export function createPrivate(file: string): void {
  try {
    fs.closeSync(fs.openSync(file, 'wx', PRIVATE_FILE))
  } catch (error) {
    // SQLite opens the file next. It says what is wrong, if anything is.
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return
  }
}

/** A sentence about a folder that other users can enter; undefined when they cannot. */
export function opennessOf(dir: string): string | undefined {
  const { mode } = fs.statSync(dir)
  if ((mode & OTHERS) === 0) return undefined
  return `other users of this machine can enter ${dir} (mode ${(mode & 0o777).toString(8)}); chmod 700 keeps them out`
}
