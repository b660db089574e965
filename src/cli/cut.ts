/** `mmsb serve --until-epoch N --cut`: discards the epochs after N before the server opens the folder. */
import { crc32c } from '../ffi/library.js'
import { cutFolder, planCut } from '../store/offline/cut.js'
import { realDisk } from '../store/os/disk.js'
import { lockFolder } from '../store/os/lock.js'
import { StartError } from './flags.js'

/** Calls back with lines for people. @throws StartError */
export async function cutBefore(dir: string, epoch: number, say: (line: string) => void): Promise<void> {
  const place = { dir, disk: realDisk(), crc32c }
  try {
    const lock = lockFolder(dir)
    try {
      const plan = planCut(place, epoch)
      if (plan.newestEpoch === epoch) {
        say(`nothing to cut: epoch ${epoch} is the newest`)
        return
      }
      say(`cutting ${dir} behind epoch ${epoch}: epochs ${epoch + 1} to ${plan.newestEpoch} are discarded`)
      if (plan.checkpoints.length > 0) say(`with them the checkpoints ${plan.checkpoints.join(', ')}`)
      say(`what was cut is in ${await cutFolder(place, plan)}; a new history begins`)
    } finally {
      lock.release()
    }
  } catch (error) {
    throw new StartError(`${dir}: ${(error as Error).message}`, { cause: error })
  }
}
