/**
 * Runs the steps of a Dockerfile without docker: each stage becomes a shell script for a folder that is the
 * root of its file system. Knows the instructions that deploy/docker/Dockerfile uses, and refuses others.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../lib/place.js'

export interface Step {
  readonly name: string
  readonly text: string
}

export interface Stage {
  readonly name: string
  /** An image, or another stage. */
  readonly from: string
  readonly steps: readonly Step[]
}

/** Environment, user and command of a container. */
export interface ContainerConfig {
  readonly env: Readonly<Record<string, string>>
  readonly user: string
  readonly workdir: string
  readonly entrypoint: readonly string[]
  readonly cmd: readonly string[]
  readonly healthcheck: readonly string[]
  readonly volumes: readonly string[]
}

const expanded = (text: string, args: ReadonlyMap<string, string>): string =>
  text.replaceAll(/\$\{(\w+)\}/g, (_all, name: string) => {
    const value = args.get(name)
    if (value === undefined) throw new Error(`\${${name}} has no value`)
    return value
  })

/** Instructions, one each: without comments, and with continued lines joined. */
function stepsOf(text: string): Step[] {
  const lines = text.split('\n').filter((line) => !/^\s*(#|$)/.test(line))
  const joined = lines.join('\n').replaceAll(/\\\n\s*/g, '')
  return joined.split('\n').map((line) => {
    const [, name, rest] = /^([A-Z]+) (.*)$/.exec(line) ?? []
    if (name === undefined) throw new Error(`no instruction: ${line}`)
    return { name, text: rest! }
  })
}

/** The stages of a Dockerfile with these build arguments. The last one is the image. */
export function stagesOf(path: string, given: Readonly<Record<string, string>> = {}): Stage[] {
  const globals = new Map<string, string>()
  const stages: { name: string; from: string; steps: Step[] }[] = []
  let args = globals
  for (const { name, text } of stepsOf(readFileSync(join(ROOT, path), 'utf8'))) {
    const last = stages.at(-1)
    if (name === 'ARG') {
      const [key, standard] = text.split('=') as [string, string | undefined]
      const value = given[key] ?? standard ?? globals.get(key)
      if (value !== undefined) args.set(key, value)
    } else if (name === 'FROM') {
      const [, from, as] = /^(\S+)(?: AS (\S+))?$/.exec(expanded(text, globals)) ?? []
      args = new Map()
      stages.push({ name: as ?? '', from: from!, steps: [] })
    } else if (last === undefined) throw new Error(`${name} stands before FROM`)
    // A shell and the environment of the container fill in what RUN has.
    else last.steps.push({ name, text: name === 'RUN' ? fillRun(text, args) : expanded(text, args) })
  }
  return stages
}

const fillRun = (text: string, args: ReadonlyMap<string, string>): string =>
  [...args].reduce((filled, [name, value]) => filled.replaceAll(`\${${name}}`, value), text)

export const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/** A list in JSON, or a command for a shell. */
const listOf = (text: string): string[] =>
  text.startsWith('[') ? (JSON.parse(text) as string[]) : ['/bin/sh', '-c', text]

export interface ScriptOptions {
  /** The folder that is the root of the container. */
  readonly root: string
  /** Where the files of a stage, or of the context, are. */
  sourceOf(stage: string | undefined, path: string): string
  /** For RUN alone, beside what the Dockerfile sets. */
  readonly runEnv?: Readonly<Record<string, string>>
}

/** A shell script that carries out a stage, and what its containers begin with. */
export function scriptOf(stage: Stage, options: ScriptOptions): { script: string; config: ContainerConfig } {
  const { root, sourceOf, runEnv = {} } = options
  const lines: string[] = []
  const config = {
    env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' } as Record<string, string>,
    user: '0:0',
    workdir: '/',
    entrypoint: [] as string[],
    cmd: [] as string[],
    healthcheck: [] as string[],
    volumes: [] as string[],
  }
  for (const { name, text } of stage.steps) {
    switch (name) {
      case 'WORKDIR':
        config.workdir = text
        lines.push(`mkdir -p ${quoted(root + text)}`)
        break
      case 'COPY':
        lines.push(...copyOf(text, config.workdir, root, sourceOf))
        break
      case 'RUN':
        lines.push(inRoot(root, { ...config, env: { ...config.env, ...runEnv } }, ['/bin/sh', '-c', text]))
        break
      case 'ENV': {
        const [, key, value] = /^(\w+)=(\S*)$/.exec(text) ?? []
        if (key === undefined) throw new Error(`ENV ${text}`)
        config.env[key] = value!
        break
      }
      case 'USER':
        config.user = text
        break
      case 'ENTRYPOINT':
        config.entrypoint = listOf(text)
        break
      case 'CMD':
        config.cmd = listOf(text)
        break
      case 'HEALTHCHECK':
        config.healthcheck = listOf(/ CMD (.*)$/.exec(text)![1]!)
        break
      case 'VOLUME':
        config.volumes.push(text)
        break
      case 'EXPOSE':
        break
      default:
        throw new Error(`${name} is not known here`)
    }
  }
  return { script: lines.join('\n'), config }
}

function copyOf(text: string, workdir: string, root: string, sourceOf: ScriptOptions['sourceOf']): string[] {
  const [, stage, rest] = /^(?:--from=(\S+) )?(.*)$/.exec(text)!
  const paths = rest!.split(' ')
  const target = paths.pop()!
  const place = root + (target.startsWith('/') ? target : join(workdir, target))
  return paths.map((path) => {
    const from = quoted(sourceOf(stage, path))
    const to = quoted(place)
    if (target.endsWith('/')) return `mkdir -p ${to} && cp -a ${from} ${to}`
    // Of a folder, docker copies what is in it.
    return `if [ -d ${from} ]; then mkdir -p ${to} && cp -a ${from}/. ${to}; else install -D -m "$(stat -c %a ${from})" ${from} ${to}; fi`
  })
}

/** A command in the container, as a line of a script. Root's powers are gone unless it runs as root. */
export function inRoot(
  root: string,
  { env, user, workdir }: Pick<ContainerConfig, 'env' | 'user' | 'workdir'>,
  command: readonly string[],
): string {
  const [uid, gid] = user.split(':') as [string, string]
  const drop =
    user === '0:0'
      ? ''
      : `setpriv --reuid=${uid} --regid=${gid} --clear-groups --no-new-privs --bounding-set=-all `
  const vars = Object.entries(env).map(([name, value]) => quoted(`${name}=${value}`))
  const inner = `cd ${quoted(workdir)} && exec ${drop}"$@"`
  return [
    'env',
    '-i',
    ...vars,
    'chroot',
    quoted(root),
    '/bin/sh',
    '-c',
    quoted(inner),
    'sh',
    ...command.map(quoted),
  ].join(' ')
}
