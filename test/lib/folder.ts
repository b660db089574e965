/** A temporary folder for one test, removed when the test ends; and which files of it were never closed. */
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

export function folder(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'mmsb-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/**
 * The files that this process has open and whose path contains the text. Those that are open twice are
 * listed twice.
 */
export function openFilesIn(text: string): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const file = readlinkSync(`/proc/self/fd/${fd}`)
      return file.includes(text) ? [file] : []
    } catch {
      // The descriptor that listed the folder is closed by now.
      return []
    }
  })
}
