/**
 * Flags of a command: one table defines what is parsed, what the help says and which environment variables
 * count.
 *
 * Invariants: an unknown flag is an error, never ignored; of a flag that is given twice the last value
 * counts, or all if it is a list. A flag wins over its environment variable; an error names the flag or
 * variable that held the bad value. Nothing here reads the process or writes to it, but for `flagsOrHelp`.
 */
import { isIP, isIPv6 } from 'node:net'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'

export interface Flag {
  /** Placeholder for the value in the help; absent for a switch. */
  readonly value?: string
  readonly help: string
  /** Environment variable that holds the value where the flag is not given. */
  readonly env?: string
  /** The default, as the help shows it; the command applies it. */
  readonly standard?: string
  /** Its values are separated by commas, and those of a flag that is given again are added. */
  readonly isList?: boolean
  /** The values that it takes; for completion. */
  readonly choices?: readonly string[]
  /** It asks for one run alone, or is about the command line itself: a configuration file cannot have it. */
  readonly isOnlyFlag?: true
}

export type FlagTable = Readonly<Record<string, Flag>>

/** What `--help` shows of a command, and what completion in a shell offers. */
export interface CommandHelp {
  /** The forms of the command, one per line, and what else to say before the flags. */
  readonly usage: string
  readonly flags: FlagTable
  /** Command lines to copy, each with what it does. */
  readonly examples: readonly (readonly [line: string, what: string])[]
  /** What follows the name of the command, such as `check` of `mmsb log check`. */
  readonly verbs?: readonly string[]
  /** What the operands are, for completion: nothing is offered unless they are files or folders. */
  readonly operands?: 'files' | 'folders'
}

const DEFAULT_DATA_DIR = './data'

export const HELP_FLAG: Flag = { help: 'print this help', isOnlyFlag: true }

export const JSON_FLAG: Flag = { help: 'print JSON, one value per line' }

export const DATA_DIR_FLAG: Flag = {
  value: 'DIR',
  help: 'folder that holds the log and the checkpoints',
  env: 'MMSB_DATA_DIR',
  standard: DEFAULT_DATA_DIR,
}

/** The command line, or the value of a flag or environment variable, is wrong: exit code 2. */
export class UsageError extends Error {}

/** The command cannot do its work: exit code 1. */
export class StartError extends Error {}

/** A value and where it came from: `--port` or `MMSB_PORT`. */
export interface Given {
  readonly text: string
  readonly from: string
}

export interface ParsedFlags {
  readonly values: ReadonlyMap<string, Given>
  readonly switches: ReadonlySet<string>
}

/** @throws UsageError */
export function parseFlags(args: readonly string[], table: FlagTable, env: NodeJS.ProcessEnv): ParsedFlags {
  const options = Object.fromEntries(
    Object.entries(table).map(([name, { value }]) => [
      name,
      { type: value === undefined ? ('boolean' as const) : ('string' as const), multiple: true as const },
    ]),
  )
  const { values } = parse(args, options)
  const given = new Map<string, Given>()
  const switches = new Set<string>()
  for (const [name, flag] of Object.entries(table)) {
    const all = values[name] ?? []
    const fromEnv = flag.env === undefined ? undefined : env[flag.env]
    if (all.includes('')) throw new UsageError(`--${name}: is empty`)
    if (all[0] === true) switches.add(name)
    else if (all.length > 0)
      given.set(name, { text: flag.isList === true ? all.join(',') : String(all.at(-1)), from: `--${name}` })
    else if (flag.value !== undefined && fromEnv !== undefined && fromEnv !== '') {
      given.set(name, { text: fromEnv, from: flag.env as string })
    }
  }
  return { values: given, switches }
}

function parse(
  args: readonly string[],
  options: Record<string, { type: 'boolean' | 'string'; multiple: true }>,
): { values: Record<string, (string | boolean)[] | undefined> } {
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false })
  } catch (error) {
    throw new UsageError((error as Error).message.split('. ', 1)[0])
  }
}

/**
 * The flags of a command line; undefined when they ask for help, which is then on standard output.
 * @throws UsageError
 */
export function flagsOrHelp(args: readonly string[], help: CommandHelp): ParsedFlags | undefined {
  const flags = parseFlags(args, help.flags, process.env)
  if (!flags.switches.has('help')) return flags
  process.stdout.write(helpText(help))
  return undefined
}

export interface CommandLine extends ParsedFlags {
  readonly operands: readonly string[]
}

/**
 * The same for a command that also has operands, which may stand anywhere. A negative number is an operand,
 * and so is everything after `--`. @throws UsageError
 */
export function lineOrHelp(args: readonly string[], help: CommandHelp): CommandLine | undefined {
  const operands: string[] = []
  const rest: string[] = []
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!
    if (arg === '--') {
      operands.push(...args.slice(i + 1))
      break
    }
    if (!isFlag(arg)) {
      operands.push(arg)
      continue
    }
    rest.push(arg)
    const takesValue = arg.startsWith('--') && help.flags[arg.slice(2)]?.value !== undefined
    if (takesValue && i + 1 < args.length) rest.push(args[++i]!)
  }
  const flags = flagsOrHelp(rest, help)
  return flags === undefined ? undefined : { ...flags, operands }
}

