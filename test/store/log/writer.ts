/** A writer on a disk whose calls take effect when the test says so, and what it tells its owner. */
import { crc32c } from '../../../src/ffi/library.js'
import { SEGMENT_HEADER_BYTES } from '../../../src/limits.js'
import { inspectLog, openLog, type SegmentEntry } from '../../../src/store/log/log.js'
import { recordBytes, type SegmentHeader } from '../../../src/store/log/record.js'
import { segmentName } from '../../../src/store/log/segment-file.js'
import type { FsyncPolicy, LogRecord } from '../../../src/store/types.js'
import { turn } from '../../lib/wait.js'
import { SimDisk, type SimDiskOptions } from '../../support/simdisk.js'
import { framesOf, plain } from '../helpers.js'

export const LOG = '/sim/log'
export const fileOf = (firstEpoch: number): string => `${LOG}/${segmentName(firstEpoch)}`
export const NEXT = `${LOG}/next.tmp`
export const START = SEGMENT_HEADER_BYTES

export const recordOf = (epoch: number, length = 100): LogRecord => ({
  ...{ epoch, timestampMs: 1000 + epoch, digestBefore: framesOf(epoch + 1, 16), frameCount: 1 },
  ...{ frames: framesOf(epoch, length), touchedPages: Uint32Array.of(epoch, 9) },
})
export const SIZE = recordBytes(100, 2)

/** A disk that notes its calls, in order, with the file they are about. */
export class Noted extends SimDisk {
  readonly calls: string[] = []
  #note(call: string, fd: number): void {
    this.calls.push(`${call} ${this.nameOf.get(fd)}`)
  }
  readonly nameOf = new Map<number, string>()
  readonly dsync = new Map<number, boolean>()
  override open(file: string, options: { create?: boolean; dsync?: boolean; write?: boolean }): number {
    const fd = super.open(file, options)
    this.nameOf.set(fd, file.slice(LOG.length + 1))
    this.dsync.set(fd, options.dsync === true)
    return fd
  }
  override writeSync(fd: number, parts: readonly Uint8Array[], position: number): void {
    super.writeSync(fd, parts, position)
    this.#note(`write ${position}`, fd)
  }
  override syncSync(fd: number): void {
    super.syncSync(fd)
    this.#note('sync', fd)
  }
  override truncate(fd: number, length: number): void {
    super.truncate(fd, length)
    this.#note(`cut ${length}`, fd)
  }
  override rename(from: string, to: string): void {
    super.rename(from, to)
    const [old, name] = [from, to].map((file) => file.slice(LOG.length + 1)) as [string, string]
    for (const [fd, file] of this.nameOf) if (file === old) this.nameOf.set(fd, name)
    this.calls.push(`rename to ${name}`)
  }
  override async syncDir(dir: string): Promise<void> {
    await super.syncDir(dir)
    this.calls.push('sync names')
  }
  /** The calls since the last look. */
  get told(): string[] {
    return this.calls.splice(0)
  }
}

interface Options extends SimDiskOptions {
  readonly fsync?: FsyncPolicy
  readonly segmentBytes?: number
  /** Calls wait until `step`. */
  readonly held?: boolean
  readonly disk?: Noted
}

export async function started(options: Options = {}) {
  const { fsync = 'always', segmentBytes = 65_536, held = false, ...rest } = options
  const tasks: (() => void)[] = []
  let isHeld = false
  const schedule = (task: () => void): void => {
    if (isHeld) tasks.push(task)
    else queueMicrotask(task)
  }
  const disk = options.disk ?? new Noted({ ...rest, schedule })
  const state = {
    timers: [] as { run: () => void; ms: number; cancelled: boolean }[],
    appended: [] as [number, number, number, number][],
    voided: [] as number[],
    rotated: [] as [SegmentHeader, number][],
    failures: [] as string[],
    lost: undefined as string | undefined,
    asked: 0,
  }
  const folder = { disk, logDir: LOG, crc32c }
  disk.makeDir(LOG)
  for (const dir of ['/', '/sim']) await disk.syncDir(dir)
  const findings = inspectLog(folder, () => {})
  const segments: SegmentEntry[] = [...findings.segments]
  const writer = await openLog(
    {
      ...{ ...folder, fsync, segmentBytes, busId: 'ab'.repeat(16), clock: () => 77 },
      random: (length) => new Uint8Array(length).fill(3),
      setTimer: (run, ms) => {
        const timer = { run, ms, cancelled: false }
        state.timers.push(timer)
        return () => {
          timer.cancelled = true
        }
      },
      onAppended: ({ epoch }, segment, offset, byteLength) =>
        state.appended.push([epoch, segment.firstEpoch, offset, byteLength]),
      onVoided: (end) => state.voided.push(end),
      onRotated: (next, previousEnd) => state.rotated.push([next, previousEnd]),
      onFailed: (error) => state.failures.push(error.message),
      lost: () => {
        state.asked++
        return state.lost
      },
    },
    findings,
    segments,
  )
  disk.calls.length = 0
  isHeld = held
  /** Lets the oldest call take effect, or be answered. */
  const step = async (): Promise<void> => {
    tasks.shift()?.()
    await turn()
  }
  const run = async (): Promise<void> => {
    await turn()
    while (tasks.length > 0) await step()
  }
  const release = (): void => {
    isHeld = false
    for (const task of tasks.splice(0)) task()
  }
  const append = async (from: number, to: number, length?: number): Promise<void> => {
    for (let epoch = from; epoch <= to; epoch++) await writer.append(recordOf(epoch, length))
  }
  return { writer, disk, state, step, run, release, append, tasks }
}

/** What a later start finds. */
export function found(disk: SimDisk) {
  const records: unknown[] = []
  const log = inspectLog({ disk, logDir: LOG, crc32c }, (_, { record }) => records.push(plain(record)))
  return { ...log, records }
}

export function fail(text: string): never {
  throw new Error(text)
}

/** Whether a promise is settled. */
export async function isDone(promise: Promise<unknown>): Promise<boolean> {
  let done = false
  promise.then(
    () => {
      done = true
    },
    () => {
      done = true
    },
  )
  await turn()
  return done
}
