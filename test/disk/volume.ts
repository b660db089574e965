/** A small disk for one test: a tmpfs, mounted where the machine permits it and removed with the test. */
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
  /** Remounts it with other options: `size=16m`, `ro`, `rw`. False when the system refuses. */
  remount(options: string): boolean
  /** Uses up all free space. */
  fill(): void
  /** Frees what `fill` used. */
  free(): void
}

function mount(...args: string[]): string | null {
  const { error, status, stderr } = spawnSync('mount', args, { encoding: 'utf8' })
  if (error !== undefined) return error.message
  return status === 0 ? null : stderr.trim()
}

/**
 * A disk of this many bytes, or why there is none. Servers that use it must be ended by a teardown registered
 * after this call.
 */
export function smallVolume(t: Test, sizeBytes: number): Volume | string {
  const dir = mkdtempSync(join(tmpdir(), 'mmsb-volume-'))
  const refusal = mount('-t', 'tmpfs', '-o', `size=${sizeBytes},mode=755`, 'tmpfs', dir)
  if (refusal !== null) {
    rmdirSync(dir)
    return `no tmpfs can be mounted here: ${refusal}`
  }
  t.teardown(() => {
    // Lazily, because a process that is just ending may still have files open.
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
