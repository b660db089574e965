/**
 * `mmsb backup`: copies a data folder, whether a server has it open or not. It reads the folder itself, so it
 * runs on the server's machine.
 */
import { crc32c } from '../../ffi/library.js'
import { backupFolder } from '../../store/offline/backup.js'
import { realDisk } from '../../store/os/disk.js'
import { copyArguments } from '../folder-argument.js'
import { copyProgress, print } from '../output.js'

export async function backup(args: readonly string[]): Promise<void> {
  const given = copyArguments('backup', 'folder to copy', args)
  if (given === undefined) return
  const access = { disk: realDisk(), crc32c, onCopied: copyProgress() }
  const { epoch, bytes } = await backupFolder(access, given.dataDir, given.folder)
  print(`${given.folder}: epochs up to ${epoch}, ${bytes} bytes`)
}
