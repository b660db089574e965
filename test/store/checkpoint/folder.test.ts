/** Checkpoint files on the real disk: each has its name only when it is whole, and none stays open. */
import fs from 'node:fs'
import t from 'tap'
import { checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { openFilesIn } from '../../lib/folder.js'
import { until } from '../../lib/wait.js'
import { scratch } from '../helpers.js'

t.test('a file that is finished, or given up, is closed', async (t) => {
  for (const isSynced of [true, false]) {
    for (const end of ['finished', 'abandoned'] as const) {
      const dir = scratch()
      const draft = checkpointFolder(dir).create()
      draft.db.exec('CREATE TABLE page (id INTEGER)')
      if (isSynced) {
        let isDone = false
        const { fdatasync } = fs
        fs.fdatasync = ((fd, done) =>
          fdatasync(fd, (error) => {
            done(error)
            isDone = true
          })) as typeof fdatasync
        draft.startSync()
        fs.fdatasync = fdatasync
        await until(() => isDone, 'the sync')
      }
      if (end === 'finished') await draft.finish('one.db')
      else draft.abandon()
      t.same(openFilesIn(dir), [], `${end}, ${isSynced ? 'synced before' : 'not synced before'}`)
      t.same(fs.readdirSync(dir), end === 'finished' ? ['one.db'] : [])
    }
  }
})
