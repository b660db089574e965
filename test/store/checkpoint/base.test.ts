/** An older checkpoint as the base of a new one: which chunks it has, and which of its files are thin. */
import t from 'tap'
import { CHECKPOINT_FILES_MAX, CHECKPOINT_THIN_SHARE } from '../../../src/limits.js'
import { openBase } from '../../../src/store/checkpoint/base.js'
import { checkpointName, checkpointStem, chunkHash, writeRef } from '../../../src/store/checkpoint/format.js'
import { BUS_ID, CHUNK, chunksOf, MemoryFolder, written } from './memory-folder.js'

const hashOf = (seed: number, index: number): Buffer =>
  chunkHash(chunksOf(seed, index + 1).subarray(index * CHUNK, (index + 1) * CHUNK))

/** One file: page 1 of three chunks, the middle one of zeros; page 2 has the first chunk of page 1 again. */
async function oneFile(): Promise<MemoryFolder> {
  const folder = new MemoryFolder()
  const bytes = chunksOf(1, 3)
  bytes.fill(0, CHUNK, 2 * CHUNK)
  await written(
    folder,
    1,
    new Map([
      [1, bytes],
      [2, chunksOf(1, 1)],
    ]),
  )
  return folder
}

t.test('its chunks are found by their hash, by their page, and read', async (t) => {
  const folder = await oneFile()
  folder.size = 1
  const base = openBase(folder, 1, BUS_ID)
  t.equal(base.epoch, 1)
  t.match(base.find(hashOf(1, 0)), { pack: 1, slot: 0, file: 0 })
  t.match(base.find(hashOf(1, 2)), { pack: 1, slot: 1, file: 0 })
  t.equal(base.find(hashOf(1, 1)), undefined)
  const chunks = base.chunksOf(1, 3 * CHUNK)
  t.match(chunks, [{ slot: 0 }, undefined, { slot: 1 }])
  t.equal(Buffer.compare(base.read(chunks[2]!), chunksOf(1, 3).subarray(2 * CHUNK)), 0)
  t.match(base.chunksOf(2, CHUNK), [{ slot: 0 }])
  const why = { message: /^checkpoint 1 does not have page \d with \d+ bytes/ }
  t.throws(() => base.chunksOf(3, CHUNK), why)
  t.throws(() => base.chunksOf(2, CHUNK - 1), why)
  base.close()
  t.equal(folder.openCount, 0)
})

t.test('a file of which little is used is thin: a chunk counts once', async (t) => {
  const folder = await oneFile()
  const liveBytes = 2 * CHUNK
  for (const [size, isThin] of [
    [liveBytes / CHECKPOINT_THIN_SHARE, false],
    [liveBytes / CHECKPOINT_THIN_SHARE + 1, true],
  ] as const) {
    folder.size = size
    const base = openBase(folder, 1, BUS_ID)
    t.same(base.isThin, [isThin])
    t.equal(base.find(hashOf(1, 0)) === undefined, isThin)
    base.close()
  }
})

t.test('if too many files are in use, those of which least is used are thin too', async (t) => {
  const folder = new MemoryFolder()
  folder.size = 1
  const pages = new Map<number, Uint8Array | number>()
  // The file of epoch 3 has the smallest chunk, then that of epoch 2.
  const sizeOf = (epoch: number): number => (epoch === 3 ? 100 : epoch === 2 ? 200 : 300 + epoch)
  for (let epoch = 1; epoch < CHECKPOINT_FILES_MAX; epoch++) {
    const base = epoch === 1 ? undefined : openBase(folder, epoch - 1, BUS_ID)
    t.notOk(base?.isThin.includes(true), `${epoch - 1} files`)
    await written(folder, epoch, new Map(pages).set(epoch, chunksOf(epoch, 0, sizeOf(epoch))), base)
    pages.set(epoch, sizeOf(epoch))
  }
  const newest = CHECKPOINT_FILES_MAX - 1
  const whole = openBase(folder, newest, BUS_ID)
  t.same(whole.isThin, Array(newest).fill(false))
  await written(folder, newest + 1, new Map(pages).set(90, chunksOf(90, 0, 400)), whole)
  const base = openBase(folder, newest + 1, BUS_ID)
  const thin = base.family.filter((_, i) => base.isThin[i]).map(({ stem }) => stem)
  t.same(thin, [checkpointStem(3)])
  base.close()
})

t.test('a base that is broken is refused, and what it had opened is closed', async (t) => {
  const folder = await oneFile()
  t.throws(() => openBase(folder, 1, 'other'), { message: /another bus/ })
  t.throws(() => openBase(folder, 2, BUS_ID), { message: /the file is missing/ })
  t.equal(folder.openCount, 0)
  for (const ref of [
    { pack: 1, slot: 2, file: 0 },
    { pack: 2, slot: 0, file: 0 },
    { pack: 1, slot: 0, file: 1 },
  ]) {
    const refs = Buffer.alloc(8)
    writeRef(refs, 0, ref)
    folder.forge(checkpointName(1), (db) => db.prepare('UPDATE page SET refs = ? WHERE id = 2').run(refs))
    t.throws(() => openBase(folder, 1, BUS_ID), { message: /refers to a chunk that is not there/ })
    t.equal(folder.openCount, 0)
  }
})

t.test('a chunk that is damaged, or longer than a chunk, is not copied', async (t) => {
  const why = { message: `a chunk of the file ${checkpointStem(1)} does not match its hash` }
  const folder = await oneFile()
  folder.change(checkpointName(1), (db) => {
    const data = db.prepare('SELECT data FROM pack').pluck().get() as Buffer
    data[5] = (data[5] as number) ^ 1
    db.prepare('UPDATE pack SET data = ?').run(data)
  })
  const base = openBase(folder, 1, BUS_ID)
  const [first, , third] = base.chunksOf(1, 3 * CHUNK)
  t.throws(() => base.read(first!), why)
  t.equal(base.read(third!).length, CHUNK)
  t.throws(() => base.read({ ...third!, pack: 9 }), why)
  base.close()
  const long = await oneFile()
  long.forge(checkpointName(1), (db) => {
    const data = Buffer.alloc(CHUNK + 1, 7)
    const entry = Buffer.alloc(40)
    chunkHash(data).copy(entry)
    entry.writeUInt32LE(data.length, 36)
    db.prepare('UPDATE pack SET data = ?, chunks = ?').run(data, entry)
    db.exec('DELETE FROM page WHERE id = 1')
  })
  const longer = openBase(long, 1, BUS_ID)
  t.throws(() => longer.read(longer.chunksOf(2, CHUNK)[0]!), why)
  longer.close()
})
