/**
 * A folder that is only read, without a bus on top: how long its log is, and what it says after the close.
 */
import t from 'tap'
import { ReadOnlyStore } from '../../src/store/read-only.js'
import { appendAll, crc32c, openStore, scratch } from './helpers.js'

async function filled(newest: number) {
  const dir = scratch()
  const store = await openStore(dir, { segmentBytes: 8192 })
  await appendAll(store, 1, newest, 500)
  return { dir, store }
}

t.test('bytes of the log after an epoch, in whole segments', async (t) => {
  const newest = 20
  const { dir, store } = await filled(newest)
  await store.close()
  // Not open for writing, where the last segment still has room: what was left at the close.
  const again = await openStore(dir, { segmentBytes: 8192 })
  const wanted = Array.from({ length: newest }, (_, epoch) => again.bytesSince(epoch))
  t.ok(new Set(wanted).size >= 3, 'there are several segments')
  await again.close()
  const reading = await ReadOnlyStore.open({ dir, crc32c })
  const found = Array.from({ length: newest }, (_, epoch) => reading.bytesSince(epoch))
  t.strictSame(found.slice(0, -1), wanted.slice(0, -1))
  t.equal(reading.bytesSince(0), reading.stats().bytes)
  await reading.close()
})

t.test('after the close it is lost', async (t) => {
  const { dir, store } = await filled(3)
  await store.close()
  const reading = await ReadOnlyStore.open({ dir, crc32c })
  reading.refuseWhenLost()
  await reading.close()
  t.throws(() => reading.refuseWhenLost(), { code: 'BUS_FAILED', message: /it is closed/ })
  await reading.close()
})
