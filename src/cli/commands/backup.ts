/**
 * `mmsb backup`: copies a data folder, whether a server has it open or not. It reads the folder itself, so it
 * runs on the server's machine.
 */
import { crc32c } from '../../ffi/library.js'
import { backupFolder } from '../../store/offline/backup.js'
import { realDisk } from '../../store/os/disk.js'
import type { CommandHelp } from '../flags.js'
import { copyArguments, copyHelp } from '../folder-argument.js'
import { copyProgress, result } from '../output.js'

export const HELP: CommandHelp = copyHelp('backup', 'folder to copy', [
  ['mmsb backup ./backup --data-dir ./data', 'copy ./data to ./backup'],
])

export async function backup(args: readonly string[]): Promise<void> {
  const given = copyArguments(args, HELP)
  if (given === undefined) return
  const access = { disk: realDisk(), crc32c, onCopied: copyProgress() }
  const { epoch, bytes } = await backupFolder(access, given.dataDir, given.folder)
  const { folder } = given
  result(given, { folder, epoch, bytes }, `${folder}: epochs up to ${epoch}, ${bytes} bytes`)
}
