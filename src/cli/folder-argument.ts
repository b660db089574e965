/**
 * The command line of `mmsb backup` and `mmsb restore`: one folder, before or behind the flags, and
 * `--data-dir`.
 */
import { resolve } from 'node:path'
import { DATA_DIR_FLAG, dataDirOf, type FlagTable, flagsOrHelp, HELP_FLAG, UsageError } from './flags.js'

export interface CopyArguments {
  /** The folder of the backup. */
  readonly folder: string
  readonly dataDir: string
}

/** Undefined when help was asked for and printed. @throws UsageError */
export function copyArguments(
  command: string,
  dataDirHelp: string,
  args: readonly string[],
): CopyArguments | undefined {
  const usage = `mmsb ${command} DIR [OPTIONS]`
  const table: FlagTable = { 'data-dir': { ...DATA_DIR_FLAG, help: dataDirHelp }, help: HELP_FLAG }
  const { folder, rest } = splitFolder(args)
  const flags = flagsOrHelp(rest, usage, table)
  if (flags === undefined) return undefined
  if (folder === undefined) throw new UsageError(`DIR is missing; usage: ${usage}`)
  return { folder: resolve(folder), dataDir: dataDirOf(flags) }
}

function splitFolder(args: readonly string[]): { folder: string | undefined; rest: readonly string[] } {
  const [first] = args
  if (first !== undefined && !first.startsWith('-')) return { folder: first, rest: args.slice(1) }
  const last = args.at(-1)
  const isFlagValue = args.at(-2) === '--data-dir'
  if (last !== undefined && !last.startsWith('-') && !isFlagValue) {
    return { folder: last, rest: args.slice(0, -1) }
  }
  return { folder: undefined, rest: args }
}
