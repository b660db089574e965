/** What the shells complete: the commands as their help describes them. */
import type { CommandHelp, Flag } from '../../flags.js'

export interface CompletedCommand {
  readonly name: string
  readonly summary: string
  readonly help: CommandHelp
}

/** What may follow a flag that takes a value. */
export type Values = 'files' | 'folders' | 'anything' | readonly string[]

/** Undefined for a switch. */
export function valuesOf({ value, choices }: Flag): Values | undefined {
  if (value === undefined) return undefined
  if (choices !== undefined) return choices
  if (value === 'DIR') return 'folders'
  return value === 'FILE' || value === 'FILES' ? 'files' : 'anything'
}

/** The flags of a command, by name. */
export const flagsOf = ({ help }: CompletedCommand): (readonly [name: string, flag: Flag])[] =>
  Object.entries(help.flags)

/** A text in single quotes, as POSIX shells read it. */
export const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
