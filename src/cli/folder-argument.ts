/** The command line of `mmsb backup` and `mmsb restore`: one folder, and `--data-dir`. */
import { resolve } from 'node:path'
import {
  type CommandHelp,
  type CommandLine,
  DATA_DIR_FLAG,
  dataDirOf,
  HELP_FLAG,
  JSON_FLAG,
  lineOrHelp,
  operandOf,
} from './flags.js'

export interface CopyArguments extends CommandLine {
  /** The folder of the backup. */
  readonly folder: string
  readonly dataDir: string
}

export const copyHelp = (
  command: string,
  dataDirHelp: string,
  examples: CommandHelp['examples'],
): CommandHelp => ({
  usage: `mmsb ${command} DIR [OPTIONS]`,
  flags: { 'data-dir': { ...DATA_DIR_FLAG, help: dataDirHelp }, json: JSON_FLAG, help: HELP_FLAG },
  examples,
  operands: 'folders',
})

/** Undefined when help was asked for and printed. @throws UsageError */
export function copyArguments(args: readonly string[], help: CommandHelp): CopyArguments | undefined {
  const line = lineOrHelp(args, help)
  if (line === undefined) return undefined
  return { ...line, folder: resolve(operandOf(line, 'DIR')), dataDir: dataDirOf(line) }
}
