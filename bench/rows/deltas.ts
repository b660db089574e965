/**
 * How fast deltas go in, in process: small ones with the log off, and bytes with the log on (each epoch
 * synced) beside writing and fdatasyncing the same bytes plainly.
 */
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Bus } from '../../src/index.js'
import { encodeFrame } from '../lib/frame.js'
import { pairsOf } from '../lib/pairs.js'
import { median } from '../lib/stats.js'
import { loadLibrary } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const ELEMENTS = 1024 ** 2
const SMALL_VALUES = 4
const DELTAS_PER_FRAME = 1000
const FRAMES = 200
const RATE_BUDGET = 10e6
const LARGE_VALUES = 256 * 1024
const LOG_BUDGET = 0.8
/** Frames in flight: enough for the next batch to gather while one is written. */
const IN_FLIGHT = 16
const BATCH = IN_FLIGHT / 2

export async function deltas(context: Context): Promise<Result[]> {
  return [await logOff(context), await logOn(context)]
}

async function openBus(dataDir?: string): Promise<{ bus: Bus; pageId: number }> {
  const { Bus } = await loadLibrary()
  const bus = await Bus.open(dataDir === undefined ? {} : { dataDir })
  const { page } = await bus.create('d', { dtype: 'f32', shape: [ELEMENTS] })
  return { bus, pageId: page.id }
}

/** Submits frames with a few in flight, and returns how long all of them took. */
async function submitAll(bus: Bus, frames: readonly Uint8Array[]): Promise<number> {
  const started = performance.now()
  const inFlight: Promise<unknown>[] = []
  for (const frame of frames) {
    if (inFlight.length === IN_FLIGHT) await inFlight.shift()
    inFlight.push(bus.submit(frame))
  }
  await Promise.all(inFlight)
  return performance.now() - started
}

async function logOff(context: Context): Promise<Result> {
  context.say('small deltas, log off')
  const { bus, pageId } = await openBus()
  const makeFrames = (): Uint8Array[] =>
    Array.from({ length: context.quick ? FRAMES / 10 : FRAMES }, (_, frame) =>
      encodeFrame(
        Array.from({ length: DELTAS_PER_FRAME }, (_, i) => ({
          pageId,
          offset: ((frame * DELTAS_PER_FRAME + i) * 16) % ELEMENTS,
          values: new Float32Array(SMALL_VALUES).fill(frame + i),
        })),
      ),
    )
  const target = new Float32Array(ELEMENTS)
  const ours = async () => {
    const frames = makeFrames()
    return (frames.length * DELTAS_PER_FRAME) / ((await submitAll(bus, frames)) / 1000)
  }
  const plain = async () => {
    const values = new Float32Array(SMALL_VALUES).fill(1)
    const count = FRAMES * DELTAS_PER_FRAME
    const started = performance.now()
    for (let i = 0; i < count; i++) target.set(values, (i * 16) % ELEMENTS)
    return count / ((performance.now() - started) / 1000)
  }
  await ours()
  const name = `in-process deltas of 16 bytes, ${DELTAS_PER_FRAME} a frame, log off`
  const pairs = await pairsOf(context, { name, better: 'higher' }, 7, ours, plain)
  const perPatch = 'in-process deltas of 16 bytes by patch(), one a call, 64 in flight, log off'
  await context.compared?.({ name: perPatch, better: 'higher' }, () => perCall(bus, 20_000))
  const single = await perCall(bus, context.quick ? 2_000 : 20_000)
  await bus.close()
  return {
    name,
    unit: 'deltas/s',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'TypedArray.set of the same values',
    ratio: pairs.ratio,
    budget: { text: `>= ${RATE_BUDGET / 1e6} M/s`, met: pairs.a >= RATE_BUDGET },
    details: { 'deltas/s by patch(), one a call, 64 in flight': single },
  }
}

async function perCall(bus: Bus, count: number): Promise<number> {
  const values = new Float32Array(SMALL_VALUES).fill(3)
  const started = performance.now()
  for (let at = 0; at < count; at += 64) {
    await Promise.all(
      Array.from({ length: 64 }, (_, i) => bus.patch('d', { offset: (at + i) % ELEMENTS, values })),
    )
  }
  return count / ((performance.now() - started) / 1000)
}

async function logOn(context: Context): Promise<Result> {
  context.say('deltas of 1 MiB, log on')
  const { bus, pageId } = await openBus(join(context.dir, 'log-on'))
  const values = new Float32Array(LARGE_VALUES)
  const count = context.quick ? 32 : 192
  const megabytes = (count * values.byteLength) / 1e6
  let serial = 0
  const ours = async () => {
    const frames = Array.from({ length: count }, (_, i) => {
      values.fill(++serial)
      return encodeFrame([{ pageId, offset: (i % (ELEMENTS / LARGE_VALUES)) * LARGE_VALUES, values }])
    })
    return megabytes / ((await submitAll(bus, frames)) / 1000)
  }
  // The baseline has the same shape: half of what is in flight is one batch, written and synced once, while
  // the rest gathers. Into a new file each time, as the log's are: a virtual disk may write blocks it has
  // written before several times faster than others.
  const chunk = Buffer.alloc(values.byteLength * BATCH, 7)
  const plain = async () => {
    const fd = openSync(join(context.dir, `plain-${++serial}.log`), 'wx')
    const started = performance.now()
    for (let at = 0; at < count; at += BATCH) {
      writeSync(fd, chunk)
      fdatasyncSync(fd)
    }
    const seconds = (performance.now() - started) / 1000
    closeSync(fd)
    return megabytes / seconds
  }
  await ours()
  const name = 'in-process deltas of 1 MiB, log on, fsync always'
  const pairs = await pairsOf(context, { name, better: 'higher' }, 7, ours, plain)
  const durablePatch = 'one small durable patch() at a time, median'
  await context.compared?.({ name: durablePatch, better: 'lower' }, () => medianPatchUs(bus, 200))
  const patchUs = await medianPatchUs(bus, context.quick ? 50 : 500)
  await bus.close()
  return {
    name,
    unit: 'MB/s',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'write + fdatasync of the same bytes',
    ratio: pairs.ratio,
    budget: { text: `>= ${LOG_BUDGET * 100} %`, met: pairs.ratio >= LOG_BUDGET },
    details: { 'median us of one small durable patch()': patchUs },
  }
}

async function medianPatchUs(bus: Bus, count: number): Promise<number> {
  const latencies: number[] = []
  for (let i = 0; i < count; i++) {
    const started = performance.now()
    await bus.patch('d', { offset: i, values: [i] })
    latencies.push((performance.now() - started) * 1000)
  }
  return median(latencies)
}
