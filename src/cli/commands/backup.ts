/**
 * `mmsb backup` and `mmsb restore`: a copy of a data folder, taken while its server runs or not, and the way back. Both need
 * the folder itself, so they run on the server's machine.
 */
import { resolve } from 'node:path'
import { crc32c } from '../../ffi/library.js'
import { backupFolder, restoreFolder } from '../../store/offline/backup.js'
import { realIo } from '../../store/os/disk.js'
import { describeFlags, type FlagTable, parseFlags, UsageError } from '../flags.js'

const flagsOf = (help: string): FlagTable => ({
  'data-dir': { value: 'DIR', help, env: 'MMSB_DATA_DIR', standard: './data' },
  help: { help: 'this text' },
})

/** The folder that stands before or behind the flags. */
function folderAnd(args: readonly string[]): { folder: string | undefined; rest: readonly string[] } {
  const [first] = args
  if (first !== undefined && !first.startsWith('-')) return { folder: first, rest: args.slice(1) }
  const last = args.at(-1)
  const isValue = args.at(-2) === '--data-dir'
  if (last !== undefined && !last.startsWith('-') && !isValue) {
    return { folder: last, rest: args.slice(0, -1) }
  }
  return { folder: undefined, rest: args }
}

function parse(
  command: string,
  help: string,
  args: readonly string[],
): { folder: string; dataDir: string } | null {
  const { folder, rest } = folderAnd(args)
  const flags = flagsOf(help)
  const { values, switches } = parseFlags(rest, flags, process.env)
  if (switches.has('help')) {
    process.stdout.write(`usage: mmsb ${command} DIR [OPTIONS]\n\n${describeFlags(flags)}\n`)
    return null
  }
  if (folder === undefined) throw new UsageError(`which folder? usage: mmsb ${command} DIR [OPTIONS]`)
  return { folder: resolve(folder), dataDir: resolve(values.get('data-dir')?.text ?? './data') }
}

export async function backup(args: readonly string[]): Promise<void> {
  const given = parse('backup', 'the folder to copy', args)
  if (given === null) return
  const { epoch, bytes } = await backupFolder({ io: realIo(), crc32c }, given.dataDir, given.folder)
  process.stdout.write(`${given.folder}: epochs up to ${epoch}, ${bytes} bytes\n`)
}

export async function restore(args: readonly string[]): Promise<void> {
  const given = parse('restore', 'the folder to make; it must be empty or not there', args)
  if (given === null) return
  const { epoch, bytes } = await restoreFolder({ io: realIo(), crc32c }, given.folder, given.dataDir)
  process.stdout.write(`${given.dataDir}: epochs up to ${epoch}, ${bytes} bytes\n`)
}
