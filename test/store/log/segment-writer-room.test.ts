/** Room for records: rotation to the next segment, zeros ahead, the folder, and the close. */
import t from 'tap'
import { crc32c } from '../../../src/ffi/library.js'
import { FOLDER_CHECK_APPEND_MS, LOG_ZERO_MARGIN_BYTES, LOG_ZERO_PIECE_BYTES } from '../../../src/limits.js'
import { encodeSegmentHeader, recordBytes } from '../../../src/store/log/record.js'
import { createSegment, type SegmentOptions, segmentName } from '../../../src/store/log/segment-file.js'
import { turn } from '../../lib/wait.js'
import { SimDisk } from '../../support/simdisk.js'
import { plain } from '../helpers.js'
import { fail, fileOf, found, isDone, NEXT, Noted, recordOf, SIZE, START, started } from './writer.js'

// ---- room and rotation ---------------------------------------------------------------------------

t.test('room is what a record, a void record and a seal need, to the byte', async (t) => {
  const room = 8192 - START - 128
  for (const [bodyBytes, has] of [
    [room - 64 - 8, true],
    [room - 64 - 8 + 1, false],
  ] as const) {
    const { writer, state } = await started({ segmentBytes: 8192 })
    const waiting = writer.reserve(bodyBytes)
    t.equal(waiting === undefined, has)
    await waiting
    t.equal(state.rotated.length, has ? 0 : 1)
  }
  const exact = await started({ segmentBytes: 8192 })
  await exact.writer.append(recordOf(1, room - recordBytes(0, 2)))
  t.equal(exact.state.rotated.length, 0)
  const over = await started({ segmentBytes: 8192 })
  await over.writer.append(recordOf(1, room - recordBytes(0, 2) + 1))
  t.equal(over.state.rotated.length, 1)
  // The void record and the seal fit behind it.
  exact.writer.appendVoid(1, 1)
  await exact.writer.close()
  t.equal(exact.disk.bytesOf(fileOf(1)).length, 8192)
})

t.test('the next segment begins after everything before it is durable', async (t) => {
  const { writer, disk, state, append } = await started({ fsync: 'off', segmentBytes: 8192 })
  await append(1, 2, 1500)
  await turn()
  disk.calls.length = 0
  const end = writer.end
  await writer.append(recordOf(3, 1500))
  const [one, two] = [segmentName(1), segmentName(3)]
  t.same(disk.told.slice(0, 7), [
    ...[`sync ${one}`, 'write 0 next.tmp', 'sync next.tmp', `rename to ${two}`, 'sync names'],
    ...[`cut ${end} ${one}`, `write ${START} ${two}`],
  ])
  const [next, previousEnd] = state.rotated[0] ?? []
  t.match(next, { firstEpoch: 3, version: 2, createdMs: 77, busId: 'ab'.repeat(16) })
  t.equal(previousEnd, end)
  t.equal(disk.bytesOf(fileOf(1)).length, end)
  t.equal(disk.bytesOf(fileOf(3)).length, 8192, 'room is reserved')
  t.equal(writer.durableEpoch, 2)
  t.same(state.appended.at(-1), [3, 3, START, recordBytes(1500, 2)])
  t.same(found(disk).records, [plain(recordOf(3, 1500))])
  await writer.close()
  t.equal(disk.openCount, 0)
})

t.test('under `always` a segment is opened for durable writes', async (t) => {
  const { writer, disk, append } = await started({ segmentBytes: 8192 })
  await append(1, 4, 1500)
  const durable = [...disk.nameOf].filter(([fd]) => disk.dsync.get(fd)).map(([, name]) => name)
  t.ok(durable.includes(segmentName(1)) && durable.includes(segmentName(3)))
  const after = disk.crash('drop')
  t.equal(found(after).newestEpoch, 4)
  await writer.close()
})

