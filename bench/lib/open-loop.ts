/**
 * Load at a steady rate that does not wait for answers (an open loop). A delay counts from the time the write
 * was due, not from the time it was sent, so a server that stalls cannot hide the writes due meanwhile
 * (coordinated omission).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Side } from './listeners.js'
import { percentile } from './stats.js'

const DRAIN_TIMEOUT_MS = 20_000
/** A timer may be late by about this much; the loop polls for the rest. */
const TIMER_LATE_MS = 1.5

export interface Latency {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

let serial = 1_000

/** From the time a write was due to the time each listener received it. */
export async function openLoop(side: Side, writesPerS: number, writes: number): Promise<Latency> {
  const base = serial
  const startMs = performance.now() + 20
  const due = (index: number) => startMs + (index * 1000) / writesPerS
  const heard = new Int32Array(side.listeners)
  const samples: number[] = []
  side.onEvent = (listener, at) => {
    const nowMs = performance.now()
    // One event may cover several writes that were committed together.
    for (; heard[listener]! < at - base + 1; heard[listener]!++) samples.push(nowMs - due(heard[listener]!))
  }
  for (let index = 0; index < writes; index++) {
    const waitMs = due(index) - performance.now()
    if (waitMs > TIMER_LATE_MS) await sleep(waitMs - TIMER_LATE_MS)
    while (performance.now() < due(index)) await new Promise((resolve) => setImmediate(resolve))
    side.write(serial++)
    if (side.failure !== undefined) throw side.failure
  }
  await allHeard(side, () => samples.length === writes * side.listeners)
  const [p50, p99, max] = [percentile(samples, 0.5), percentile(samples, 0.99), percentile(samples, 1)]
  return { p50, p99, max }
}

/** Events delivered per second when each write follows as soon as every listener received the one before. */
export async function fanOut(side: Side, durationMs: number): Promise<number> {
  let waiting = 0
  let delivered = 0
  const startMs = performance.now()
  const next = (): void => {
    waiting = side.listeners
    side.write(serial++)
  }
  side.onEvent = (_listener, at) => {
    if (at !== serial - 1) return
    delivered++
    if (--waiting === 0 && performance.now() - startMs < durationMs) next()
  }
  next()
  await sleep(durationMs)
  await allHeard(side, () => waiting === 0)
  return (delivered / (performance.now() - startMs)) * 1000
}

async function allHeard(side: Side, isDone: () => boolean): Promise<void> {
  const untilMs = performance.now() + DRAIN_TIMEOUT_MS
  while (!isDone()) {
    if (side.failure !== undefined) throw side.failure
    if (performance.now() > untilMs) throw new Error('events did not come')
    await sleep(2)
  }
}
