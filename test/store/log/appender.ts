/**
 * Appends and prints each acknowledged epoch until it is killed. Arguments: folder, fsync policy, whether to
 * complete every third append synchronously.
 */
import fs from 'node:fs'
import { Store } from '../../../src/store/store.js'
import type { FsyncPolicy } from '../../../src/store/types.js'
import { crc32c, recordOf } from '../helpers.js'

const [dir, fsync = 'always', sync = ''] = process.argv.slice(2)
if (dir === undefined) throw new Error('a folder must be named')
const store = await Store.open({ dir, fsync: fsync as FsyncPolicy, crc32c, segmentBytes: 256 * 1024 })
fs.writeSync(1, `open ${store.recovery.newestEpoch} ${store.recovery.row}\n`)
for (let epoch = store.recovery.newestEpoch + 1; ; epoch++) {
  const record = recordOf(epoch, 200 + (epoch % 17) * 300)
  await store.reserve(record.frames.length)
  const appended = store.append(record)
  if (sync === 'sync' && epoch % 3 === 0) store.completeSync()
  else await appended
  fs.writeSync(1, `${epoch}\n`)
  await appended
}
