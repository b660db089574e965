/**
 * Pages of every size at which the log or a checkpoint goes another way: they are there after a restart, from
 * the log, from a checkpoint and from one that was merged with it; at epochs in between too.
 */
import t from 'tap'
import type { BusOptions, EpochList } from '../../../src/engine/types.js'
import { Bus } from '../../../src/index.js'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PACK_BYTES,
  CHECKPOINT_PACK_CHUNKS_MAX,
  CHECKPOINT_PIECE_PAGES_MAX,
  INDEX_BATCH_ROWS,
  INDEX_BLOCK_BYTES,
  INDEX_BLOCK_PAGES_MAX,
  LOG_READ_BYTES,
  LOG_ZERO_MARGIN_BYTES,
  LOG_ZERO_PIECE_BYTES,
  RECORD_ALIGN_BYTES,
  RECORD_GATHER_MAX_BYTES,
  RECORD_HEADER_BYTES,
} from '../../../src/limits.js'
import { folder } from '../../lib/folder.js'

const open = (dataDir: string, options: BusOptions = {}): Promise<Bus> =>
  Bus.open({ backend: 'cpu', threads: 1, dataDir, fsync: 'off', ...options })

/** What a frame with one delta has beside its values, and what a record has beside its frames. */
const AROUND = [
  -RECORD_HEADER_BYTES - 128,
  -RECORD_ALIGN_BYTES,
  -1,
  0,
  1,
  RECORD_ALIGN_BYTES,
  RECORD_HEADER_BYTES,
]

const SIZES = [
  ...new Set(
    [
      CHECKPOINT_CHUNK_BYTES,
      RECORD_GATHER_MAX_BYTES,
      LOG_ZERO_MARGIN_BYTES,
      INDEX_BLOCK_BYTES,
      CHECKPOINT_PACK_BYTES,
      LOG_READ_BYTES,
      LOG_ZERO_PIECE_BYTES,
    ].flatMap((size) => AROUND.map((more) => size + more)),
  ),
]

const valuesOf = (size: number, round: number): Uint8Array =>
  new Uint8Array(size).map((_, i) => (i * 31 + (i >> 8) * 7 + size + round * 101) & 0xff)

t.test('pages around every size', async (t) => {
  const dataDir = folder(t)
  let bus = await open(dataDir)
  const epochs = new Map<number, number>()
  const check = (what: string, round: (size: number) => number): void => {
    for (const size of SIZES) {
      const values = bus.read(`p${size}`)
      if (Buffer.compare(values as Uint8Array, valuesOf(size, round(size))) !== 0)
        t.fail(`${what}: ${size} bytes`)
    }
  }
  const again = async (): Promise<void> => {
    await bus.close()
    bus = await open(dataDir)
  }
  for (const size of SIZES) await bus.create(`p${size}`, { dtype: 'u8', shape: [size] })
  for (const size of SIZES) {
    const { epoch } = await bus.write(`p${size}`, valuesOf(size, 0))
    epochs.set(size, epoch)
  }
  await again()
  check('from the log', () => 0)
  await bus.checkpoint()
  for (const size of SIZES.filter((_, i) => i % 2 === 0)) await bus.write(`p${size}`, valuesOf(size, 1))
  await again()
  const round = (size: number): number => (SIZES.indexOf(size) % 2 === 0 ? 1 : 0)
  check('from a checkpoint and the log after it', round)
  await bus.checkpoint()
  await again()
  check('from a checkpoint that shares chunks with an older one', round)
  for (const [size, epoch] of epochs) {
    const { values } = await bus.data(`p${size}`, { epoch })
    if (Buffer.compare(values as Uint8Array, valuesOf(size, 0)) !== 0) t.fail(`in the past: ${size} bytes`)
  }
  t.match(await bus.verify(), { ok: true })
  await bus.close()
})

t.test(
  'more pages than one pack or piece of a checkpoint, a block of the index or one of its batches holds',
  async (t) => {
    const dataDir = folder(t)
    const count = CHECKPOINT_PACK_CHUNKS_MAX + 1
    t.ok(count > INDEX_BLOCK_PAGES_MAX && count > CHECKPOINT_PIECE_PAGES_MAX)
    const names = Array.from({ length: count }, (_, i) => `p${i}`)
    let bus = await open(dataDir)
    await bus.createMany(names.map((name) => ({ name, definition: { dtype: 'u8', shape: [1] } })))
    await bus.create('big', { dtype: 'u8', shape: [INDEX_BLOCK_BYTES] })
    await bus.transact({ ops: names.map((page, i) => ({ page, values: [i & 0xff] })) })
    // Rows of the index are written in batches: one more block than a batch has.
    for (let i = 0; i <= INDEX_BATCH_ROWS; i++)
      await bus.patch('big', { values: valuesOf(INDEX_BLOCK_BYTES, i) })
    const { epoch } = await bus.patch('p7', { values: [200] })
    await bus.checkpoint()
    await bus.close()
    bus = await open(dataDir)
    t.teardown(() => bus.close())
    for (const [i, name] of names.entries()) {
      const wanted = i === 7 ? 200 : i & 0xff
      if (bus.read(name)[0] !== wanted) t.fail(`${name} is ${bus.read(name)[0]}`)
    }
    const changes = async (page: string): Promise<number[]> => {
      const found: number[] = []
      for (let from: number | undefined = 1; from !== undefined; ) {
        const { epochs, next }: EpochList = await bus.epochs({ page, from, limit: 1000 })
        found.push(...epochs.map((row) => row.epoch))
        from = next ?? undefined
      }
      return found
    }
    t.same(await changes('p7'), [1, 3, epoch], 'the block with too many pages lists none, which means: any')
    t.same(await changes('p8'), [1, 3])
  },
)
