/**
 * The log cut at every byte, and every byte of it flipped: a torn tail is cut, damage is refused with its
 * place.
 */
import t from 'tap'
import { RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES } from '../../../src/limits.js'
import { recordBytes } from '../../../src/store/log/record.js'
import { segmentName } from '../../../src/store/log/segment-file.js'
import { SimDisk } from '../../support/simdisk.js'
import { appendAll, epochsIn, epochsTo, openStore, plain, recordOf } from '../helpers.js'

const DIR = '/sim'
const FILE = `${DIR}/log/${segmentName(1)}`
const RECORDS = 6

/**
 * A log of six records as a crash leaves it, without seal and with room reserved behind, and where each
 * record ends.
 */
async function logBytes(): Promise<{ bytes: Uint8Array; ends: number[] }> {
  const disk = new SimDisk()
  const store = await openStore(DIR, { disk, segmentBytes: 8192 })
  await appendAll(store, 1, RECORDS)
  const ends = [SEGMENT_HEADER_BYTES]
  for (let epoch = 1; epoch <= RECORDS; epoch++) {
    const { frames, touchedPages } = recordOf(epoch)
    ends.push((ends.at(-1) ?? 0) + recordBytes(frames.length, touchedPages.length))
  }
  return { bytes: Uint8Array.from(disk.bytesOf(FILE)), ends }
}

function diskWith(bytes: Uint8Array): SimDisk {
  const disk = new SimDisk()
  disk.put(FILE, bytes)
  return disk
}

const open = (disk: SimDisk) => openStore(DIR, { disk, segmentBytes: 8192 })

t.test('cut at every byte: the file ends there, or zeros follow', async (t) => {
  const { bytes, ends } = await logBytes()
  const last = ends.at(-1) ?? 0
  for (let cut = SEGMENT_HEADER_BYTES; cut <= last; cut++) {
    const zeroed = bytes.slice()
    zeroed.fill(0, cut)
    for (const [kind, left] of [
      ['short', bytes.slice(0, cut)],
      ['zeros', zeroed],
    ] as const) {
      // A record that ends in zeros survives when its last bytes are zeroed.
      const sound =
        ends.filter((end) => end <= cut || (kind === 'zeros' && isZero(bytes.subarray(cut, end)))).length - 1
      const store = await open(diskWith(left))
      const { newestEpoch, tornBytes } = store.recovery
      if (newestEpoch !== sound) t.fail(`${kind} at ${cut}: newest ${newestEpoch}, should be ${sound}`)
      const torn = left.subarray(ends[sound], cut)
      if (tornBytes === 0 && !isZero(torn)) t.fail(`${kind} at ${cut}: torn bytes not reported`)
      t.same(epochsIn(store), epochsTo(sound))
      await appendAll(store, sound + 1, sound + 1, 96)
      await store.close()
    }
  }
})

const isZero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0)

t.test('every byte of a record before the last flipped: refused, with the place', async (t) => {
  const { bytes, ends } = await logBytes()
  for (let at = SEGMENT_HEADER_BYTES; at < (ends[RECORDS - 1] ?? 0); at++) {
    const broken = bytes.slice()
    broken[at] = (broken[at] ?? 0) ^ (1 << (at % 8))
    const epoch = ends.findIndex((end) => end > at)
    const disk = diskWith(broken)
    const refused = await open(disk).then(
      (store) => store.close().then(() => undefined),
      (error: Error & { code?: string }) => error,
    )
    if (refused?.code !== 'BUS_FAILED' || !refused.message.includes(`the record of epoch ${epoch} is `)) {
      t.fail(`byte ${at}, epoch ${epoch}: ${refused?.message}`)
    }
    if (Buffer.compare(disk.bytesOf(FILE), broken) !== 0) t.fail(`byte ${at}: the refused log was changed`)
  }
})

t.test(
  'every byte of the last record flipped: cut when the crash can have torn it, refused after a clean close',
  async (t) => {
    const { bytes, ends } = await logBytes()
    const clean = new SimDisk()
    clean.put(FILE, bytes)
    await (await open(clean)).close()
    const sealed = Uint8Array.from(clean.bytesOf(FILE))
    t.equal(sealed.length, (ends[RECORDS] ?? 0) + RECORD_HEADER_BYTES)
    for (let at = ends[RECORDS - 1] ?? 0; at < (ends[RECORDS] ?? 0); at++) {
      const broken = bytes.slice()
      broken[at] = (broken[at] ?? 0) ^ 0x10
      const store = await open(diskWith(broken))
      t.equal(store.recovery.newestEpoch, RECORDS - 1)
      await store.close()
      const brokenSealed = sealed.slice()
      brokenSealed[at] = (brokenSealed[at] ?? 0) ^ 0x10
      await t.rejects(open(diskWith(brokenSealed)), {
        code: 'BUS_FAILED',
        message: /closed cleanly after it/,
      })
    }
  },
)

