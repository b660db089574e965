/** `mmsb index rebuild`: makes the index of the log of a data folder anew, from the log. No server may have it open. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { allocateFile, crc32c } from '../../ffi/library.js'
import { Store } from '../../store/store.js'
import { DATA_DIR_FLAG, describeFlags, type FlagTable, parseFlags, StartError, UsageError } from '../flags.js'

const FLAGS: FlagTable = {
  'data-dir': DATA_DIR_FLAG,
  help: { help: 'this text' },
}

export async function index(args: readonly string[]): Promise<void> {
  const [verb, ...rest] = args
  const help = `usage: mmsb index rebuild [OPTIONS]\n\n${describeFlags(FLAGS)}\n`
  if (verb === '--help') {
    process.stdout.write(help)
    return
  }
  if (verb !== 'rebuild') throw new UsageError('usage: mmsb index rebuild [OPTIONS]')
  const { values, switches } = parseFlags(rest, FLAGS, process.env)
  if (switches.has('help')) {
    process.stdout.write(help)
    return
  }
  const dir = resolve(values.get('data-dir')?.text ?? './data')
  if (!existsSync(join(dir, 'log'))) throw new StartError(`${dir} is no data folder: it has no log`)
  const store = await Store.open({
    dir,
    fsync: 'always',
    crc32c,
    allocate: allocateFile,
    onNotice: ({ message }) => process.stderr.write(`mmsb: ${message}\n`),
  })
  try {
    await store.rebuildIndex()
  } finally {
    await store.close()
  }
  process.stdout.write(`ok: the index covers epochs ${store.minEpoch} to ${store.stats().indexedEpoch}\n`)
}
