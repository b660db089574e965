/**
 * Notices when the clock of the machine jumps: epochs keep ascending times whatever it does, so after a jump
 * their times are not those of the clock, and somebody should know why.
 *
 * Invariant: a jump is reported once. A clock that is slowly adjusted is not a jump.
 */
import { CLOCK_JUMP_MS } from '../limits.js'
import type { Notify } from './callbacks.js'
import type { Host } from './host.js'

const seconds = (ms: number): string => (Math.abs(ms) / 1000).toFixed(1)
const timeOf = (ms: number): string => new Date(ms).toISOString()

/** Every epoch reads the clock; comparing it each time would take longer than reading it. */
const LOOK_INTERVAL_MS = 50

/** The same host; its clock is compared with the one that never jumps when it has gone on a little. */
export function watchedHost(host: Host, notify: Notify): Host {
  let lastMs = host.nowMs()
  let lastTicksMs = host.ticksMs()
  const nowMs = (): number => {
    const nowMs = host.nowMs()
    if (nowMs >= lastMs && nowMs - lastMs < LOOK_INTERVAL_MS) return nowMs
    const ticksMs = host.ticksMs()
    const expectedMs = lastMs + ticksMs - lastTicksMs
    lastMs = nowMs
    lastTicksMs = ticksMs
    if (Math.abs(nowMs - expectedMs) > CLOCK_JUMP_MS) {
      const way = nowMs < expectedMs ? 'back' : 'forward'
      const times = `it shows ${timeOf(nowMs)}, and should show ${timeOf(expectedMs)}`
      notify({
        level: 'warn',
        message: `the clock jumped ${way} by ${seconds(nowMs - expectedMs)} s: ${times}`,
      })
    }
    return nowMs
  }
  return { ...host, nowMs }
}

/**
 * Says that the clock is behind the newest epoch of the log, whose time later epochs keep until
 * it catches up.
 */
export function reportClockBehind(host: Host, newestMs: number, notify: Notify): void {
  const behindMs = newestMs - host.nowMs()
  if (behindMs <= CLOCK_JUMP_MS) return
  const times = `it shows ${timeOf(host.nowMs())}, and the newest epoch is of ${timeOf(newestMs)}`
  notify({ level: 'warn', message: `the clock is ${seconds(behindMs)} s behind the log: ${times}` })
}
