/**
 * Appends, syncs, synchronous completion and void records: what is written where, when it counts,
 * what refuses.
 */
import t from 'tap'
import { LOG_SYNC_INTERVAL_MS, RECORD_GATHER_MAX_BYTES, RECORD_MAX_BYTES } from '../../../src/limits.js'
import { recordBytes } from '../../../src/store/log/record.js'
import { segmentName } from '../../../src/store/log/segment-file.js'
import type { LogRecord } from '../../../src/store/types.js'
import { turn } from '../../lib/wait.js'
import { plain } from '../helpers.js'
import { fail, fileOf, found, isDone, recordOf, SIZE, START, started } from './writer.js'

// ---- appends -------------------------------------------------------------------------------------

t.test('an append counts when it is written, not before', async (t) => {
  const begunMs = performance.now()
  const { writer, disk, state, step } = await started({ held: true })
  t.strictSame(writer.durations.stats(), { count: 0, p50: 0, p99: 0, max: 0 })
  const done = writer.append(recordOf(1))
  await turn()
  t.same([writer.newestEpoch, writer.durableEpoch, writer.end], [0, 0, START])
  await step()
  t.same(disk.told, [`write ${START} ${segmentName(1)}`])
  t.same([writer.newestEpoch, state.appended.length], [0, 0], 'written, but not answered')
  t.notOk(await isDone(done))
  await t.rejects(writer.append(recordOf(2)), /while another is in flight/)
  await step()
  await done
  t.same([writer.newestEpoch, writer.durableEpoch, writer.end], [1, 1, START + SIZE])
  t.same([writer.appended, writer.appendedBytes], [1, SIZE])
  t.same(state.appended, [[1, 1, START, SIZE]])
  t.equal(writer.durations.stats().count, 1)
  const { max } = writer.durations.stats()
  t.ok(max >= 0 && max <= (performance.now() - begunMs) * 1000)
  const second = writer.append(recordOf(2))
  await step()
  await step()
  await second
  t.same(state.appended.at(-1), [2, 1, START + SIZE, SIZE])
  t.same([writer.appended, writer.appendedBytes], [2, 2 * SIZE])
  t.same(
    found(disk).records,
    [1, 2].map((epoch) => plain(recordOf(epoch))),
  )
})

t.test('without `always` a small append is written at once; a large one is not', async (t) => {
  const most = RECORD_GATHER_MAX_BYTES - recordBytes(0, 2)
  const { writer, disk, step } = await started({ held: true, fsync: 'off', segmentBytes: 2 ** 20 })
  void writer.append(recordOf(1, most))
  t.equal(writer.newestEpoch, 1)
  const large = writer.append(recordOf(2, most + 1))
  t.equal(writer.newestEpoch, 1)
  await step()
  await step()
  await large
  t.equal(writer.newestEpoch, 2)
  t.equal(writer.durableEpoch, 0)
  t.same(found(disk).records, [plain(recordOf(1, most)), plain(recordOf(2, most + 1))])
})

t.test('an append of a wrong epoch, of too many bytes, or after the close is refused', async (t) => {
  const { writer, disk } = await started()
  await writer.append(recordOf(1))
  for (const epoch of [0, 1, 3]) await t.rejects(writer.append(recordOf(epoch)), /after 1/)
  const sized = (length: number): LogRecord => ({ ...recordOf(2), frames: { length } as Uint8Array })
  const most = RECORD_MAX_BYTES - recordBytes(0, 2)
  await t.rejects(writer.append(sized(most + 1)), { code: 'LOG_FULL', message: /above the limit/ })
  t.equal(writer.newestEpoch, 1)
  disk.roomBytes = 0
  await t.rejects(writer.append(sized(most)), { message: /no room for a log segment of/ })
  disk.roomBytes = Number.POSITIVE_INFINITY
  await writer.append(recordOf(2))
  await writer.close()
  await t.rejects(writer.append(recordOf(3)), { code: 'BUS_FAILED', message: /the log is closed/ })
})

t.test('the log says of each record what was not known to be durable before it', async (t) => {
  for (const fsync of ['always', 'off'] as const) {
    const { writer, disk, append } = await started({ fsync })
    await append(1, 2)
    if (fsync === 'off') await writer.sync()
    await append(3, 5)
    const view = new DataView(Uint8Array.from(disk.bytesOf(fileOf(1))).buffer)
    const marks = [0, 1, 2, 3, 4].map((i) => view.getUint32(START + i * SIZE + 60, true))
    t.same(marks, fsync === 'always' ? Array(5).fill(0x8000_0000) : [0, 1, 0, 1, 2], fsync)
  }
})

// ---- syncs ---------------------------------------------------------------------------------------

