/**
 * `mmsb verify`: replays a data folder and compares digests. No server may have the folder open. The result
 * goes to standard output, progress to standard error. Exit code 0: sound; 1: not.
 */
import { verifyFolder } from '../../engine/history/verify-folder.js'
import {
  type CommandHelp,
  DATA_DIR_FLAG,
  dataDirOf,
  epochOf,
  flagsOrHelp,
  HELP_FLAG,
  JSON_FLAG,
} from '../flags.js'
import { print, printJson, progress } from '../output.js'

export const HELP: CommandHelp = {
  usage: 'mmsb verify [OPTIONS]',
  flags: {
    'data-dir': DATA_DIR_FLAG,
    from: {
      value: 'EPOCH',
      help: 'start from the state of this epoch',
      standard: 'the oldest that can be rebuilt',
    },
    to: { value: 'EPOCH', help: 'last epoch to replay', standard: 'the newest' },
    json: JSON_FLAG,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb verify --data-dir ./data', 'replay everything'],
    ['mmsb verify --data-dir ./data --from 100 --to 200', 'replay these epochs'],
  ],
}

export async function verify(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  const from = epochOf(flags, 'from', 0)
  const to = epochOf(flags, 'to', 0)
  const say = progress()
  const result = verifyFolder({
    dir: dataDirOf(flags),
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    onProgress: (epoch, newest) => say(() => `verifying epoch ${epoch} of ${newest}`),
  })
  if (!result.ok) process.exitCode = 1
  if (flags.switches.has('json')) {
    printJson(result)
    return
  }
  for (const problem of result.problems) print(`problem: ${problem}`)
  if (result.divergence !== null) {
    const { epoch, page, detail } = result.divergence
    print(`diverges at epoch ${epoch}${page === null ? '' : `, page ${page}`}: ${detail}`)
  } else {
    const verdict = result.ok ? 'ok' : 'the log is sound, the problems above are not'
    print(`${verdict}: epochs ${result.from} to ${result.to}, ${result.epochs} replayed`)
  }
}
