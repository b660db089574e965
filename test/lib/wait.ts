/** Waiting in tests: for a time, for a turn of the event loop, or until a condition holds. */
import { setImmediate, setTimeout } from 'node:timers/promises'

const POLL_MS = 10
/** Far more than anything takes that is waited for, so that a busy machine does not matter. */
const LIMIT_MS = 60_000

export function sleep(ms: number): Promise<void> {
  return setTimeout(ms)
}

/** Lets everything run that is ready now. */
export function turn(): Promise<void> {
  return setImmediate()
}

/** So many of them: lets promises settle that depend on each other. */
export async function turns(count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await turn()
}

/**
 * The shortest of at most five times, in ms, of the same thing: it is done again until it took less than the
 * bound. Any one try may be slow because the machine has other work; a fault makes every try slow.
 */
export async function shortestMs(boundMs: number, timed: () => Promise<number>): Promise<number> {
  let shortest = Number.POSITIVE_INFINITY
  for (let tries = 0; tries < 5 && shortest >= boundMs; tries++) shortest = Math.min(shortest, await timed())
  return shortest
}

/** Polls until the condition holds; throws with `what` after a minute. */
export async function until(isMet: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (const startMs = Date.now(); !(await isMet()); await sleep(POLL_MS)) {
    if (Date.now() - startMs > LIMIT_MS) throw new Error(`not seen: ${what}`)
  }
}
