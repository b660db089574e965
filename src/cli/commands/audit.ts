/**
 * `mmsb audit verify`: whether the lines of an audit trail are those that were written, in their order. A
 * server may have the folder open. Exit code 0: they are; 1: they are not.
 */
import { existsSync } from 'node:fs'
import type { ChainEnd } from '../../audit/line.js'
import { verifyTrail } from '../../audit/verify.js'
import {
  type CommandHelp,
  flagsOrHelp,
  type Given,
  HELP_FLAG,
  JSON_FLAG,
  StartError,
  UsageError,
} from '../flags.js'
import { print, printJson } from '../output.js'
import { auditDirOf } from '../serving/auditing.js'

export const HELP: CommandHelp = {
  usage: `mmsb audit verify DATA [OPTIONS]

DATA is a data folder, or a copy of its folder "audit". LINE is the number of a line and its SHA-256, such as
12:6f0c...; the log of a server and this command print it.`,
  flags: {
    known: { value: 'LINE', help: 'a line that must be there, kept on another machine' },
    after: { value: 'LINE', help: 'the last line of files that were archived; the trail goes on behind it' },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [['mmsb audit verify ./data', 'say whether lines were changed, and which']],
  verbs: ['verify'],
  operands: 'folders',
}

export async function audit([action, ...rest]: readonly string[]): Promise<void> {
  const isBare = action === undefined || action.startsWith('-')
  if (!isBare && action !== 'verify')
    throw new UsageError(`unknown action ${JSON.stringify(action)}: use verify`)
  const folder = action === 'verify' && rest[0]?.startsWith('-') === false ? rest[0] : undefined
  const args = isBare ? [action ?? '--help'] : rest.slice(folder === undefined ? 0 : 1)
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  if (folder === undefined) throw new UsageError('audit verify: the data folder is missing')
  const dir = existsSync(auditDirOf(folder)) ? auditDirOf(folder) : folder
  const lineOf = (name: string): ChainEnd | undefined => {
    const given = flags.values.get(name)
    return given === undefined ? undefined : chainEndOf(given)
  }
  const report = verifyTrail(dir, { after: lineOf('after'), known: lineOf('known') })
  const { problems, notes, files, lines, seq, sha256 } = report
  // A folder without a trail is not a sound one.
  if (files === 0 && problems.length === 0) throw new StartError(`${dir} holds no audit trail`)
  if (problems.length > 0) process.exitCode = 1
  if (flags.switches.has('json')) {
    printJson({ ok: problems.length === 0, ...report })
    return
  }
  for (const problem of problems) print(`problem: ${problem}`)
  for (const note of notes) print(`note: ${note}`)
  if (problems.length === 0) print(`ok: ${lines} lines in ${files} files; the last is ${seq}:${sha256}`)
}

/** @throws UsageError */
function chainEndOf({ text, from }: Given): ChainEnd {
  const match = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text)
  if (match === null) throw new UsageError(`${from}: is not the number of a line, a colon and its SHA-256`)
  return { seq: Number(match[1]), sha256: match[2] as string }
}
