/**
 * `mmsb index rebuild`: rebuilds the log index of a data folder from the log. No server may have the folder
 * open.
 */
import { allocateFile, crc32c, lockDescriptor } from '../../ffi/library.js'
import { Store } from '../../store/store.js'
import { existingDataDirOf } from '../data-folder.js'
import { type CommandHelp, DATA_DIR_FLAG, flagsOrHelp, HELP_FLAG, JSON_FLAG, UsageError } from '../flags.js'
import { report, result } from '../output.js'

export const HELP: CommandHelp = {
  usage: 'mmsb index rebuild [OPTIONS]',
  flags: { 'data-dir': DATA_DIR_FLAG, json: JSON_FLAG, help: HELP_FLAG },
  examples: [['mmsb index rebuild --data-dir ./data', 'rebuild the index of ./data']],
  verbs: ['rebuild'],
}

export async function index(args: readonly string[]): Promise<void> {
  const [verb, ...rest] = args
  if (verb !== 'rebuild' && verb !== '--help') throw new UsageError(`usage: ${HELP.usage}`)
  const flags = flagsOrHelp(verb === '--help' ? args : rest, HELP)
  if (flags === undefined) return
  const dir = existingDataDirOf(flags)
  const store = await Store.open({
    dir,
    fsync: 'always',
    crc32c,
    allocate: allocateFile,
    lockDescriptor,
    onNotice: ({ message }) => report(message),
  })
  try {
    await store.rebuildIndex()
  } finally {
    await store.close()
  }
  const { minEpoch } = store
  const { indexedEpoch } = store.stats()
  result(flags, { minEpoch, indexedEpoch }, `ok: the index covers epochs ${minEpoch} to ${indexedEpoch}`)
}