const isFlag = (arg: string): boolean => /^-[^\d.]/.test(arg) && !/^-inf/i.test(arg)

/** The one operand of a command. @throws UsageError */
export function operandOf({ operands }: CommandLine, what: string): string {
  const [operand, extra] = operands
  if (operand === undefined) throw new UsageError(`${what} is missing`)
  if (extra !== undefined) throw new UsageError(`unexpected argument ${JSON.stringify(extra)}`)
  return operand
}

export function helpText({ usage, flags, examples }: CommandHelp): string {
  const width = Math.max(...examples.map(([line]) => line.length))
  const lines = examples.map(([line, what]) => `  ${line.padEnd(width)}  ${what}`)
  return `usage: ${usage}\n\n${describeFlags(flags)}\n\nexamples:\n${lines.join('\n')}\n`
}

/** The folder that `--data-dir` names, as an absolute path. */
export function dataDirOf({ values }: ParsedFlags): string {
  return resolve(values.get('data-dir')?.text ?? DEFAULT_DATA_DIR)
}

/** An epoch that a flag may give. @throws UsageError */
export function epochOf({ values }: ParsedFlags, name: string, least: number): number | undefined {
  const given = values.get(name)
  return given === undefined ? undefined : integerOf(given, least, Number.MAX_SAFE_INTEGER)
}

/** One line of help for each flag. */
function describeFlags(table: FlagTable): string {
  const rows = Object.entries(table).map(([name, { value, help, env, standard }]) => {
    const twin = env === undefined ? '' : ` [${env}]`
    const otherwise = standard === undefined ? '' : ` (default ${standard})`
    return [`--${name}${value === undefined ? '' : ` ${value}`}`, `${help}${otherwise}${twin}`] as const
  })
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join('\n')
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 }

/** A whole number in [min, max]. @throws UsageError */
export function integerOf({ text, from }: Given, min: number, max: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (value >= min && value <= max) return value
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not a whole number from ${min} to ${max}`)
}

/** Bytes: `512m`, `8GiB`, `1073741824`. @throws UsageError */
export function bytesOf({ text, from }: Given): number {
  const match = /^(\d{1,12})\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim())
  const bytes = match === null ? 0 : Number(match[1]) * UNITS[(match[2] ?? '').toLowerCase()]!
  if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not a size such as 512m or 8g`)
}

const DURATIONS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3 }

/** Milliseconds: `250ms`, `90s`, `30m`, `12h`, `7d`. @throws UsageError */
export function durationOf({ text, from }: Given): number {
  const match = /^(\d{1,9})\s*(ms|[smhd])$/i.exec(text.trim())
  const ms = match === null ? 0 : Number(match[1]) * DURATIONS_MS[(match[2] ?? '').toLowerCase()]!
  if (ms > 0) return ms
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not a time such as 12h or 7d`)
}

/** Where to listen. */
export interface Address {
  /** A name, or an IPv4 or IPv6 address, without brackets. */
  readonly host: string
  readonly port: number
}

/** `127.0.0.1:7412`, `localhost:0`, `[::1]:7412`. @throws UsageError */
export function addressOf({ text, from }: Given): Address {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]\s]+)):(\d{1,5})$/i.exec(text.trim())
  const port = Number(match?.[3])
  if (match !== null && port <= 65_535) return { host: (match[1] ?? match[2])!, port }
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not an address such as 127.0.0.1:7412`)
}

/** One of a list. @throws UsageError */
export function choiceOf<T extends string>({ text, from }: Given, choices: readonly T[]): T {
  const choice = choices.find((c) => c === text)
  if (choice !== undefined) return choice
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not one of ${choices.join(', ')}`)
}

/** Origins as browsers write them, separated by commas. @throws UsageError */
export function originsOf({ text, from }: Given): ReadonlySet<string> {
  const origins = text.split(',').map((part) => part.trim())
  for (const origin of origins) {
    if (URL.canParse(origin) && /^https?:/.test(origin) && new URL(origin).origin === origin) continue
    throw new UsageError(
      `${from}: ${JSON.stringify(origin)} is not an origin such as https://example.com or http://localhost:5173`,
    )
  }
  return new Set(origins)
}

/** Names or addresses as they stand in Host, without a port; lower-case. @throws UsageError */
export function hostsOf({ text, from }: Given): ReadonlySet<string> {
  const hosts = text.split(',').map((part) => part.trim().toLowerCase())
  for (const host of hosts) {
    if (/^[a-z0-9._-]+$/.test(host) || (host.startsWith('[') && isIPv6(host.slice(1, -1)))) continue
    throw new UsageError(
      `${from}: ${JSON.stringify(host)} is not a name such as bus.example.com, without a port`,
    )
  }
  return new Set(hosts)
}

/** IP addresses, and networks as CIDR writes them. @throws UsageError */
export function networksOf({ text, from }: Given): readonly string[] {
  const networks = text.split(',').map((part) => part.trim())
  for (const network of networks) {
    const [address = '', prefix = '0', ...rest] = network.split('/')
    const bits = isIP(address) === 6 ? 128 : 32
    if (isIP(address) > 0 && rest.length === 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= bits) continue
    throw new UsageError(
      `${from}: ${JSON.stringify(network)} is neither an IP address nor a network such as 10.0.0.0/8`,
    )
  }
  return networks
}
