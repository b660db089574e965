/**
 * `mmsb index rebuild`: rebuilds the log index of a data folder from the log. No server may have the folder
 * open.
 */
import { allocateFile, crc32c, lockDescriptor } from '../../ffi/library.js'
import { Store } from '../../store/store.js'
import { existingDataDirOf } from '../data-folder.js'
import { DATA_DIR_FLAG, type FlagTable, flagsOrHelp, HELP_FLAG, helpText, UsageError } from '../flags.js'
import { print, report } from '../output.js'

const FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  help: HELP_FLAG,
}
const USAGE = 'mmsb index rebuild [OPTIONS]'

export async function index(args: readonly string[]): Promise<void> {
  const [verb, ...rest] = args
  if (verb === '--help') {
    process.stdout.write(helpText(USAGE, FLAGS))
    return
  }
  if (verb !== 'rebuild') throw new UsageError(`usage: ${USAGE}`)
  const flags = flagsOrHelp(rest, USAGE, FLAGS)
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
  print(`ok: the index covers epochs ${store.minEpoch} to ${store.stats().indexedEpoch}`)
}
