/** Backoff with jitter, sleeping and deadlines, each of which an AbortSignal ends. */

import { MmsbError } from '../errors.js'
import { BACKOFF_FIRST_MS, BACKOFF_LAST_MS, TIMER_MAX_MS } from '../limits.js'
import { onAbort } from './abort.js'

/**
 * The delay before retry `attempt` (from 0): at random between nothing and a longest delay, which doubles
 * each time ("full jitter"), so that clients that lost one server do not come back together.
 */
export function backoffMs(attempt: number): number {
  const longest = Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16))
  return longest * Math.random()
}

/** Resolves after `ms`; rejects with the signal's reason. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      ignoreSignal()
      resolve()
    }, ms)
    const ignoreSignal = onAbort(signal, abort)
    if (signal.aborted) abort()
  })
}

export interface Deadline {
  readonly signal: AbortSignal
  readonly leftMs: () => number
  /** The time begins again. */
  restart(): void
  /** Stops the timer and the listeners. */
  end(): void
}

/**
 * A signal that fires with TIMEOUT after `timeoutMs` (Infinity: never; 0: at once), or when one of
 * `signals` does.
 */
export function deadline(timeoutMs: number, signals: readonly (AbortSignal | undefined)[]): Deadline {
  const controller = new AbortController()
  const endMs = performance.now() + timeoutMs
  const undo: (() => void)[] = []
  let timer: ReturnType<typeof setTimeout> | undefined
  for (const signal of signals) {
    if (signal === undefined) continue
    const abort = (): void => controller.abort(signal.reason)
    if (signal.aborted) abort()
    undo.push(onAbort(signal, abort))
  }
  const late = new MmsbError({ code: 'TIMEOUT', detail: `no answer within ${timeoutMs} ms` })
  if (timeoutMs <= 0) controller.abort(late)
  const start = (): void => {
    if (timeoutMs > 0 && timeoutMs !== Infinity)
      timer = setTimeout(() => controller.abort(late), Math.min(timeoutMs, TIMER_MAX_MS))
  }
  start()
  return {
    signal: controller.signal,
    leftMs: () => endMs - performance.now(),
    restart: () => {
      clearTimeout(timer)
      start()
    },
    end: () => {
      clearTimeout(timer)
      for (const step of undo) step()
    },
  }
}
