/**
 * `mmsb migrate`: moves the pages of a data folder to the newest versions of their ops, and writes a
 * checkpoint. No server may have the folder open. A second run finds nothing to move.
 */
import { Bus } from '../../index.js'
import { OPERATOR_LIMITS } from '../../operator-limits.js'
import { existingDataDirOf } from '../data-folder.js'
import { type CommandHelp, DATA_DIR_FLAG, flagsOrHelp, HELP_FLAG, JSON_FLAG } from '../flags.js'
import { print, printJson, progress, report } from '../output.js'

export const HELP: CommandHelp = {
  usage: 'mmsb migrate [OPTIONS]',
  flags: { 'data-dir': DATA_DIR_FLAG, json: JSON_FLAG, help: HELP_FLAG },
  examples: [['mmsb migrate --data-dir ./data', 'move every page of ./data']],
}

export async function migrate(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  const dataDir = existingDataDirOf(flags)
  // All pages that move are computed in one epoch, however long that takes.
  const { maxStepCostMs, maxCommitCostMs } = OPERATOR_LIMITS
  const limits = {
    maxStepCostMs: maxStepCostMs.most,
    maxCommitCostMs: maxCommitCostMs.most,
  }
  const bus = await Bus.open({
    dataDir,
    limits,
    onNotice: ({ message }) => report(message),
  })
  try {
    const { epoch, pages } = await bus.migrate()
    const isJson = flags.switches.has('json')
    if (isJson) printJson({ epoch, pages })
    for (const { page, op, from, to } of isJson ? [] : pages) {
      const change = from === to ? `${op} compiled anew` : `${op} ${from} -> ${to}`
      print(`${page}: ${change}`)
    }
    if (epoch === undefined) {
      if (!isJson) print('every page has the newest version of its op')
      return
    }
    report('writing a checkpoint')
    const say = progress()
    await bus.checkpoint({ onProgress: (percent) => say(() => `writing a checkpoint: ${percent} %`) })
    if (!isJson) print(`${pages.length} pages moved in epoch ${epoch}; checkpoint written`)
  } finally {
    await bus.close()
  }
}
