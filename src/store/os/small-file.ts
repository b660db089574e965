/**
 * Small files that say one thing: read whole, and replaced whole.
 *
 * Invariant: after a crash a file that was being replaced has its old content or its new one.
 */
import path from 'node:path'
import type { Disk } from './disk.js'

/** The content of an open file, at most `maxBytes` of it. */
export function readOpen(disk: Disk, fd: number, maxBytes: number): Buffer {
  const bytes = Buffer.alloc(Math.min(disk.sizeBytes(fd), maxBytes))
  return bytes.subarray(0, disk.readSync(fd, bytes, bytes.length, 0))
}

/** Writes a file that does not exist. Its content is durable on return, its name is not. */
export function writeSynced(disk: Disk, file: string, contentOf: (fd: number) => Uint8Array): void {
  const fd = disk.open(file, { create: true, write: true })
  try {
    disk.writeSync(fd, [contentOf(fd)], 0)
    disk.syncSync(fd)
  } finally {
    disk.close(fd)
  }
}

/** Writes a file beside, named `draft`, and gives it its name. Durable when the promise resolves. */
export async function replaceFile(
  disk: Disk,
  dir: string,
  { name, draft }: { readonly name: string; readonly draft: string },
  contentOf: (fd: number) => Uint8Array,
): Promise<void> {
  const file = path.join(dir, draft)
  disk.remove(file)
  writeSynced(disk, file, contentOf)
  disk.rename(file, path.join(dir, name))
  await disk.syncDir(dir)
}
