/**
 * The limits that an operator sets: one table. The flags and environment variables of `mmsb serve`, the
 * table in docs/guide/LIMITS.md, the option `limits` of the library and the metrics come from it. Constants
 * of formats, and those that only tune, are in src/limits.ts.
 *
 * Invariants: every refusal for such a limit is made by `LimitGuard.refusal`, which counts it; its problem
 * names the limit and the value. Knows nothing of what the limits guard.
 */
import { type ErrorCode, MmsbError } from './errors.js'
import { HTTP_BODY_MAX_BYTES } from './wire/limits.js'

/** What the numbers of a limit mean: how its flag is written and its value is shown. */
export type LimitUnit = 'count' | 'bytes' | 'ms'

export interface OperatorLimit {
  /** Name of the flag, without the dashes; MMSB_ and the same words are its environment variable. */
  readonly flag: string
  readonly unit: LimitUnit
  readonly standard: number
  readonly least: number
  readonly most: number
  /** The code of a refusal. */
  readonly code: ErrorCode
  /** What is limited, to follow "maximum"; in one line of help. */
  readonly help: string
}

const K = 1024
const M = 1024 ** 2
const G = 1024 ** 3
const S = 1_000

const row = (
  flag: string,
  unit: LimitUnit,
  [standard, least, most]: readonly [number, number, number],
  code: ErrorCode,
  help: string,
): OperatorLimit => ({ flag, unit, standard, least, most, code, help })

export const OPERATOR_LIMITS = {
  maxStepCostMs: row(
    'max-step-cost',
    'ms',
    [10 * S, 1, 86_400 * S],
    'COST_EXCEEDED',
    'estimated time of one step of a new definition or commit',
  ),
  maxCommitCostMs: row(
    'max-commit-cost',
    'ms',
    [20 * S, 1, 86_400 * S],
    'COST_EXCEEDED',
    'estimated time of all steps of a commit or what-if',
  ),
  maxCommitTimeMs: row(
    'max-commit-time',
    'ms',
    [120 * S, 1, 86_400 * S],
    'COST_EXCEEDED',
    'time that a commit runs before it is cancelled',
  ),
  maxCompileTimeMs: row(
    'max-compile-time',
    'ms',
    [10 * S, 1, 3_600 * S],
    'COST_EXCEEDED',
    'time to compile the definitions of one transaction',
  ),
  maxReplayTimeMs: row(
    'max-replay-time',
    'ms',
    [30 * S, 1, 86_400 * S],
    'COST_EXCEEDED',
    'time that a read of the past may replay',
  ),
  maxReplayBytes: row(
    'max-replay-bytes',
    'bytes',
    [8 * G, M, 1024 * G],
    'OUT_OF_MEMORY',
    'bytes of pages that a replay of the past may hold, beside the memory limit; three may run at once',
  ),
  maxPages: row('max-pages', 'count', [1_000_000, 1, 100_000_000], 'QUOTA_EXCEEDED', 'number of pages'),
  maxPageBytes: row(
    'max-page-bytes',
    'bytes',
    [8 * G, K, 1024 * G],
    'QUOTA_EXCEEDED',
    'bytes of all pages with their definitions, and of functions; an empty page counts 2k',
  ),
  maxFunctions: row('max-functions', 'count', [65_536, 0, 65_536], 'QUOTA_EXCEEDED', 'number of functions'),
  maxIdempotencyBytes: row(
    'max-idempotency-bytes',
    'bytes',
    [64 * M, K, 64 * G],
    'OVERLOADED',
    'bytes of answers remembered by idempotency key; the oldest are forgotten',
  ),
  maxConnections: row(
    'max-connections',
    'count',
    [10_000, 1, 1_000_000],
    'OVERLOADED',
    'open WebSockets, event streams and iterators of the library together',
  ),
  maxSubscriptions: row(
    'max-subscriptions',
    'count',
    [100_000, 1, 10_000_000],
    'OVERLOADED',
    'subscriptions of all connections',
  ),
  maxSubscriptionsPerConnection: row(
    'max-subscriptions-per-connection',
    'count',
    [1_000, 1, 1_000_000],
    'QUOTA_EXCEEDED',
    'subscriptions of one connection',
  ),
  maxPatterns: row(
    'max-patterns',
    'count',
    [1_000_000, 1, 100_000_000],
    'OVERLOADED',
    'page names and patterns of all subscriptions; 64 rows of windows count as one',
  ),
  maxPatternsPerConnection: row(
    'max-patterns-per-connection',
    'count',
    [10_000, 1, 10_000_000],
    'QUOTA_EXCEEDED',
    'page names and patterns of the subscriptions of one connection, with rows of windows',
  ),
  maxOpenRequests: row(
    'max-open-requests',
    'count',
    [4_096, 1, 1_000_000],
    'OVERLOADED',
    'HTTP requests being read or answered, without health routes and event streams',
  ),
  maxPastRequests: row(
    'max-past-requests',
    'count',
    [256, 1, 100_000],
    'OVERLOADED',
    'requests about the past that wait',
  ),
  maxPastRequestsPerConnection: row(
    'max-past-requests-per-connection',
    'count',
    [32, 1, 100_000],
    'OVERLOADED',
    'requests about the past of one connection that wait',
  ),
  answerBudgetBytes: row(
    'answer-budget',
    'bytes',
    [128 * M, M, 64 * G],
    'OVERLOADED',
    'bytes of answers in flight; a larger answer is sent when it is alone',
  ),
  answerBudgetPerConnectionBytes: row(
    'answer-budget-per-connection',
    'bytes',
    [64 * M, 64 * K, 64 * G],
    'OVERLOADED',
    'bytes of answers in flight on one connection',
  ),
  requestBudgetBytes: row(
    'request-budget',
    'bytes',
    [128 * M, M, 64 * G],
    'OVERLOADED',
    'bytes of request bodies being read; a larger body is read when it is alone',
  ),
  requestBudgetPerConnectionBytes: row(
    'request-budget-per-connection',
    'bytes',
    [64 * M, 64 * K, 64 * G],
    'OVERLOADED',
    'bytes of request bodies being read on one connection',
  ),
  streamBudgetBytes: row(
    'stream-budget',
    'bytes',
    [256 * M, M, 64 * G],
    'OVERLOADED',
    'bytes queued for all readers of the stream; what readers share counts once',
  ),
  messageBudgetBytes: row(
    'message-budget',
    'bytes',
    [128 * M, M, 64 * G],
    'OVERLOADED',
    'bytes of WebSocket messages being received or parsed; a larger message is read when it is alone',
  ),
  messageBudgetPerConnectionBytes: row(
    'message-budget-per-connection',
    'bytes',
    [64 * M, 64 * K, 64 * G],
    'OVERLOADED',
    'bytes of WebSocket messages being received or parsed on one connection',
  ),
  maxBodyBytes: row(
    'max-body-bytes',
    'bytes',
    [HTTP_BODY_MAX_BYTES, K, HTTP_BODY_MAX_BYTES],
    'PAYLOAD_TOO_LARGE',
    'bytes of a request body',
  ),
  maxJsonBytes: row(
    'max-json-bytes',
    'bytes',
    [8 * M, K, HTTP_BODY_MAX_BYTES],
    'PAYLOAD_TOO_LARGE',
    'bytes of a JSON request body or message',
  ),
  maxJsonDepth: row('max-json-depth', 'count', [64, 8, 1_000], 'INVALID_REQUEST', 'nesting depth of JSON'),
  headersTimeoutMs: row(
    'headers-timeout',
    'ms',
    [10 * S, 1, 3_600 * S],
    'REQUEST_TIMEOUT',
    'time for the headers of a request to arrive',
  ),
  bodyTimeoutMs: row(
    'body-timeout',
    'ms',
    [60 * S, 1, 3_600 * S],
    'REQUEST_TIMEOUT',
    'time for a whole request to arrive',
  ),
  idleTimeoutMs: row(
    'idle-timeout',
    'ms',
    [75 * S, 1, 86_400 * S],
    'REQUEST_TIMEOUT',
    'time that a connection stays open between requests, or that a reader takes nothing of its answer',
  ),
} as const satisfies Readonly<Record<string, OperatorLimit>>

