/**
 * `mmsb log check [--fix]`: reads every record and file of a data folder and replays it, reports what is
 * damaged or diverges and where, and says what a repair of the log would lose. No server may have the folder
 * open. Exit code 0: sound, or sound again after --fix; 1: damaged.
 */
import { frameProblem, replayFolder } from '../../engine/history/check-replay.js'
import { crc32c, lockDescriptor } from '../../ffi/library.js'
import { checkFolder } from '../../store/offline/check.js'
import { repairLog } from '../../store/offline/repair.js'
import { realDisk } from '../../store/os/disk.js'
import { lockFolder, lockForReading } from '../../store/os/lock.js'
import { existingDataDirOf } from '../data-folder.js'
import {
  type CommandHelp,
  DATA_DIR_FLAG,
  flagsOrHelp,
  HELP_FLAG,
  JSON_FLAG,
  type ParsedFlags,
  UsageError,
} from '../flags.js'
import { print, printJson, progress } from '../output.js'

export const HELP: CommandHelp = {
  usage: 'mmsb log check [OPTIONS]',
  flags: {
    'data-dir': DATA_DIR_FLAG,
    quick: { help: 'do not replay the log, so that a state that diverges is not found' },
    fix: { help: 'repair the log; removed files and bytes are kept in a folder cut-N beside it' },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb log check --data-dir ./data', 'say what is damaged, and change nothing'],
    ['mmsb log check --quick --data-dir ./data', 'the same without a replay'],
    ['mmsb log check --fix --data-dir ./data', 'repair the log'],
  ],
  verbs: ['check'],
}

export async function log(args: readonly string[]): Promise<void> {
  const [verb, ...rest] = args
  if (verb !== 'check' && verb !== '--help') throw new UsageError(`usage: ${HELP.usage}`)
  const flags = flagsOrHelp(verb === '--help' ? args : rest, HELP)
  if (flags === undefined) return
  const dir = existingDataDirOf(flags)
  const fix = flags.switches.has('fix')
  const lock = fix ? lockFolder(dir, lockDescriptor) : lockForReading(dir, lockDescriptor)
  try {
    await check(dir, flags)
  } finally {
    lock.release()
  }
}

async function check(dir: string, { switches }: ParsedFlags): Promise<void> {
  const isJson = switches.has('json')
  const say = progress()
  const onProgress = (epoch: number, newest: number): void =>
    say(() => `checking epoch ${epoch} of ${newest}`)
  const replay = switches.has('quick') ? {} : { replay: replayFolder(dir, onProgress) }
  const place = { dir, disk: realDisk(), crc32c, frameProblem, ...replay }
  const report = checkFolder(place)
  const { repair, segments, soundEpoch, problems, notes } = report
  const isSound = problems.length === 0
  process.exitCode = isSound ? 0 : 1
  const found = { ok: isSound, segments: segments.length, soundEpoch, problems, notes }
  if (isJson) printJson(repair === undefined ? found : { ...found, wouldLose: repair.loses })
  else {
    for (const problem of problems) print(`problem: ${problem}`)
    for (const note of notes) print(`note: ${note}`)
    if (isSound) print(`ok: ${segments.length} segments, epochs up to ${soundEpoch}`)
  }
  if (isSound || repair === undefined) return
  if (!switches.has('fix')) {
    if (!isJson) print(`--fix would lose ${repair.loses}`)
    return
  }
  const aside = await repairLog(place, report)
  const newest = repair.to.epoch - 1
  if (!isJson)
    print(`repaired: the log ends at epoch ${newest}; lost: ${repair.loses}; what was cut is in ${aside}`)
  const after = checkFolder(place)
  const isMended = after.problems.length === 0
  if (isJson)
    printJson({ ok: isMended, repairedTo: newest, lost: repair.loses, aside, problems: after.problems })
  else for (const problem of after.problems) print(`problem: ${problem}`)
  process.exitCode = isMended ? 0 : 1
}
