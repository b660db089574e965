/**
 * Checkpoints and starts of a whole bus: commits while a checkpoint of 1 GiB is written, a checkpoint
 * after 1 % of the chunks changed, and the parts of a start with 1 GiB of state and a million epochs since
 * the checkpoint.
 */
import { randomFillSync } from 'node:crypto'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Bus } from '../../src/index.js'
import { median, percentile } from '../lib/stats.js'
import { loadLibrary } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const CHUNK_BYTES = 64 * 1024
const PIECE_BYTES = 16 * 1024 ** 2
const PAGES = 4
const EPOCHS = 1_000_000

export async function recovery(context: Context): Promise<Result[]> {
  const dir = join(context.dir, 'bus')
  mkdirSync(dir)
  const bytes = (context.quick ? 64 : 1024) * 1024 ** 2
  const bus = await openBus(dir, 'always')
  await fill(context, bus, bytes)
  const results = [...(await checkpoints(context, bus, bytes))]
  await bus.close()
  results.push(await start(context, dir, bytes))
  rmSync(dir, { recursive: true })
  return results
}

async function openBus(
  dataDir: string,
  fsync: 'always' | 'off',
  onNotice: (notice: { message: string }) => void = () => {},
): Promise<Bus> {
  const { Bus } = await loadLibrary()
  const checkpoints = { everyEpochs: 0, everyBytes: 0 }
  return Bus.open({ dataDir, fsync, backend: 'cpu', checkpoints, onNotice })
}

const pageName = (i: number): string => `page${i}`

async function fill(context: Context, bus: Bus, bytes: number): Promise<void> {
  context.say(`${bytes >> 20} MiB of incompressible pages`)
  const pageBytes = bytes / PAGES
  for (let i = 0; i < PAGES; i++) {
    await bus.create(pageName(i), { dtype: 'u8', shape: [pageBytes] })
    for (let at = 0; at < pageBytes; at += PIECE_BYTES) {
      const values = randomFillSync(new Uint8Array(Math.min(PIECE_BYTES, pageBytes - at)))
      await bus.patch(pageName(i), { offset: at, values })
    }
  }
  await bus.create('small', { dtype: 'f64', shape: [64] })
}

/** Milliseconds of small commits, one after another, until `stop` is called. */
async function commits(bus: Bus, goesOn: (done: number) => boolean): Promise<number[]> {
  const times: number[] = []
  while (goesOn(times.length)) {
    const started = performance.now()
    await bus.patch('small', { offset: times.length % 64, values: [times.length] })
    times.push(performance.now() - started)
  }
  return times
}

async function checkpoints(context: Context, bus: Bus, bytes: number): Promise<Result[]> {
  context.say('commits alone, then while a checkpoint is written')
  const quiet = await commits(bus, (done) => done < 2000)
  let isWriting = true
  const whole = bus.checkpoint().finally(() => {
    isWriting = false
  })
  const busy = await commits(bus, () => isWriting)
  const { ms, newBytes } = await whole
  const [before, during] = [percentile(quiet, 0.99), percentile(busy, 0.99)]
  context.say('a checkpoint after 1 % of the chunks changed')
  const chunks = bytes / CHUNK_BYTES
  const changed = Math.max(1, Math.round(chunks / 100))
  for (let i = 0; i < changed; i++) {
    const at = Math.floor((i * chunks) / changed) * CHUNK_BYTES
    const pageBytes = bytes / PAGES
    await bus.patch(pageName(Math.floor(at / pageBytes)), {
      offset: at % pageBytes,
      values: randomFillSync(new Uint8Array(16)),
    })
  }
  const part = await bus.checkpoint()
  return [
    {
      name: `commit p99 while a checkpoint of ${bytes >> 20} MiB is written`,
      unit: 'ms',
      mmsb: during,
      baseline: before,
      against: 'the same with no checkpoint',
      ratio: during / before,
      budget: { text: '<= 2 x', met: during <= 2 * before },
      details: { checkpointMs: ms, commits: busy.length, p50: median(busy), quietP50: median(quiet) },
    },
    {
      name: 'bytes written by a checkpoint after 1 % of the chunks changed',
      unit: '% of the whole',
      mmsb: (100 * part.newBytes) / newBytes,
      baseline: (100 * changed) / chunks,
      against: 'the chunks that changed',
      ratio: part.newBytes / newBytes / (changed / chunks),
      budget: { text: 'about 1 %', met: part.newBytes < 0.02 * newBytes },
      details: { ms: part.ms, wholeMs: ms },
    },
  ]
}

async function start(context: Context, dir: string, bytes: number): Promise<Result> {
  const epochs = context.quick ? 20_000 : EPOCHS
  context.say(`${epochs} epochs since the checkpoint`)
  const writer = await openBus(dir, 'off')
  const first = writer.epoch
  for (let i = 0; i < epochs; i++) await writer.patch('small', { offset: i % 64, values: [i] })
  const replayed = writer.epoch - first
  await writer.close()
  const notices: string[] = []
  context.say('starting')
  const startedMs = performance.now()
  const bus = await openBus(dir, 'always', ({ message }) => notices.push(message))
  const totalMs = performance.now() - startedMs
  await bus.close()
  const number = (pattern: RegExp): number =>
    Number(notices.map((text) => pattern.exec(text)?.[1]).find((found) => found !== undefined) ?? 0)
  const loadMs = number(/loaded in (\d+) ms/)
  const replayMs = number(/replayed in (\d+) ms/)
  return {
    name: `start with ${bytes >> 20} MiB of state and ${replayed} epochs since the checkpoint`,
    unit: 'ms',
    mmsb: totalMs,
    baseline: 0,
    against: '-',
    ratio: null,
    budget: null,
    details: {
      readAndCheckMs: Math.round(totalMs - loadMs - replayMs),
      loadMs,
      replayMs,
      usPerEpoch: (1000 * replayMs) / replayed,
    },
  }
}
