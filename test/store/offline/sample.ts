/** A data folder to break by hand, with the digest of each of its epochs. */
import fs from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { Bus } from '../../../src/index.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { crc32c, scratch } from '../helpers.js'

export interface Sample {
  readonly dir: string
  readonly digests: ReadonlyMap<number, string>
  readonly newest: number
}

export const open = (dataDir: string): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off', segmentBytes: 64 * 1024 })

/** A folder of so many epochs, each a delta of so many values, with checkpoints at the epochs given. */
export async function sampleOf(
  newest: number,
  valuesEach: number,
  checkpoints: readonly number[],
): Promise<Sample> {
  const dir = scratch()
  const bus = await open(dir)
  const digests = new Map<number, string>()
  bus.onCommit(({ epoch }) => queueMicrotask(() => digests.set(epoch, bus.status().digest)))
  await bus.create('a', { dtype: 'f64', shape: [20_000] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a * 3' })
  while (bus.epoch < newest) {
    const { epoch } = bus
    const values = Array.from({ length: valuesEach }, (_, i) => epoch * 1000 + i)
    await bus.patch('a', { offset: epoch * 7, values })
    digests.set(bus.epoch, bus.status().digest)
    if (checkpoints.includes(bus.epoch)) await bus.checkpoint()
  }
  await bus.close()
  return { dir, digests, newest }
}

export function copyOf(t: Test, { dir }: Sample): string {
  const copy = scratch()
  fs.cpSync(dir, copy, { recursive: true })
  t.teardown(() => fs.rmSync(copy, { recursive: true, force: true }))
  return copy
}

export const place = (dir: string) => ({ dir, disk: realDisk(), crc32c })

/** The segments of the log, oldest first. */
export const segments = (dir: string): string[] =>
  fs
    .readdirSync(path.join(dir, 'log'))
    .sort()
    .map((name) => path.join(dir, 'log', name))
