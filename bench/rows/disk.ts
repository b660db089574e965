/**
 * What the machine can do: memcpy, and appends of 512 bytes with fdatasync. Baselines that other
 * rows refer to.
 */
import { closeSync, fdatasync, fdatasyncSync, openSync, write, writeSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { median, percentile } from '../lib/stats.js'
import type { Context, Result } from '../lib/types.js'

const COPY_BYTES = 64 * 1024 ** 2
const APPEND_BYTES = 512
const writeAsync = promisify(write)
const fdatasyncAsync = promisify(fdatasync)

export async function disk(context: Context): Promise<Result[]> {
  context.say('memcpy and fdatasync')
  const appends = context.quick ? 200 : 2000
  return [memcpy(context.quick ? 5 : 25), synchronous(context, appends), await asynchronous(context, appends)]
}

function machine(name: string, unit: string, baseline: number, details: Record<string, number> = {}): Result {
  return { name, unit, mmsb: null, baseline, against: 'this machine', ratio: null, budget: null, details }
}

function memcpy(repeats: number): Result {
  const [from, to] = [Buffer.alloc(COPY_BYTES, 1), Buffer.alloc(COPY_BYTES, 2)]
  const rates: number[] = []
  for (let i = 0; i < repeats; i++) {
    const started = performance.now()
    from.copy(to)
    rates.push(COPY_BYTES / 1e6 / (performance.now() - started))
  }
  return machine('memcpy, 64 MiB, one thread', 'GB/s', median(rates))
}

function synchronous(context: Context, count: number): Result {
  const fd = openSync(join(context.dir, 'sync.log'), 'w')
  const bytes = Buffer.alloc(APPEND_BYTES, 1)
  const times: number[] = []
  for (let i = 0; i < count; i++) {
    const started = performance.now()
    writeSync(fd, bytes)
    fdatasyncSync(fd)
    times.push((performance.now() - started) * 1000)
  }
  closeSync(fd)
  return machine('append 512 bytes, fdatasync, synchronous', 'us', median(times), {
    p99: percentile(times, 0.99),
  })
}

async function asynchronous(context: Context, count: number): Promise<Result> {
  const fd = openSync(join(context.dir, 'async.log'), 'w')
  const bytes = Buffer.alloc(APPEND_BYTES, 1)
  const times: number[] = []
  for (let i = 0; i < count; i++) {
    const started = performance.now()
    await writeAsync(fd, bytes)
    await fdatasyncAsync(fd)
    times.push((performance.now() - started) * 1000)
  }
  closeSync(fd)
  return machine('append 512 bytes, fdatasync, asynchronous', 'us', median(times), {
    p99: percentile(times, 0.99),
  })
}
