/**
 * Flags of a command: one table gives the parser, the help and the environment twins.
 *
 * Invariants: a flag nobody knows is an error, never ignored; a flag wins over its environment twin; a bad value is named with
 * where it came from. Reads no environment but the one it is handed.
 */
import { parseArgs } from 'node:util'

export interface Flag {
  /** What stands for the value in the help; absent for a switch. */
  readonly value?: string
  readonly help: string
  readonly env?: string
  /** Shown in the help; the command applies it. */
  readonly standard?: string
}

export type FlagTable = Readonly<Record<string, Flag>>

/** The data folder of a command that works on one. */
export const DATA_DIR_FLAG: Flag = {
  value: 'DIR',
  help: 'where log and checkpoints lie',
  env: 'MMSB_DATA_DIR',
  standard: './data',
}

/** The command line is wrong, or a value of it or of an environment twin: exit code 2. */
export class UsageError extends Error {}

/** It cannot be done: exit code 1. */
export class StartError extends Error {}

/** Where a value came from, and what it is. */
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
      { type: value === undefined ? ('boolean' as const) : ('string' as const) },
    ]),
  )
  const { values } = parse(args, options)
  const given = new Map<string, Given>()
  const switches = new Set<string>()
  for (const [name, flag] of Object.entries(table)) {
    const fromFlag = values[name]
    const fromEnv = flag.env === undefined ? undefined : env[flag.env]
    if (fromFlag === '') throw new UsageError(`--${name}: is empty`)
    if (fromFlag === true) switches.add(name)
    else if (typeof fromFlag === 'string') given.set(name, { text: fromFlag, from: `--${name}` })
    else if (flag.value !== undefined && fromEnv !== undefined && fromEnv !== '') {
      given.set(name, { text: fromEnv, from: flag.env as string })
    }
  }
  return { values: given, switches }
}

function parse(
  args: readonly string[],
  options: Record<string, { type: 'boolean' | 'string' }>,
): { values: Record<string, string | boolean | undefined> } {
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false })
  } catch (error) {
    throw new UsageError((error as Error).message.split('. ', 1)[0])
  }
}

/** The help of a table, one line a flag. */
export function describeFlags(table: FlagTable): string {
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

const DURATIONS_MS: Readonly<Record<string, number>> = { s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3 }

/** Milliseconds: `90s`, `30m`, `12h`, `7d`. @throws UsageError */
export function durationOf({ text, from }: Given): number {
  const match = /^(\d{1,9})\s*([smhd])$/i.exec(text.trim())
  const ms = match === null ? 0 : Number(match[1]) * DURATIONS_MS[(match[2] ?? '').toLowerCase()]!
  if (ms > 0) return ms
  throw new UsageError(`${from}: ${JSON.stringify(text)} is not a time such as 12h or 7d`)
}

/** One of a list. @throws UsageError */
export function choiceOf<T extends string>({ text, from }: Given, choices: readonly T[]): T {
  const choice = choices.find((c) => c === text)
  if (choice !== undefined) return choice
  throw new UsageError(`${from}: ${JSON.stringify(text)} is none of ${choices.join(', ')}`)
}

/** Origins as browsers write them, with commas between. @throws UsageError */
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
