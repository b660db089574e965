/**
 * The store alone: durable appends with and without zeros written ahead, a checkpoint beside writing the same
 * bytes plainly, appends while a checkpoint is written, and reading the log back beside memcpy.
 */
import { randomFillSync } from 'node:crypto'
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Store } from '../../src/store/store.js'
import { alternate, median, percentile } from '../lib/stats.js'
import type { Context, Result } from '../lib/types.js'

const dist = async (file: string): Promise<unknown> =>
  import(new URL(`../../dist/${file}`, import.meta.url).href)
type StoreModule = typeof import('../../src/store/store.js')
type DiskModule = typeof import('../../src/store/os/disk.js')
type Library = typeof import('../../src/ffi/library.js')

const PIECE_BYTES = 1024 ** 2
const DIGEST = new Uint8Array(16)
const TOUCHED = Uint32Array.of(1)
const CHECKPOINT_BUDGET = 0.8
const REPLAY_BUDGET = 0.5

export async function store(context: Context): Promise<Result[]> {
  const results: Result[] = []
  for (const sizeBytes of [512, 4096]) results.push(await appends(context, sizeBytes))
  results.push(...(await checkpoints(context)))
  for (const sizeBytes of [512, 64 * 1024]) results.push(await readBack(context, sizeBytes))
  return results
}

async function openStore(dir: string, fsync: 'always' | 'off', zeroAhead = true): Promise<Store> {
  const { Store } = (await dist('store/store.js')) as StoreModule
  const { realDisk } = (await dist('store/os/disk.js')) as DiskModule
  const { allocateFile, crc32c } = (await dist('ffi/library.js')) as Library
  const disk = realDisk(allocateFile)
  const reserving = {
    ...disk,
    allocate: (fd: number, offset: number, length: number) => disk.allocate(fd, offset, length) && zeroAhead,
  }
  return Store.open({ dir, fsync, crc32c, disk: reserving })
}

async function appendOne(log: Store, epoch: number, frames: Uint8Array): Promise<void> {
  const reserved = log.reserve(frames.length)
  if (reserved !== undefined) await reserved
  await log.append({
    epoch,
    timestampMs: 1,
    digestBefore: DIGEST,
    frameCount: 1,
    frames,
    touchedPages: TOUCHED,
  })
}

/** Microseconds of each append, one after another. */
async function timeAppends(log: Store, count: number, frames: Uint8Array): Promise<number[]> {
  const times: number[] = []
  const first = log.newestEpoch + 1
  for (let epoch = first; epoch < first + count; epoch++) {
    const started = performance.now()
    await appendOne(log, epoch, frames)
    times.push((performance.now() - started) * 1000)
  }
  return times
}