export type LimitName = keyof typeof OPERATOR_LIMITS

/** The values of all limits: counts, bytes and milliseconds. */
export type Limits = { readonly [name in LimitName]: number }

export const LIMIT_NAMES = Object.keys(OPERATOR_LIMITS) as LimitName[]

/** The environment variable of a limit's flag. */
export const limitVariable = (flag: string): string => `MMSB_${flag.toUpperCase().replaceAll('-', '_')}`

/** A value as a flag takes it: `512m`, `90s`, `1000`. */
export function showLimit(unit: LimitUnit, value: number): string {
  if (unit === 'bytes') {
    if (value >= G && value % G === 0) return `${value / G}g`
    if (value >= M && value % M === 0) return `${value / M}m`
    return value >= K && value % K === 0 ? `${value / K}k` : String(value)
  }
  if (unit === 'ms') return value % S === 0 ? `${value / S}s` : `${value}ms`
  return String(value)
}

/** The limits of a bus, and how often each has refused something. */
export class LimitGuard {
  readonly values: Limits
  readonly #refusals = new Map<LimitName, number>()
  readonly #uses = new Map<LimitName, () => number>()

  /** The values that are not given are the standard ones. The given ones are checked before. */
  constructor(given: Partial<Limits> = {}) {
    const standard = LIMIT_NAMES.map((name) => [name, given[name] ?? OPERATOR_LIMITS[name].standard] as const)
    this.values = Object.fromEntries(standard) as unknown as Limits
  }

  /**
   * Counts a refusal and makes its error, which the caller throws. `extra` goes into the problem document,
   * beside `limit` (the flag) and `max`.
   */
  refusal(name: LimitName, detail: string, extra: Readonly<Record<string, unknown>> = {}): MmsbError {
    this.count(name)
    const { code, flag } = OPERATOR_LIMITS[name]
    return new MmsbError(code, detail, { limit: `--${flag}`, max: this.values[name], ...extra })
  }

  /** Counts a refusal that is answered in another way: a connection that is closed, something forgotten. */
  count(name: LimitName): void {
    this.#refusals.set(name, (this.#refusals.get(name) ?? 0) + 1)
  }

  /** From now on `read` tells how much of a limit is used. */
  measure(name: LimitName, read: () => number): void {
    this.#uses.set(name, read)
  }

  /** How much is used now of each limit that is measured. */
  uses(): readonly (readonly [LimitName, number])[] {
    return [...this.#uses].map(([name, read]) => [name, read()])
  }

  /** How often each limit has refused something since start; all limits are listed. */
  refusals(): readonly (readonly [LimitName, number])[] {
    return LIMIT_NAMES.map((name) => [name, this.#refusals.get(name) ?? 0])
  }
}