t.test('under `interval` one timer runs, and its sync covers what was written before it', async (t) => {
  const { writer, disk, state, append, run } = await started({ fsync: 'interval' })
  await append(1, 3)
  t.equal(state.timers.length, 1)
  t.equal(state.timers[0]?.ms, LOG_SYNC_INTERVAL_MS)
  t.equal(writer.durableEpoch, 0)
  disk.calls.length = 0
  state.timers[0]?.run()
  await run()
  t.same(disk.told, [`sync ${segmentName(1)}`])
  t.equal(writer.durableEpoch, 3)
  await append(4, 4)
  t.equal(state.timers.length, 2, 'the next append sets the next timer')
  await writer.close()
  t.ok(state.timers[1]?.cancelled)
})

t.test('`always` and `off` set no timer', async (t) => {
  for (const fsync of ['always', 'off'] as const) {
    const { writer, state, append, disk } = await started({ fsync })
    await append(1, 2)
    t.equal(state.timers.length, 0)
    t.equal(writer.durableEpoch, fsync === 'always' ? 2 : 0)
    disk.calls.length = 0
    await writer.sync()
    t.same(disk.told, fsync === 'always' ? [] : [`sync ${segmentName(1)}`], 'what is durable needs no sync')
    t.equal(writer.durableEpoch, 2)
  }
})

t.test('a sync covers what was written when it began; who waits, waits for all of it', async (t) => {
  const { writer, disk, append, step } = await started({ fsync: 'off', held: true })
  await append(1, 2)
  const first = writer.sync()
  const second = writer.sync()
  await append(3, 3)
  disk.calls.length = 0
  await step()
  t.equal(writer.durableEpoch, 0)
  await step()
  t.same(disk.told, [`sync ${segmentName(1)}`], 'both wait for one sync')
  t.equal(writer.durableEpoch, 2)
  t.notOk(await isDone(first))
  await step()
  await step()
  await Promise.all([first, second])
  t.equal(writer.durableEpoch, 3)
  t.same(disk.told, [`sync ${segmentName(1)}`])
})

t.test('a sync that fails ends the writer; nothing is tried again', async (t) => {
  const { writer, disk, state, append } = await started({ fsync: 'interval' })
  await append(1, 2)
  disk.fault = (call) => call === 'sync' && fail('the disk is gone')
  await t.rejects(writer.sync(), {
    code: 'BUS_FAILED',
    message: /a sync of the log failed: the disk is gone/,
  })
  disk.fault = undefined
  disk.calls.length = 0
  t.equal(writer.durableEpoch, 0)
  t.same(state.failures, [writer.failure?.message])
  t.ok(state.timers[0]?.cancelled)
  const failed = { code: 'BUS_FAILED', message: /the disk is gone/ }
  await t.rejects(writer.sync(), failed)
  await t.rejects(writer.append(recordOf(3)), failed)
  await t.rejects(writer.reserve(10) as Promise<void>, failed)
  t.throws(() => writer.appendVoid(2, 1), failed)
  t.throws(() => writer.completeSync(), failed)
  t.equal(writer.newestEpoch, 2)
  await writer.close()
  t.same(disk.told, [], 'the close does not seal')
  t.equal(disk.openCount, 0)
  t.equal(state.failures.length, 1)
})

t.test('a write that fails ends the writer', async (t) => {
  for (const fsync of ['always', 'off'] as const) {
    const { writer, disk, state, append } = await started({ fsync })
    await append(1, 1)
    disk.fault = (call) => call === 'write' && fail('torn')
    const failed = { code: 'BUS_FAILED', message: /a write to the log failed: torn/ }
    await t.rejects(writer.append(recordOf(2)), failed)
    disk.fault = undefined
    t.equal(writer.newestEpoch, 1)
    t.equal(writer.end, START + SIZE)
    t.equal(state.failures.length, 1)
    await t.rejects(writer.append(recordOf(2)), failed)
    await t.rejects(writer.sync(), failed)
    t.equal(state.appended.length, 1)
    await writer.close()
    t.equal(disk.openCount, 0)
  }
})

t.test('an append that is answered after the writer has failed fails too', async (t) => {
  const { writer, state, run } = await started({ held: true })
  const done = writer.append(recordOf(1))
  done.catch(() => {})
  state.lost = 'another folder is in its place'
  writer.checkHeld()
  await run()
  await t.rejects(done, { code: 'BUS_FAILED', message: /another folder is in its place/ })
  t.equal(writer.newestEpoch, 0)
  t.equal(state.appended.length, 0)
})

t.test('two writes that fail are one failure', async (t) => {
  const { writer, disk, state, run } = await started({ held: true })
  const first = writer.append(recordOf(1))
  writer.completeSync()
  const second = writer.append(recordOf(2))
  disk.fault = (call) => call === 'write' && fail('torn')
  for (const append of [first, second]) append.catch(() => {})
  await run()
  for (const append of [first, second]) await t.rejects(append, { code: 'BUS_FAILED', message: /torn/ })
  t.equal(state.failures.length, 1)
  t.equal(writer.failure?.message, state.failures[0])
})

