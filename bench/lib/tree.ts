/**
 * The build that is measured: this checkout's, or another one's when two builds are compared
 * (bench/compare.ts). The code that measures is always this checkout's.
 */
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { type Server, type ServerOptions, startServer as start } from '../../examples/server.js'

export const TREE = process.env.MMSB_BENCH_TREE ?? fileURLToPath(new URL('../..', import.meta.url))

type Library = typeof import('../../src/index.js')

/**
 * The built library, as a user gets it; its types come from the sources, so that this compiles
 * before a build.
 */
export async function loadLibrary(): Promise<Library> {
  return (await import(pathToFileURL(join(TREE, 'dist/index.js')).href)) as Library
}

/** The built server. */
export function startServer(options: ServerOptions): Promise<Server> {
  return start({ ...options, entry: join(TREE, 'bin/mmsb.js') })
}