async function inFolder<T>(context: Context, run: (dir: string) => Promise<T>): Promise<T> {
  const dir = mkdtempSync(join(context.dir, 'store-'))
  try {
    return await run(dir)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function appends(context: Context, sizeBytes: number): Promise<Result> {
  context.say(`durable appends of ${sizeBytes} bytes`)
  const count = context.quick ? 300 : 3000
  const p99s: Record<string, number[]> = { ahead: [], reserved: [] }
  const measure = (zeroAhead: boolean) => () =>
    inFolder(context, async (dir) => {
      const log = await openStore(dir, 'always', zeroAhead)
      const times = await timeAppends(log, count, new Uint8Array(sizeBytes).fill(7))
      await log.close()
      p99s[zeroAhead ? 'ahead' : 'reserved']?.push(percentile(times, 0.99))
      return median(times)
    })
  const pairs = await alternate(context.quick ? 1 : 5, measure(true), measure(false))
  return {
    name: `durable append, ${sizeBytes} bytes, asynchronous`,
    unit: 'us',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'the same, no zeros written ahead',
    ratio: pairs.ratio,
    budget: null,
    details: { p99: median(p99s.ahead ?? []), baselineP99: median(p99s.reserved ?? []) },
  }
}

function writePlainly(dir: string, bytes: Uint8Array): number {
  const fd = openSync(join(dir, 'plain'), 'w')
  const started = performance.now()
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) writeSync(fd, bytes, at, PIECE_BYTES)
  fsyncSync(fd)
  const ms = performance.now() - started
  closeSync(fd)
  return bytes.length / 1e6 / (ms / 1000)
}

const sourceOf = (epoch: number, bytes: Uint8Array, onRead: () => void = () => {}) => ({
  header: { epoch, timestampMs: 1, digest: DIGEST, nextPageId: 2, extra: '{}' },
  pages: [{ id: 1, version: 1, createdEpoch: 1, bytes: bytes.length, meta: new Uint8Array(64) }],
  read: (_id: number, offset: number, into: Uint8Array) =>
    into.set(bytes.subarray(offset, offset + into.length)),
  onRead,
})

async function checkpoints(context: Context): Promise<Result[]> {
  const bytes = new Uint8Array((context.quick ? 64 : 1024) * PIECE_BYTES)
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) randomFillSync(bytes, at, PIECE_BYTES)
  const mib = bytes.length / PIECE_BYTES
  context.say(`checkpoints of ${mib} MiB`)
  const frames = new Uint8Array(512)
  const handOver: number[] = []
  const speed = await alternate(
    context.quick ? 1 : 3,
    () =>
      inFolder(context, async (dir) => {
        const log = await openStore(dir, 'always')
        await appendOne(log, 1, frames)
        const started = performance.now()
        await log.checkpoint(sourceOf(1, bytes, () => handOver.push(performance.now() - started)))
        const ms = performance.now() - started
        await log.close()
        return bytes.length / 1e6 / (ms / 1000)
      }),
    () => inFolder(context, async (dir) => writePlainly(dir, bytes)),
  )
  const quiet: number[] = []
  const busy: number[] = []
  const repeats = context.quick ? 1 : 3
  for (let i = 0; i < repeats; i++) {
    await inFolder(context, async (dir) => {
      const log = await openStore(dir, 'always')
      quiet.push(percentile(await timeAppends(log, 1000, frames), 0.99))
      let writing = true
      const written = log.checkpoint(sourceOf(log.newestEpoch, bytes)).finally(() => {
        writing = false
      })
      const times: number[] = []
      while (writing) times.push(...(await timeAppends(log, 10, frames)))
      await written
      busy.push(percentile(times, 0.99))
      await log.close()
    })
  }
  const ratio = median(busy.map((value, i) => value / (quiet[i] ?? 1)))
  return [
    {
      name: `checkpoint, ${mib} MiB, incompressible`,
      unit: 'MB/s',
      mmsb: speed.a,
      baseline: speed.b,
      against: 'write and fsync of the same bytes',
      ratio: speed.ratio,
      budget: { text: '>= 80 %', met: speed.ratio >= CHECKPOINT_BUDGET },
      details: { handOverMs: median(handOver) },
    },
    {
      name: 'durable append p99 while a checkpoint is written',
      unit: 'us',
      mmsb: median(busy),
      baseline: median(quiet),
      against: 'the same with no checkpoint',
      ratio,
      budget: { text: '<= 2 x', met: ratio <= 2 },
    },
  ]
}

async function readBack(context: Context, sizeBytes: number): Promise<Result> {
  context.say(`reading back records of ${sizeBytes} bytes`)
  const logBytes = (context.quick ? 32 : 256) * PIECE_BYTES
  return inFolder(context, async (dir) => {
    const log = await openStore(dir, 'off')
    const frames = new Uint8Array(sizeBytes).fill(3)
    const count = Math.floor(logBytes / sizeBytes)
    for (let epoch = 1; epoch <= count; epoch++) await appendOne(log, epoch, frames)
    const total = log.stats().bytes
    const [from, to] = [Buffer.alloc(64 * PIECE_BYTES, 1), Buffer.alloc(64 * PIECE_BYTES, 2)]
    const pairs = await alternate(
      context.quick ? 1 : 5,
      async () => {
        const started = performance.now()
        let found = 0
        for (const _ of log.records(0)) found++
        if (found !== count) throw new Error(`${found} of ${count} records came back`)
        return total / 1e6 / (performance.now() - started)
      },
      async () => {
        const started = performance.now()
        from.copy(to)
        return from.length / 1e6 / (performance.now() - started)
      },
    )
    await log.close()
    const met = pairs.a >= 1 || pairs.ratio >= REPLAY_BUDGET
    return {
      name: `log read back and checked, records of ${sizeBytes} bytes`,
      unit: 'GB/s',
      mmsb: pairs.a,
      baseline: pairs.b,
      against: 'memcpy',
      ratio: pairs.ratio,
      budget: { text: '>= 1 GB/s or half of memcpy', met },
    }
  })
}
