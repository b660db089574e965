/** `mmsb restore`: makes a data folder from a backup. */
import { crc32c } from '../../ffi/library.js'
import { restoreFolder } from '../../store/offline/restore.js'
import { realDisk } from '../../store/os/disk.js'
import { copyArguments } from '../folder-argument.js'
import { copyProgress, print } from '../output.js'

export async function restore(args: readonly string[]): Promise<void> {
  const given = copyArguments('restore', 'folder to create; it must be empty or absent', args)
  if (given === undefined) return
  const access = { disk: realDisk(), crc32c, onCopied: copyProgress() }
  const { epoch, bytes } = await restoreFolder(access, given.folder, given.dataDir)
  print(`${given.dataDir}: epochs up to ${epoch}, ${bytes} bytes`)
}