t.test('the next segment is made ahead once half of this one is used', async (t) => {
  const { writer, disk, append } = await started({ segmentBytes: 64 * 1024 })
  const half = 32 * 1024
  await append(1, 1, half - START - recordBytes(0, 2))
  t.equal(writer.end, half)
  await turn()
  t.notOk(disk.exists(NEXT), 'half is not more than half')
  await append(2, 2)
  await turn()
  t.ok(disk.exists(NEXT))
  disk.fault = (call) => call === 'allocate' && fail('allocated again')
  await append(3, 3, half)
  t.equal(writer.newestEpoch, 3, 'the rotation uses it')
  t.notOk(disk.exists(NEXT))
  disk.fault = undefined
  await append(4, 4, half)
  await turn()
  t.ok(disk.exists(NEXT), 'and so does the next one')
  await writer.close()
  t.notOk(disk.exists(NEXT), 'the close removes it')
  t.equal(disk.openCount, 0)
})

t.test('a segment made ahead that is too small is replaced by one that fits', async (t) => {
  const { writer, disk, append, state } = await started({ segmentBytes: 8192 })
  await append(1, 2, 1500)
  await turn()
  t.ok(disk.exists(NEXT))
  const bytes = recordBytes(20_000, 2)
  await append(3, 3, 20_000)
  t.equal(disk.bytesOf(fileOf(3)).length, START + bytes + 128, 'with room for a void record and a seal')
  t.equal(state.rotated.length, 1)
  writer.appendVoid(3, 1)
  await writer.close()
  t.equal(disk.openCount, 0)
})

t.test('a full disk refuses the record and leaves the writer as it was', async (t) => {
  const { writer, disk, append, state } = await started({ segmentBytes: 8192, roomBytes: 8192 + 100 })
  await append(1, 2, 1500)
  await turn()
  t.notOk(disk.exists(NEXT), 'what was tried ahead is gone, and no failure')
  const full = { code: 'LOG_FULL', message: /no room for a log segment of 8192 bytes/ }
  await t.rejects(writer.append(recordOf(3, 1500)), full)
  await t.rejects(writer.reserve(1500) as Promise<void>, full)
  t.equal(writer.failure, undefined)
  t.equal(writer.reserve(100), undefined, 'a smaller one has room')
  await append(3, 3)
  disk.roomBytes = 1e9
  await append(4, 4, 1500)
  t.equal(writer.newestEpoch, 4)
  t.equal(state.rotated.length, 1)
})

t.test('a rotation that fails ends the writer', async (t) => {
  const faults: [string, (disk: Noted) => void, RegExp][] = [
    [
      'a file that cannot be made',
      (d) => (d.fault = (c) => c === 'allocate' && fail('x')),
      /could not be created: /,
    ],
    [
      'a header',
      (d) => (d.fault = (c, f) => c === 'write' && f === NEXT && fail('x')),
      /could not be begun: x/,
    ],
    [
      'a name that is not durable',
      (d) => (d.fault = (c) => c === 'syncDir' && fail('x')),
      /could not be begun: x/,
    ],
    ['a name that another takes', (d) => (d.isAt = (_, f) => f === fileOf(1)), /was removed or replaced/],
    ['a cut', (d) => (d.truncate = () => fail('x')), /could not be closed: x/],
  ]
  for (const [what, plant, message] of faults) {
    const { writer, disk, state, append } = await started({ segmentBytes: 16 * 1024 })
    // Less than half: nothing is made ahead.
    await append(1, 1, 3000)
    await turn()
    plant(disk)
    await t.rejects(writer.append(recordOf(2, 12_000)), { code: 'BUS_FAILED', message }, what)
    t.same(state.failures.length, 1, what)
    t.match(state.failures[0], message)
    t.equal(writer.newestEpoch, 1)
    await writer.close().catch(() => {})
    t.equal(disk.openCount, 0, `${what}: no file stays open`)
  }
})

t.test('a header whose sync fails is not given its name', async (t) => {
  const { writer, disk, append } = await started({ segmentBytes: 16 * 1024, fsync: 'off' })
  await append(1, 1, 3000)
  let syncs = 0
  disk.fault = (call, file) => {
    // Before it, the record that is there and the room of the new segment are synced.
    if (call === 'sync' && file === NEXT && ++syncs === 3) fail('EIO')
  }
  const message = /a new log segment could not be begun: EIO/
  await t.rejects(writer.append(recordOf(2, 12_000)), { code: 'BUS_FAILED', message })
  t.notOk(disk.exists(fileOf(2)))
})

