/**
 * Programs with which the files of deploy/ are tried: those that are installed, or that
 * scripts/deploy-tools.sh has unpacked. Without one a test is skipped and says so; in CI it fails.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'

/** Where a program is; its bare name if it is not found. */
export function programOf(name: string): string {
  const places = [...(process.env.PATH ?? '').split(':'), `${ROOT}build/deploy-tools`]
  return places.map((place) => join(place, name)).find((path) => existsSync(path)) ?? name
}

/** For the option `skip` of a test that needs these programs. */
export function skipWithout(...names: readonly string[]): string | false {
  const missing = names.filter((name) => programOf(name) === name)
  if (missing.length === 0 || process.env.CI !== undefined) return false
  return `skipped: no ${missing.join(', ')}; scripts/deploy-tools.sh unpacks them`
}

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program until it ends, in the folder of the checkout. */
export function runProgram(name: string, ...args: readonly string[]): Ran {
  const { status, stdout, stderr, error } = spawnSync(programOf(name), args, {
    cwd: ROOT,
    encoding: 'utf8',
    env: plainEnvironment(),
  })
  return { code: status ?? -1, stdout, stderr: error === undefined ? stderr : error.message }
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** A file of the checkout. */
export const readText = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
