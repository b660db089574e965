/**
 * Time travel: reading 10,000 epochs back in a long log, stepping on from there, and replaying the log
 * (propagation and digests included) beside memcpy of as many bytes.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Bus } from '../../src/index.js'
import { alternate, percentile } from '../lib/stats.js'
import { loadLibrary } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const EPOCHS = 1_000_000
const QUICK_EPOCHS = 20_000
const BACK = 10_000
/** Epochs between two checkpoints. */
const CHECKPOINT_EPOCHS = 100_000
const READ_BUDGET_MS = 1_000
const STEP_BUDGET_MS = 10
const STEPS = 500
const REPLAY_BYTES = 1024 ** 3
const QUICK_REPLAY_BYTES = 32 * 1024 ** 2
const DELTA_BYTES = 256 * 1024
const REPLAY_BUDGET = 0.5

export async function time(context: Context): Promise<Result[]> {
  return [...(await reading(context)), await replay(context)]
}

async function openIn(context: Context, name: string): Promise<{ bus: Bus; dir: string }> {
  const { Bus } = await loadLibrary()
  const dir = join(context.dir, name)
  mkdirSync(dir)
  return { bus: await Bus.open({ dataDir: dir, fsync: 'off', backend: 'cpu' }), dir }
}

async function reading(context: Context): Promise<Result[]> {
  const epochs = context.quick ? QUICK_EPOCHS : EPOCHS
  context.say(`a log of ${epochs} epochs`)
  const { bus, dir } = await openIn(context, 'long')
  await bus.create('a', { dtype: 'f32', shape: [1024] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a * 2 + 1' })
  const values = new Float32Array(4)
  for (let epoch = bus.epoch + 1; epoch <= epochs; epoch++) {
    values.fill(epoch)
    await bus.patch('a', { offset: (epoch * 7) % 1020, values })
    if (epoch % CHECKPOINT_EPOCHS === 0) await bus.checkpoint()
  }
  const target = epochs - BACK
  const timed = async (epoch: number): Promise<number> => {
    const started = performance.now()
    await bus.readAt('b', epoch)
    return performance.now() - started
  }
  await timed(2) // Starts the replay thread, as an earlier request would have.
  context.say(`reading ${BACK} epochs back, then stepping`)
  const readMs = await timed(target)
  const backward: number[] = []
  for (let i = 1; i <= STEPS; i++) backward.push(await timed(target - i))
  const forward: number[] = []
  for (let i = STEPS - 1; i >= 0; i--) forward.push(await timed(target - i))
  const beyond: number[] = []
  for (let i = 1; i <= STEPS; i++) beyond.push(await timed(target + i))
  await bus.close()
  rmSync(dir, { recursive: true })
  const steps = [...backward, ...forward, ...beyond]
  const stepMs = percentile(steps, 0.99)
  return [
    {
      name: `read a page ${BACK} epochs back`,
      unit: 'ms',
      mmsb: readMs,
      baseline: READ_BUDGET_MS,
      against: 'the budget',
      ratio: null,
      budget: { text: `under ${READ_BUDGET_MS} ms`, met: readMs < READ_BUDGET_MS },
      details: { epochs, checkpointEpochs: CHECKPOINT_EPOCHS },
    },
    {
      name: 'step one epoch in the past, p99',
      unit: 'ms',
      mmsb: stepMs,
      baseline: STEP_BUDGET_MS,
      against: 'the budget',
      ratio: null,
      budget: { text: `under ${STEP_BUDGET_MS} ms`, met: stepMs < STEP_BUDGET_MS },
      details: {
        backwardP50: percentile(backward, 0.5),
        forwardP50: percentile(forward, 0.5),
        max: Math.max(...steps),
      },
    },
  ]
}

async function replay(context: Context): Promise<Result> {
  const bytes = context.quick ? QUICK_REPLAY_BYTES : REPLAY_BYTES
  context.say(`replaying ${bytes >> 20} MiB of log`)
  const { bus, dir } = await openIn(context, 'wide')
  const elements = DELTA_BYTES / 8
  await bus.create('a', { dtype: 'f64', shape: [elements] })
  const values = new Float64Array(elements)
  for (let written = 0, serial = 1; written < bytes; written += DELTA_BYTES, serial++) {
    for (let i = 0; i < elements; i++) values[i] = serial + i
    await bus.patch('a', { values })
  }
  const logBytes = bus.stats().log?.bytes ?? bytes
  const replayed = async (): Promise<number> => {
    const started = performance.now()
    const { ok } = await bus.verify()
    if (!ok) throw new Error('the log does not verify')
    return logBytes / (performance.now() - started) / 1e6
  }
  const [from, to] = [Buffer.alloc(DELTA_BYTES, 1), Buffer.alloc(DELTA_BYTES, 2)]
  const copied = async (): Promise<number> => {
    const started = performance.now()
    for (let done = 0; done < logBytes; done += DELTA_BYTES) from.copy(to)
    return logBytes / (performance.now() - started) / 1e6
  }
  const pairs = await alternate(context.quick ? 1 : 3, replayed, copied)
  await bus.close()
  rmSync(dir, { recursive: true })
  const met = pairs.a >= 1 || pairs.ratio >= REPLAY_BUDGET
  return {
    name: 'replay of the log, digests checked',
    unit: 'GB/s',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'memcpy of as many bytes, in cache',
    ratio: pairs.ratio,
    budget: { text: '1 GB/s, or half of memcpy', met },
    details: { logMiB: Math.round(logBytes / 1024 ** 2), threadStartIncluded: 'yes' },
  }
}