t.test('a folder that is lost while the next segment is begun ends the writer', async (t) => {
  const { writer, disk, state, append } = await started({ segmentBytes: 16 * 1024 })
  await append(1, 1, 3000)
  disk.rename = (from, to) => {
    SimDisk.prototype.rename.call(disk, from, to)
    state.lost = 'moved away'
  }
  await t.rejects(writer.append(recordOf(2, 12_000)), { code: 'BUS_FAILED', message: /begun: moved away/ })
  const other = await started({ segmentBytes: 16 * 1024 })
  other.state.lost = 'moved away'
  await t.rejects(other.writer.reserve(15_000) as Promise<void>, { message: /lost: moved away/ })
  t.notOk(
    other.disk.calls.some((call) => call.startsWith('rename')),
    'no segment is begun there',
  )
})

t.test('a rotation waits for the write in flight; appends wait for the rotation', async (t) => {
  const { writer, disk, state, step, run } = await started({ held: true, segmentBytes: 16 * 1024 })
  const first = writer.append(recordOf(1, 3000))
  const reserved = writer.reserve(12_500) as Promise<void>
  await step()
  t.same(disk.told, [`write ${START} ${segmentName(1)}`])
  t.equal(state.rotated.length, 0)
  await step()
  await first
  await turn()
  t.ok(writer.reserve(10) instanceof Promise, 'a small one waits too')
  const second = writer.append(recordOf(2, 10))
  t.notOk(await isDone(reserved))
  await run()
  await Promise.all([reserved, second])
  t.equal(state.rotated.length, 1)
  t.same(state.appended.at(-1), [2, 2, START, recordBytes(10, 2)])
})

t.test('a segment of an older version takes no record behind its own', async (t) => {
  for (const records of [0, 1]) {
    const disk = new Noted()
    const header = {
      busId: 'ab'.repeat(16),
      firstEpoch: 1,
      headerSeed: 1,
      recordSeed: 2,
      createdMs: 1,
      version: 1,
    }
    disk.put(fileOf(1), encodeSegmentHeader(header, crc32c))
    const old = await started({ disk })
    if (records === 0) {
      t.equal(old.writer.reserve(10), undefined, 'an empty one does')
      await old.append(1, 1)
    } else {
      await old.append(1, 2)
      t.same(old.state.rotated[0]?.[0].firstEpoch, 2)
      t.equal(old.state.rotated[0]?.[0].version, 2)
    }
  }
})

// ---- zeros ahead ---------------------------------------------------------------------------------

t.test('zeros are written ahead of small appends, a piece at a time', async (t) => {
  const segmentBytes = 4 * 2 ** 20
  const { writer, disk, append, run, step, tasks } = await started({
    held: true,
    zeroAhead: true,
    segmentBytes,
  })
  const piece = (at: number): string => `write ${at} ${segmentName(1)}`
  const first = writer.append(recordOf(1))
  await step()
  await step()
  await first
  const margin = START + SIZE + LOG_ZERO_MARGIN_BYTES
  const from = margin - (margin % 4096)
  t.equal(tasks.length, 1, 'zeros are on their way')
  t.equal(writer.reserve(100), undefined, 'there is room before them')
  const far = writer.reserve(from - writer.end - 64) as Promise<void>
  t.ok(far instanceof Promise, 'not among them')
  t.equal(writer.reserve(from - writer.end - 64 - 8 - 64), undefined, 'just before them there is')
  t.ok(writer.reserve(from - writer.end - 64 - 8 - 64 + 1) instanceof Promise)
  disk.calls.length = 0
  await run()
  await far
  t.same(disk.told, [piece(from), `sync ${segmentName(1)}`])
  t.equal(disk.openCount, 1, 'the file they were written by is closed')
  const second = writer.append(recordOf(2))
  await run()
  await second
  t.same(disk.told, [piece(START + SIZE)], 'no more of them are needed yet')
  // Behind half of the piece the next one follows it.
  const large = from + LOG_ZERO_PIECE_BYTES / 2 - writer.end - 64 - 8
  const third = writer.append(recordOf(3, large))
  await run()
  await third
  await run()
  t.equal(disk.told.length, 1, 'a large record calls for none')
  const fourth = writer.append(recordOf(4))
  await run()
  await fourth
  t.match(disk.told, [/^write /, piece(from + LOG_ZERO_PIECE_BYTES), /^sync /])
  t.same(found(disk).newestEpoch, 4)
  void append
})