t.test('small records are laid out in one buffer', async (t) => {
  const { disk, append } = await started()
  const buffers = new Set<ArrayBufferLike>()
  const { writeSync } = disk
  disk.writeSync = (fd, parts, at) => {
    for (const part of parts) buffers.add(part.buffer)
    writeSync.call(disk, fd, parts, at)
  }
  await append(1, 5)
  t.equal(buffers.size, 1)
})

// ---- synchronous completion ----------------------------------------------------------------------

t.test('an append in flight is completed at once; its promise settles later', async (t) => {
  const { writer, disk, state, run } = await started({ held: true })
  writer.completeSync()
  t.same(disk.told, [], 'nothing is in flight')
  const first = writer.append(recordOf(1))
  writer.completeSync()
  t.same([writer.newestEpoch, writer.durableEpoch, writer.end], [1, 1, START + SIZE])
  t.same(disk.told, [`write ${START} ${segmentName(1)}`])
  t.notOk(await isDone(first))
  const second = writer.append(recordOf(2))
  writer.completeSync()
  writer.completeSync()
  t.equal(disk.told.length, 1)
  const third = writer.append(recordOf(3))
  await run()
  await Promise.all([first, second, third])
  t.same(
    state.appended.map(([epoch]) => epoch),
    [1, 2, 3],
    'each is told once',
  )
  t.same([writer.appended, writer.appendedBytes], [3, 3 * SIZE])
  t.same(disk.spoilt, [], 'no buffer is used again before its write is answered')
  t.same(
    found(disk).records,
    [1, 2, 3].map((epoch) => plain(recordOf(epoch))),
  )
})

t.test('a completion that fails ends the writer', async (t) => {
  const { writer, disk, state, run } = await started({ held: true })
  const done = writer.append(recordOf(1))
  disk.fault = (call) => call === 'write' && fail('torn')
  t.throws(() => writer.completeSync(), { code: 'BUS_FAILED', message: /a write to the log failed: torn/ })
  disk.fault = undefined
  done.catch(() => {})
  await run()
  await t.rejects(done, { code: 'BUS_FAILED' })
  t.equal(writer.newestEpoch, 0)
  t.equal(state.failures.length, 1)
})

t.test('an append without room cannot be completed at once', async (t) => {
  const { writer, run } = await started({ held: true, segmentBytes: 8192 })
  const done = writer.append(recordOf(1, 9000))
  t.throws(() => writer.completeSync(), /for which no room was reserved/)
  await run()
  await done
  writer.completeSync()
  t.equal(writer.newestEpoch, 1)
})

// ---- void records --------------------------------------------------------------------------------

t.test('a void record is durable when the call returns', async (t) => {
  for (const fsync of ['always', 'interval', 'off'] as const) {
    const { writer, disk, state, append } = await started({ fsync })
    await append(1, 3)
    disk.calls.length = 0
    writer.appendVoid(3, 5)
    const end = START + 3 * SIZE
    const written = [`write ${end} ${segmentName(1)}`]
    t.same(disk.told, fsync === 'always' ? written : [...written, `sync ${segmentName(1)}`], fsync)
    t.same([writer.durableEpoch, writer.newestEpoch, writer.end], [3, 3, end + 64])
    t.equal(writer.appendedBytes, 3 * SIZE + 64)
    t.same(state.voided, [end + 64])
    const view = new DataView(Uint8Array.from(disk.bytesOf(fileOf(1))).buffer)
    t.equal(view.getUint32(end + 60, true), fsync === 'always' ? 0x8000_0000 : 3)
    t.equal(view.getUint32(end + 24, true), 5)
    await append(4, 4)
    t.equal(state.appended.at(-1)?.[2], end + 64)
  }
})

t.test('a void record is only for the newest epoch, and not while an append is in flight', async (t) => {
  const { writer, disk, state, append, run } = await started()
  await append(1, 2)
  for (const epoch of [1, 3]) t.throws(() => writer.appendVoid(epoch, 1), /not the newest/)
  disk.fault = (call) => call === 'write' && fail('torn')
  t.throws(() => writer.appendVoid(2, 1), { code: 'BUS_FAILED', message: /torn/ })
  t.equal(writer.end, START + 2 * SIZE)
  t.same(state.voided, [])
  const other = await started({ held: true })
  const done = other.writer.append(recordOf(1))
  for (const epoch of [0, 1]) t.throws(() => other.writer.appendVoid(epoch, 1), /not the newest/)
  await other.run()
  await done
  await run()
})

t.test('a void record whose sync fails is not durable', async (t) => {
  const { writer, disk, append } = await started({ fsync: 'off' })
  await append(1, 1)
  disk.fault = (call) => call === 'sync' && fail('no sync')
  t.throws(() => writer.appendVoid(1, 1), { code: 'BUS_FAILED', message: /no sync/ })
  t.equal(writer.durableEpoch, 0)
})
