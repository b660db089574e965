/**
 * `mmsb log check [--fix]`: reads a data folder that no server has open, record by record and file by file, and says what is
 * not sound, where, and what a repair of the log would lose. Exit code 0: all is well, or it is now; 1: it is not.
 */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { crc32c } from '../../ffi/library.js'
import { checkFolder } from '../../store/offline/check.js'
import { repairLog } from '../../store/offline/repair.js'
import { realIo } from '../../store/os/disk.js'
import { lockFolder } from '../../store/os/lock.js'
import { DATA_DIR_FLAG, describeFlags, type FlagTable, parseFlags, StartError, UsageError } from '../flags.js'

const FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  fix: { help: 'repair the log; what is cut is kept in a folder cut-N beside it' },
  help: { help: 'this text' },
}

export async function log(args: readonly string[]): Promise<void> {
  const [verb, ...rest] = args
  if (verb === '--help') return printHelp()
  if (verb !== 'check') throw new UsageError('usage: mmsb log check [OPTIONS]')
  const { values, switches } = parseFlags(rest, FLAGS, process.env)
  if (switches.has('help')) return printHelp()
  const dir = resolve(values.get('data-dir')?.text ?? './data')
  if (!existsSync(join(dir, 'log'))) throw new StartError(`${dir} is no data folder: it has no log`)
  const unlock = lockFolder(dir)
  try {
    await check(dir, switches.has('fix'))
  } finally {
    unlock()
  }
}

function printHelp(): void {
  process.stdout.write(`usage: mmsb log check [OPTIONS]\n\n${describeFlags(FLAGS)}\n`)
}

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

async function check(dir: string, fix: boolean): Promise<void> {
  const place = { dir, io: realIo(), crc32c }
  const report = checkFolder(place)
  for (const problem of report.problems) say(`problem: ${problem}`)
  for (const note of report.notes) say(`note: ${note}`)
  const { repair, segments, soundEpoch, problems } = report
  if (problems.length === 0) {
    say(`ok: ${segments.length} segments, epochs up to ${soundEpoch}`)
    return
  }
  process.exitCode = 1
  if (repair === null) return
  if (!fix) {
    say(`--fix would lose ${repair.loses}`)
    return
  }
  const aside = await repairLog(place, report)
  say(
    `repaired: the log ends at epoch ${repair.to.epoch - 1}; lost: ${repair.loses}; what was cut is in ${aside}`,
  )
  const after = checkFolder(place)
  for (const problem of after.problems) say(`problem: ${problem}`)
  process.exitCode = after.problems.length === 0 ? 0 : 1
}