t.test('every byte of the segment header flipped: refused', async (t) => {
  const { bytes } = await logBytes()
  for (let at = 0; at < SEGMENT_HEADER_BYTES; at += at < 64 || at > 4080 ? 1 : 61) {
    const broken = bytes.slice()
    broken[at] = (broken[at] ?? 0) ^ 0x80
    await t.rejects(open(diskWith(broken)), { code: 'BUS_FAILED' }, `byte ${at}`)
  }
})

t.test('bytes of an unfinished write behind the end are cut, wherever they begin', async (t) => {
  const { bytes, ends } = await logBytes()
  const end = ends[RECORDS] ?? 0
  for (let at = end; at < end + 700; at += 13) {
    const torn = bytes.slice()
    torn.fill(0xa5, at, at + 100)
    const store = await open(diskWith(torn))
    t.match(store.recovery, { newestEpoch: RECORDS, tornBytes: at + 100 - end, row: 'F' })
    await store.close()
  }
})

t.test(
  'what a client writes cannot pass for a record: a copy of the log inside a torn record is no damage',
  async (t) => {
    const { bytes, ends } = await logBytes()
    const disk = diskWith(bytes)
    const store = await open(disk)
    const epoch = RECORDS + 1
    // Frames that hold a whole record of another segment with a later epoch.
    const other = new SimDisk()
    const elsewhere = await openStore(DIR, { disk: other, segmentBytes: 8192 })
    await appendAll(elsewhere, 1, 20)
    const foreign = Uint8Array.from(other.bytesOf(FILE)).subarray(
      SEGMENT_HEADER_BYTES,
      SEGMENT_HEADER_BYTES + 2048,
    )
    await store.append({ ...recordOf(epoch), frames: foreign })
    const torn = Uint8Array.from(disk.bytesOf(FILE))
    torn.fill(0, ends[RECORDS], (ends[RECORDS] ?? 0) + 40)
    const again = await open(diskWith(torn))
    t.equal(again.recovery.newestEpoch, RECORDS)
    t.ok(again.recovery.tornBytes > 2000)
    await again.close()
  },
)

t.test('damage or a hole in an earlier segment is refused when it is read', async (t) => {
  const disk = new SimDisk()
  const store = await open(disk)
  await appendAll(store, 1, 100)
  await store.close()
  const names = disk.files.filter((file) => file.endsWith('.seg'))
  t.ok(names.length >= 4)
  const second = names[1] ?? ''
  const whole = Uint8Array.from(disk.bytesOf(second))
  const broken = whole.slice()
  broken[SEGMENT_HEADER_BYTES + 200] = (broken[SEGMENT_HEADER_BYTES + 200] ?? 0) ^ 1
  disk.put(second, broken)
  const damaged = await open(disk)
  t.throws(() => epochsIn(damaged), { code: 'BUS_FAILED', message: /record of epoch \d+ is damaged/ })
  await t.rejects(
    damaged.read(100).then(() => damaged.read(Number(/(\d+)\.seg/.exec(second)?.[1]) + 1)),
    {
      code: 'INTERNAL',
    },
  )
  await damaged.close()
  disk.put(second, whole)
  const sound = await open(disk)
  t.same(epochsIn(sound), epochsTo(100))
  await sound.close()
  disk.remove(second)
  await t.rejects(
    open(disk).then((s) => epochsIn(s)),
    { code: 'BUS_FAILED', message: /is missing/ },
  )
})

t.test('a segment of another bus is refused', async (t) => {
  const one = new SimDisk()
  const a = await open(one)
  await appendAll(a, 1, 100)
  await a.close()
  const two = new SimDisk()
  const b = await open(two)
  await appendAll(b, 1, 100)
  await b.close()
  const name = two.files.filter((file) => file.endsWith('.seg'))[1] ?? ''
  one.put(name, two.bytesOf(name))
  await t.rejects(open(one), { code: 'BUS_FAILED', message: /belongs to another bus/ })
})

t.test('a record is a copy of what was given', async (t) => {
  const disk = new SimDisk()
  const store = await open(disk)
  const record = recordOf(1)
  const before = plain(record)
  await store.append(record)
  record.frames.fill(0)
  t.same(plain(await store.read(1)), before)
  await store.close()
})