t.test('zeros end with the room of the segment', async (t) => {
  const segmentBytes = 256 * 1024
  const { disk, append, run } = await started({ zeroAhead: true, segmentBytes })
  await append(1, 1)
  await run()
  t.equal(disk.bytesOf(fileOf(1)).length, segmentBytes)
  t.equal(disk.calls.filter((call) => call.startsWith('write')).length, 2)
  await append(2, 2)
  await run()
  t.equal(disk.calls.filter((call) => call.startsWith('write')).length, 3, 'no room is left for more')
})

t.test('no zeros without `always`, or where they gain nothing', async (t) => {
  for (const options of [{ zeroAhead: true, fsync: 'off' }, { zeroAhead: false }] as const) {
    const { disk, append, run } = await started({ ...options, segmentBytes: 2 ** 21 })
    await append(1, 1)
    await run()
    t.equal(disk.calls.filter((call) => call.startsWith('write')).length, 1)
  }
})

t.test('zeros that cannot be written end the writer', async (t) => {
  for (const call of ['write', 'sync'] as const) {
    const { writer, disk, state, append, run } = await started({ zeroAhead: true, segmentBytes: 2 ** 21 })
    let writes = 0
    disk.fault = (happens) => {
      if (happens === 'write') writes++
      if (happens === call && (call === 'sync' ? writes === 2 : writes === 2)) fail('bad block')
    }
    await append(1, 1)
    await run()
    t.match(state.failures, [/zeros could not be written ahead in the log: bad block/])
    await writer.close()
    t.equal(disk.openCount, 0)
  }
})

t.test('the close and a rotation wait for zeros that are being written', async (t) => {
  const { writer, disk, run, step } = await started({ held: true, zeroAhead: true, segmentBytes: 2 ** 21 })
  const first = writer.append(recordOf(1))
  await step()
  await step()
  await first
  const closed = writer.close()
  t.notOk(await isDone(closed))
  t.notOk(disk.calls.some((call) => call.startsWith('cut')))
  await run()
  await closed
  t.equal(disk.openCount, 0)
})

// ---- the folder ----------------------------------------------------------------------------------

t.test('a folder or a segment that is gone ends the writer', async (t) => {
  const cases: [(disk: Noted, state: { lost: string | undefined }) => void, RegExp][] = [
    [(_, state) => (state.lost = 'it was moved'), /the data folder is lost: it was moved/],
    [(disk) => disk.remove(fileOf(1)), /lost: the log segment .* was removed or replaced while it was open/],
    [(disk) => (disk.isAt = () => fail('EIO')), /the log segment .* cannot be reached any more: EIO/],
  ]
  for (const [plant, message] of cases) {
    const { writer, disk, state, append } = await started()
    await append(1, 1)
    writer.checkHeld()
    t.equal(writer.failure, undefined)
    plant(disk, state)
    writer.checkHeld()
    t.match(state.failures, [message])
    const { asked } = state
    writer.checkHeld()
    t.equal(state.failures.length, 1)
    t.equal(state.asked, asked, 'it is not looked after any more')
    await t.rejects(writer.append(recordOf(2)), { code: 'BUS_FAILED', message })
  }
})

t.test('appends look after the folder now and then, not each of them', async (t) => {
  const { state, append } = await started()
  const now = performance.now.bind(performance)
  t.teardown(() => {
    performance.now = now
  })
  let ms = 1e7
  performance.now = () => ms
  await append(1, 3)
  t.equal(state.asked, 1)
  ms += FOLDER_CHECK_APPEND_MS
  await append(4, 4)
  t.equal(state.asked, 1, 'not yet')
  ms += 1
  await append(5, 6)
  t.equal(state.asked, 2)
  state.lost = 'gone'
  ms += FOLDER_CHECK_APPEND_MS + 1
  await t.rejects(append(7, 7), { code: 'BUS_FAILED', message: /gone/ })
})

