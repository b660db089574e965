/** The data folder that a command works on while no server has it open. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { dataDirOf, type ParsedFlags, StartError } from './flags.js'

/** The folder that `--data-dir` names. @throws StartError if it holds no log. */
export function existingDataDirOf(flags: ParsedFlags): string {
  const dir = dataDirOf(flags)
  if (!existsSync(join(dir, 'log'))) throw new StartError(`${dir} is not a data folder: it has no log`)
  return dir
}
