/**
 * Libraries that a test loads into a process before the system's own (LD_PRELOAD), to see or break its calls.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../lib/place.js'

const BUILD = join(ROOT, 'build/test')

/** Builds `NAME.cpp` of this folder. Returns the path of the library. */
export function builtLibrary(name: string): string {
  mkdirSync(BUILD, { recursive: true })
  const library = join(BUILD, `${name}.so`)
  const building = `${library}.${process.pid}`
  execFileSync('g++', ['-O1', '-shared', '-fPIC', join(ROOT, `test/disk/${name}.cpp`), '-o', building])
  renameSync(building, library)
  return library
}
