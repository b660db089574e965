/** The log through the public methods of the store: round trips, rotation, reading back, reopening. */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { appendAll, epochsIn, openStore, plain, recordOf, scratch } from '../helpers.js'

t.test('records are read as written, by iteration, by range and after reopening', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await appendAll(store, 1, 1500)
  t.ok(store.stats().segments > 2, 'the log rotated')
  const check = async (s: typeof store): Promise<void> => {
    let epoch = 0
    for (const record of s.records(0)) t.same(plain(record), plain(recordOf(++epoch)))
    t.equal(epoch, 1500)
    for await (const record of s.range(700, 720)) t.same(plain(record), plain(recordOf(record.epoch)))
    t.same(plain(await s.read(1500)), plain(recordOf(1500)))
    t.same(plain(await s.read(1)), plain(recordOf(1)))
    await t.rejects(s.read(1501), { code: 'EPOCH_NOT_FOUND' })
  }
  await check(store)
  await store.close()
  const again = await openStore(dir)
  t.match(again.recovery, { newestEpoch: 1500, tornBytes: 0, row: /^[AB]$/ })
  t.equal(again.busId, store.busId)
  await check(again)
  await appendAll(again, 1501, 1600)
  t.same(
    epochsIn(again, 1490),
    Array.from({ length: 110 }, (_, i) => 1491 + i),
  )
  await again.close()
})
void fs
void path
