/** `mmsb restore`: makes a data folder from a backup. */
import { crc32c } from '../../ffi/library.js'
import { restoreFolder } from '../../store/offline/restore.js'
import { realDisk } from '../../store/os/disk.js'
import type { CommandHelp } from '../flags.js'
import { copyArguments, copyHelp } from '../folder-argument.js'
import { copyProgress, result } from '../output.js'

export const HELP: CommandHelp = copyHelp('restore', 'folder to create; it must be empty or absent', [
  ['mmsb restore ./backup --data-dir ./restored', 'make ./restored from ./backup'],
])

export async function restore(args: readonly string[]): Promise<void> {
  const given = copyArguments(args, HELP)
  if (given === undefined) return
  const access = { disk: realDisk(), crc32c, onCopied: copyProgress() }
  const { epoch, bytes } = await restoreFolder(access, given.folder, given.dataDir)
  const { dataDir } = given
  result(given, { folder: dataDir, epoch, bytes }, `${dataDir}: epochs up to ${epoch}, ${bytes} bytes`)
}
