/**
 * The id of a request, which answers carry as `x-request-id`: the one that the caller or a proxy has given,
 * or a new UUID (RFC 9562, version 7).
 *
 * Invariant: an id that is given stands in logs and headers, so it is short and of harmless characters, or it
 * is not taken.
 */
import { randomFillSync } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

export const REQUEST_ID_HEADER = 'x-request-id'
const SANE = /^[A-Za-z0-9][A-Za-z0-9_.:+/=@-]{0,127}$/

export function requestIdOf({ headers }: IncomingMessage): string {
  const given = headers[REQUEST_ID_HEADER]
  return typeof given === 'string' && SANE.test(given) ? given : newRequestId()
}

const COUNTER_MAX = 0xfff
/** Written once, because each request needs one. */
const COUNTS = Array.from({ length: COUNTER_MAX + 1 }, (_, count) => count.toString(16).padStart(3, '0'))
const RANDOM_BYTES = 8
/** Taken from the system for many milliseconds at once: asking for a few bytes costs as much as for all. */
const pool = Buffer.alloc(512 * RANDOM_BYTES)
let poolAt = pool.length
let lastMs = 0
let counter = 0
let head = ''
let tail = ''

/**
 * The ids of one process ascend: those of one millisecond share its random bits, and are counted up. That is
 * as unique, and costs little.
 */
export function newRequestId(): string {
  const nowMs = Date.now()
  if (nowMs > lastMs || counter === COUNTER_MAX) begin(Math.max(nowMs, lastMs + 1))
  else counter++
  return `${head}-7${COUNTS[counter]}-${tail}`
}

function begin(ms: number): void {
  lastMs = ms
  counter = 0
  const time = ms.toString(16).padStart(12, '0')
  head = `${time.slice(0, 8)}-${time.slice(8)}`
  if (poolAt === pool.length) {
    randomFillSync(pool)
    poolAt = 0
  }
  const random = pool.subarray(poolAt, poolAt + RANDOM_BYTES)
  poolAt += RANDOM_BYTES
  // The variant of RFC 9562.
  random[0] = (random[0]! & 0x3f) | 0x80
  const text = random.toString('hex')
  tail = `${text.slice(0, 4)}-${text.slice(4)}`
}
