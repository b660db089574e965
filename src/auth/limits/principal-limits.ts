/**
 * The limits that a principal can have: one table. The token file, `--principal-limits` and the table in
 * docs/guide/LIMITS.md have these names.
 *
 * Invariant: a limit that is not given does not exist. Knows nothing of how they are counted.
 */
import { type ErrorCode, MmsbError } from '../../errors.js'

interface PrincipalLimit {
  /** The code of a refusal. */
  readonly code: ErrorCode
  /** What is limited, in the words of a refusal. */
  readonly what: string
  /** The smallest value. A rate of nothing would never let anything in again. */
  readonly least: number
}

const amount = (what: string): PrincipalLimit => ({ code: 'QUOTA_EXCEEDED', what, least: 0 })
const rate = (what: string): PrincipalLimit => ({ code: 'RATE_LIMITED', what, least: 1 })

export const PRINCIPAL_LIMITS = {
  pages: amount('pages under the names that it may define'),
  pageBytes: amount('bytes of pages under the names that it may define'),
  functions: amount('functions'),
  connections: amount('open WebSockets and event streams'),
  subscriptions: amount('subscriptions'),
  answerBytesInFlight: rate('bytes of answers in flight'),
  writeBytesPerSecond: rate('bytes written each second'),
  stepCostPerSecond: rate('estimated milliseconds of computing each second'),
  replaySecondsPerMinute: rate('seconds of replaying the past each minute'),
} as const satisfies Readonly<Record<string, PrincipalLimit>>

export type PrincipalLimitName = keyof typeof PRINCIPAL_LIMITS

export type PrincipalLimits = { readonly [name in PrincipalLimitName]?: number }

export const PRINCIPAL_LIMIT_NAMES = Object.keys(PRINCIPAL_LIMITS) as PrincipalLimitName[]

export const NO_LIMITS: PrincipalLimits = {}

/** What is wrong with limits that somebody wrote; undefined if nothing is. */
export function limitsFault(given: unknown): string | undefined {
  if (Object(given) !== given || Array.isArray(given)) return 'limits is not an object'
  for (const [name, value] of Object.entries(given as object)) {
    if (!Object.hasOwn(PRINCIPAL_LIMITS, name)) {
      const shown = JSON.stringify(name.slice(0, 50))
      return `limits has no ${shown}; there are ${PRINCIPAL_LIMIT_NAMES.join(', ')}`
    }
    const { least } = PRINCIPAL_LIMITS[name as PrincipalLimitName]
    if (!Number.isSafeInteger(value) || (value as number) < least)
      return `limits.${name} is not a whole number of at least ${least}`
  }
  return undefined
}

/** The refusal for a limit. The names in `limit` have no dashes, unlike those of limits of the server. */
export function refusalOf(
  name: PrincipalLimitName,
  max: number,
  more: Readonly<Record<string, unknown>>,
): MmsbError {
  const { code, what } = PRINCIPAL_LIMITS[name]
  return new MmsbError(code, `A principal has a limit of ${max} ${what}.`, { limit: name, max, ...more })
}
