/**
 * Programs with which the files of deploy/ are tried: those that are installed, or that
 * scripts/deploy-tools.sh has unpacked. Without one a test is skipped and says so; in CI it fails.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { request } from 'node:https'
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

/** A file of the checkout. */
export const readText = (path: string): string => readFileSync(join(ROOT, path), 'utf8')

/** The status of GET /v1/status over TLS with a token; the error's code where there is no answer. */
export function askTls(port: number, ca: string, token: string): Promise<number | string> {
  return new Promise((resolve) => {
    const headers = { authorization: `Bearer ${token}` }
    request(
      { host: '127.0.0.1', port, path: '/v1/status', ca: readFileSync(ca), headers, agent: false },
      (response) => {
        response.resume().on('end', () => resolve(response.statusCode!))
      },
    )
      .on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
      .end()
  })
}
