/**
 * `mmsb verify`: replays a data folder that no server has open. One line on standard output says what was found; progress
 * goes to standard error. Exit code 0: all is well, 1: it is not.
 */
import { resolve } from 'node:path'
import { verifyFolder } from '../../engine/history/verify-folder.js'
import { DATA_DIR_FLAG, describeFlags, type FlagTable, integerOf, parseFlags } from '../flags.js'

const PROGRESS_INTERVAL_MS = 1_000

const FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  from: { value: 'EPOCH', help: 'where to begin', standard: 'the oldest that can be rebuilt' },
  to: { value: 'EPOCH', help: 'where to end', standard: 'the newest' },
  help: { help: 'this text' },
}

export async function verify(args: readonly string[]): Promise<void> {
  const { values, switches } = parseFlags(args, FLAGS, process.env)
  if (switches.has('help')) {
    process.stdout.write(`usage: mmsb verify [OPTIONS]\n\n${describeFlags(FLAGS)}\n`)
    return
  }
  const epochOf = (name: string): number | undefined => {
    const given = values.get(name)
    return given === undefined ? undefined : integerOf(given, 0, Number.MAX_SAFE_INTEGER)
  }
  const from = epochOf('from')
  const to = epochOf('to')
  const result = verifyFolder({
    dir: resolve(values.get('data-dir')?.text ?? './data'),
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    onProgress: progressTo(process.stderr),
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

function progressTo(out: NodeJS.WritableStream): (epoch: number, newest: number) => void {
  let saidMs = performance.now()
  return (epoch, newest) => {
    const nowMs = performance.now()
    if (nowMs - saidMs < PROGRESS_INTERVAL_MS) return
    saidMs = nowMs
    out.write(`mmsb: verifying epoch ${epoch} of ${newest}\n`)
  }
}