// ---- the close -----------------------------------------------------------------------------------

t.test('the close seals the log, gives room back, and all of it is durable', async (t) => {
  for (const fsync of ['always', 'off'] as const) {
    const { writer, disk, append } = await started({ fsync })
    await append(1, 2)
    disk.calls.length = 0
    await writer.close()
    const end = START + 2 * SIZE
    const sealed = [`write ${end}`, `cut ${end + 64}`, 'sync'].map((call) => `${call} ${segmentName(1)}`)
    t.same(disk.told, fsync === 'always' ? sealed : [`sync ${segmentName(1)}`, ...sealed])
    t.equal(disk.openCount, 0)
    const log = found(disk.crash('drop'))
    t.match(log, { newestEpoch: 2, tornBytes: 0, damage: undefined })
    t.equal(log.segments[0]?.end, end)
    const view = new DataView(Uint8Array.from(disk.bytesOf(fileOf(1))).buffer)
    t.same(
      [view.getUint32(end + 16, true), view.getUint32(end + 24, true)],
      [3, 77],
      'the next epoch, the time',
    )
  }
})

t.test('the close waits for what is in flight', async (t) => {
  const { writer, disk, run, step } = await started({ held: true, segmentBytes: 16 * 1024 })
  const first = writer.append(recordOf(1, 3000))
  const closed = writer.close()
  t.notOk(await isDone(closed))
  t.same(disk.told, [])
  await step()
  await step()
  await Promise.all([first, closed])
  t.equal(found(disk).newestEpoch, 1)
  const other = await started({ held: true, segmentBytes: 16 * 1024 })
  const record = other.writer.append(recordOf(1, 9000))
  await other.run()
  await record
  const rotation = other.writer.reserve(12_000) as Promise<void>
  const ended = other.writer.close()
  t.notOk(await isDone(ended))
  await other.run()
  await Promise.all([rotation, ended])
  t.equal(other.disk.openCount, 0)
  t.notOk(other.disk.exists(NEXT))
  await run()
})

t.test('a folder that is lost after the close is no failure', async (t) => {
  const { writer, state } = await started()
  await writer.close()
  state.lost = 'gone'
  writer.checkHeld()
  t.same(state.failures, [])
  const other = await started()
  other.state.lost = 'gone'
  await other.writer.close()
  t.match(other.state.failures, [/gone/], 'before it, it is')
})

t.test('a close that fails says so and closes the file', async (t) => {
  const { writer, disk, append, state } = await started()
  await append(1, 1)
  disk.fault = (call) => call === 'write' && fail('full')
  await t.rejects(writer.close(), { code: 'BUS_FAILED', message: /could not be closed cleanly: full/ })
  t.equal(disk.openCount, 0)
  t.equal(state.failures.length, 1)
})

t.test('a file of the name of the next segment that is not its own stays', async (t) => {
  const { writer, disk, append } = await started({ segmentBytes: 8192 })
  await append(1, 2, 1500)
  await turn()
  disk.remove(NEXT)
  disk.put(NEXT, Uint8Array.of(1))
  await writer.close()
  t.ok(disk.exists(NEXT))
  t.equal(disk.openCount, 0)
})

// ---- a segment that cannot be made ---------------------------------------------------------------

for (const [failing, closed] of [
  [1, []],
  [2, [11]],
] as const) {
  t.test(`the disk fails when the file is opened the ${failing}. time`, async (t) => {
    let opens = 0
    const done: string[] = []
    const disk = {
      remove: () => done.push('remove'),
      open: () => {
        if (++opens === failing) throw Object.assign(new Error('no such device'), { code: 'EIO' })
        return 10 + opens
      },
      close: (fd: number) => done.push(`close ${fd}`),
      allocate: () => 0,
      sync: (_fd: number, then: (error: Error | null) => void) => then(null),
    }
    const options = { disk, logDir: '/log', fsync: 'always' } as unknown as SegmentOptions
    await t.rejects(createSegment(options, 4096), { code: 'BUS_FAILED', message: /no such device/ })
    t.same(done, ['remove', ...closed.map((fd) => `close ${fd}`), 'remove'])
  })
}
