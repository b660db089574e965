/**
 * `mmsb verify`: replays a data folder and compares digests. No server may have the folder open. The result
 * goes to standard output, progress to standard error. Exit code 0: sound; 1: not.
 */
import { verifyFolder } from '../../engine/history/verify-folder.js'
import { DATA_DIR_FLAG, dataDirOf, epochOf, type FlagTable, flagsOrHelp, HELP_FLAG } from '../flags.js'
import { progressTo } from '../replay-progress.js'

const FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  from: {
    value: 'EPOCH',
    help: 'start from the state of this epoch',
    standard: 'the oldest that can be rebuilt',
  },
  to: { value: 'EPOCH', help: 'last epoch to replay', standard: 'the newest' },
  help: HELP_FLAG,
}

export async function verify(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, 'mmsb verify [OPTIONS]', FLAGS)
  if (flags === undefined) return
  const from = epochOf(flags, 'from', 0)
  const to = epochOf(flags, 'to', 0)
  const result = verifyFolder({
    dir: dataDirOf(flags),
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    onProgress: progressTo(process.stderr, 'verifying'),
  })
  for (const problem of result.problems) process.stdout.write(`problem: ${problem}\n`)
  if (result.divergence !== null) {
    const { epoch, page, detail } = result.divergence
    process.stdout.write(`diverges at epoch ${epoch}${page === null ? '' : `, page ${page}`}: ${detail}\n`)
  } else {
    const verdict = result.ok ? 'ok' : 'the log is sound, the problems above are not'
    process.stdout.write(`${verdict}: epochs ${result.from} to ${result.to}, ${result.epochs} replayed\n`)
  }
  if (!result.ok) process.exitCode = 1
}
