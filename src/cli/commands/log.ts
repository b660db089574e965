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
import { DATA_DIR_FLAG, type FlagTable, flagsOrHelp, HELP_FLAG, helpText, UsageError } from '../flags.js'
import { print, progress } from '../output.js'

const FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  quick: { help: 'do not replay the log, so that a state that diverges is not found' },
  fix: { help: 'repair the log; removed files and bytes are kept in a folder cut-N beside it' },
  help: HELP_FLAG,
}
const USAGE = 'mmsb log check [OPTIONS]'

export async function log(args: readonly string[]): Promise<void> {
  const [verb, ...rest] = args
  if (verb === '--help') {
    process.stdout.write(helpText(USAGE, FLAGS))
    return
  }
  if (verb !== 'check') throw new UsageError(`usage: ${USAGE}`)
  const flags = flagsOrHelp(rest, USAGE, FLAGS)
  if (flags === undefined) return
  const dir = existingDataDirOf(flags)
  const fix = flags.switches.has('fix')
  const lock = fix ? lockFolder(dir, lockDescriptor) : lockForReading(dir, lockDescriptor)
  try {
    await check(dir, fix, flags.switches.has('quick'))
  } finally {
    lock.release()
  }
}

async function check(dir: string, fix: boolean, isQuick: boolean): Promise<void> {
  const say = progress()
  const onProgress = (epoch: number, newest: number): void =>
    say(() => `checking epoch ${epoch} of ${newest}`)
  const replay = isQuick ? {} : { replay: replayFolder(dir, onProgress) }
  const place = { dir, disk: realDisk(), crc32c, frameProblem, ...replay }
  const report = checkFolder(place)
  for (const problem of report.problems) print(`problem: ${problem}`)
  for (const note of report.notes) print(`note: ${note}`)
  const { repair, segments, soundEpoch, problems } = report
  if (problems.length === 0) {
    print(`ok: ${segments.length} segments, epochs up to ${soundEpoch}`)
    return
  }
  process.exitCode = 1
  if (repair === undefined) return
  if (!fix) {
    print(`--fix would lose ${repair.loses}`)
    return
  }
  const aside = await repairLog(place, report)
  print(
    `repaired: the log ends at epoch ${repair.to.epoch - 1}; lost: ${repair.loses}; what was cut is in ${aside}`,
  )
  const after = checkFolder(place)
  for (const problem of after.problems) print(`problem: ${problem}`)
  process.exitCode = after.problems.length === 0 ? 0 : 1
}
