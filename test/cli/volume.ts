/** A small disk of its own for a test: a tmpfs, mounted where the machine lets us, and gone with the test. */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  rmdirSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

const FILLER = 'filler'

export interface Volume {
  readonly dir: string
  /** Mounts it again with other options: `size=16m`, `ro`, `rw`. False when the system refuses. */
  remount(options: string): boolean
  /** Takes every byte there is. */
  fill(): void
  /** Gives back what `fill` took. */
  free(): void
}

function mount(...args: string[]): string | null {
  const { error, status, stderr } = spawnSync('mount', args, { encoding: 'utf8' })
  if (error !== undefined) return error.message
  return status === 0 ? null : stderr.trim()
}

/**
 * A disk of so many bytes, or why there is none. Servers on it must be ended by a teardown set later than
 * this.
 */
export function smallVolume(t: Test, sizeBytes: number): Volume | string {
  const dir = mkdtempSync(join(tmpdir(), 'mmsb-volume-'))
  const refusal = mount('-t', 'tmpfs', '-o', `size=${sizeBytes},mode=755`, 'tmpfs', dir)
  if (refusal !== null) {
    rmdirSync(dir)
    return `no tmpfs can be mounted here: ${refusal}`
  }
  t.teardown(() => {
    // Lazily: what a process that is just ending has open is no reason to leave it behind.
    spawnSync('umount', ['-l', dir])
    rmdirSync(dir)
  })
  return {
    dir,
    remount: (options) => mount('-o', `remount,${options}`, dir) === null,
    fill: () => fill(dir),
    free: () => rmSync(join(dir, FILLER)),
  }
}

function fill(dir: string): void {
  const file = join(dir, FILLER)
  const fd = openSync(file, 'a')
  const block = Buffer.alloc(4096, 1)
  try {
    while (statfsSync(dir).bavail > 0) writeSync(fd, block)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
