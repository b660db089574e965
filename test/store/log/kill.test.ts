/**
 * Processes killed with SIGKILL while they append: everything they acknowledged is there, and the log
 * continues.
 */
import { spawn } from 'node:child_process'
import t from 'tap'
import { programArgs, ROOT } from '../../lib/place.js'
import { epochsIn, epochsTo, openStore, plain, recordOf, scratch } from '../helpers.js'

const APPENDER = programArgs('test/store/log/appender.ts')

/** Runs the appender until it has acknowledged some epochs, kills it, and returns the last acknowledged. */
function killAfter(
  dir: string,
  fsync: string,
  sync: string,
  epochs: number,
): Promise<{ opened: string; last: number }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...APPENDER, dir, fsync, sync], {
      cwd: ROOT,
      env: { PATH: process.env.PATH },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let text = ''
    let errors = ''
    child.stderr.on('data', (data) => {
      errors += data
    })
    child.stdout.on('data', (data) => {
      text += data
      if (text.split('\n').length > epochs + 2) child.kill('SIGKILL')
    })
    child.on('close', (_code, signal) => {
      const lines = text.split('\n').slice(0, -1)
      if (signal !== 'SIGKILL') reject(new Error(`the appender ended by itself: ${errors}`))
      else resolve({ opened: lines[0] ?? '', last: Number(lines.at(-1)) })
    })
  })
}

for (const [fsync, sync] of [
  ['always', ''],
  ['always', 'sync'],
  ['interval', ''],
] as const) {
  t.test(`killed while appending, fsync ${fsync} ${sync}`, async (t) => {
    const dir = scratch()
    let newest = 0
    for (let round = 0; round < 2; round++) {
      const { opened, last } = await killAfter(dir, fsync, sync, 40 + round * 97)
      t.match(opened, new RegExp(`^open ${newest} `), 'it went on where the log ended')
      const store = await openStore(dir, { segmentBytes: 256 * 1024, fsync })
      newest = store.recovery.newestEpoch
      // Epochs that the pipe had not delivered may be there too.
      t.ok(newest >= last, `newest ${newest}, acknowledged ${last}`)
      t.same(epochsIn(store), epochsTo(newest))
      for (const record of store.records(newest - 20)) {
        t.same(plain(record), plain(recordOf(record.epoch, 200 + (record.epoch % 17) * 300)))
      }
      await store.close()
    }
  })
}
