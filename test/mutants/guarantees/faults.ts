/** Finds a fault by its name and plants it in a copy of the tree. */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../lib/place.js'
import { FAULTS, FAULTS_OF_ONE_BUILD } from '../native/faults.js'
import { nameOf, replaced } from '../native/plant.js'
import type { Tree } from '../tree.js'
import { plantIn, sourceOf } from '../typescript/judge.js'
import { mutantsOf } from '../typescript/mutations.js'

const NATIVE = 'src/kernels/native'

const found = new Map<string, ReturnType<typeof mutantsOf>>()

/** Puts the fault in its place; undefined if the sources have no such place. */
export function planterOf(name: string): ((tree: Tree) => void) | undefined {
  const path = /^(src\/[\w./-]+\.ts)#/.exec(name)?.[1]
  if (path === undefined) return nativePlanterOf(name)
  if (!existsSync(join(ROOT, path))) return undefined
  const mutants = found.get(path) ?? mutantsOf(path, sourceOf(path))
  found.set(path, mutants)
  const mutant = mutants.find(({ id }) => id === name)
  return mutant === undefined ? undefined : (tree) => plantIn(tree, mutant)
}

function nativePlanterOf(name: string): ((tree: Tree) => void) | undefined {
  const fault = [...FAULTS, ...FAULTS_OF_ONE_BUILD].find((fault) => nameOf(fault) === name)
  if (fault === undefined) return undefined
  const path = join(NATIVE, fault.file)
  return (tree) => tree.change(path, replaced(readFileSync(join(ROOT, path), 'utf8'), fault))
}

export const isNative = (name: string): boolean => !name.startsWith('src/')

const LIBRARY = 'build/libmmsb.so'

/** Builds the native library of the copy as its sources are now: about a minute. */
export function buildLibrary(tree: Tree): void {
  const make = ['-s', 'NVCC=', 'native-parts']
  execFileSync('make', make, { cwd: tree.folder, stdio: ['ignore', 'inherit', 'inherit'] })
}

/** Puts the library without faults into the copy again. */
export function restoreLibrary(tree: Tree): void {
  cpSync(join(ROOT, LIBRARY), join(tree.folder, LIBRARY))
}
