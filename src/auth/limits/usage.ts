/**
 * What one principal uses of its limits, over all its connections and tokens.
 *
 * Invariants: amounts are counted whether they are limited or not, since a limit may be set while they are
 * there; what was counted is given back once. Rates are counted only where they are limited. A refusal takes
 * nothing.
 */
import type { Admission, Work } from '../../engine/call-types.js'
import type { PageTallies, PageTally } from '../../engine/pages/page-tallies.js'
import type { MmsbError } from '../../errors.js'
import type { ReaderLimits } from '../../stream/reader-limits.js'
import { DefinableNames } from './definable-names.js'
import { NO_LIMITS, type PrincipalLimitName, type PrincipalLimits, refusalOf } from './principal-limits.js'
import { type Ticks, TokenBucket } from './token-bucket.js'

/** Rates, how many seconds one unit of the limit means, and how many seconds' worth may be used at once. */
const RATES = {
  writeBytesPerSecond: { seconds: 1, burstSeconds: 1 },
  stepCostPerSecond: { seconds: 1, burstSeconds: 1 },
  replaySecondsPerMinute: { seconds: 60, burstSeconds: 60 },
} as const
type RateName = keyof typeof RATES
const RATE_NAMES = Object.keys(RATES) as RateName[]

const AMOUNTS = ['connections', 'subscriptions', 'answerBytesInFlight'] as const
type AmountName = (typeof AMOUNTS)[number]

export interface UsageDeps {
  readonly tallies: PageTallies
  /** Counts a refusal. */
  readonly onRefusal: (name: PrincipalLimitName) => void
  readonly ticks?: Ticks | undefined
}

const NS_PER_MS = 1e6
const MS_PER_S = 1000

export class PrincipalUsage implements ReaderLimits {
  readonly #deps: UsageDeps
  readonly #names: DefinableNames
  readonly #rates: { [name in RateName]?: TokenBucket | undefined } = {}
  readonly #held = { connections: 0, subscriptions: 0, answerBytesInFlight: 0 }
  /** Pages whose creation is under way. */
  readonly #coming = { pages: 0, bytes: 0 }
  #limits = NO_LIMITS
  #tally: PageTally | undefined
  /** The commits of the principal are asked for here; undefined while nothing limits them. */
  admission: Admission | undefined
  isEnded = false

  constructor(deps: UsageDeps, limits: PrincipalLimits) {
    this.#deps = deps
    this.#names = new DefinableNames(() => this.#endTally())
    this.setLimits(limits)
  }

  get limits(): PrincipalLimits {
    return this.#limits
  }

  /** What is held now, of amounts that go down by themselves. */
  get held(): Readonly<Record<AmountName, number>> {
    return this.#held
  }

  /** Other limits count from now on. */
  setLimits(limits: PrincipalLimits): void {
    this.#limits = limits
    for (const name of RATE_NAMES) this.#setRate(name, limits[name])
    const limitsPages = limits.pages !== undefined || limits.pageBytes !== undefined
    if (!limitsPages) this.#endTally()
    const { writeBytesPerSecond, stepCostPerSecond } = this.#rates
    const limitsRates = writeBytesPerSecond !== undefined || stepCostPerSecond !== undefined
    this.admission =
      limitsPages || limitsRates || limits.functions !== undefined ? this.#admission : undefined
  }

  #setRate(name: RateName, limit: number | undefined): void {
    if (limit === undefined) {
      this.#rates[name] = undefined
      return
    }
    const { seconds, burstSeconds } = RATES[name]
    const perSecond = limit / seconds
    const most = perSecond * burstSeconds
    const bucket = this.#rates[name]
    if (bucket === undefined) this.#rates[name] = new TokenBucket(perSecond, most, this.#deps.ticks)
    else bucket.change(perSecond, most)
  }

  /** The principal may define these names, with one of its tokens. */
  mayDefine(patterns: readonly string[]): void {
    this.#names.add(patterns)
  }

  /** Nothing is held or owed: forgetting this usage changes nothing. */
  get isIdle(): boolean {
    const holds = AMOUNTS.some((name) => this.#held[name] > 0) || this.#coming.pages > 0
    return !holds && RATE_NAMES.every((name) => this.#rates[name]?.isFull !== false)
  }

  /** It is forgotten: who holds it asks for another one. */
  end(): void {
    this.isEnded = true
    this.#endTally()
  }

  // ---- amounts --------------------------------------------------------------------------------------------

  /** The refusal of one more connection; undefined if it may be opened. */
  connectionRefusal(): MmsbError | undefined {
    const { connections } = this.#limits
    if (connections === undefined || this.#held.connections < connections) return undefined
    return this.#refusal('connections')
  }

  hold(name: 'connections' | 'subscriptions', count: number): void {
    this.#held[name] += count
  }

  /** @throws MmsbError QUOTA_EXCEEDED */
  refuseSubscription(): void {
    const { subscriptions } = this.#limits
    if (subscriptions !== undefined && this.#held.subscriptions >= subscriptions)
      throw this.#refusal('subscriptions')
  }

  /**
   * Takes room for an answer; returns what gives it back. One that is larger than the limit is let in while
   * it is alone. @throws MmsbError RATE_LIMITED
   */
  takeAnswer(bytes: number): () => void {
    const { answerBytesInFlight: most } = this.#limits
    const held = this.#held.answerBytesInFlight
    if (most !== undefined && held > 0 && held + bytes > most)
      throw this.#refusal('answerBytesInFlight', MS_PER_S)
    this.#held.answerBytesInFlight += bytes
    let isHeld = true
    return () => {
      if (isHeld) this.#held.answerBytesInFlight -= bytes
      isHeld = false
    }
  }

  // ---- commits --------------------------------------------------------------------------------------------

  /** Throws when a write would be refused whatever it holds. @throws MmsbError RATE_LIMITED */
  refuseWrites(): void {
    this.#refuseRate('writeBytesPerSecond')
    this.#refuseRate('stepCostPerSecond')
  }

  readonly #admission: Admission = {
    admit: (work) => this.#admit(work),
    admitsPlain: (bytes, costNs) => {
      const { writeBytesPerSecond: writes, stepCostPerSecond: steps } = this.#rates
      if ((writes !== undefined && writes.waitMs > 0) || (steps !== undefined && steps.waitMs > 0))
        return false
      writes?.take(bytes)
      steps?.take(costNs() / NS_PER_MS)
      return true
    },
  }

  #admit(work: Work): (() => void) | undefined {
    this.refuseWrites()
    const { creates, functions } = work
    const most = this.#limits.functions
    if (most !== undefined && functions !== undefined && functions > most) throw this.#refusal('functions')
    const release = creates.length === 0 ? undefined : this.#takePages(creates)
    this.#rates.writeBytesPerSecond?.take(work.bytes)
    this.#rates.stepCostPerSecond?.take(work.costNs() / NS_PER_MS)
    return release
  }

  /** Returns what ends counting them as under way: they are there then, or will never be. */
  #takePages(creates: Work['creates']): () => void {
    const { pages: mostPages, pageBytes: mostBytes } = this.#limits
    const coming = this.#coming
    const count = creates.length
    const bytes = creates.reduce((sum, page) => sum + page.bytes, 0)
    if (mostPages !== undefined || mostBytes !== undefined) {
      this.#tally ??= this.#deps.tallies.follow((name) => this.#names.has(name))
      const there = this.#tally
      if (mostPages !== undefined && there.pages + coming.pages + count > mostPages)
        throw this.#refusal('pages')
      if (mostBytes !== undefined && there.bytes + coming.bytes + bytes > mostBytes)
        throw this.#refusal('pageBytes')
    }
    coming.pages += count
    coming.bytes += bytes
    return () => {
      coming.pages -= count
      coming.bytes -= bytes
    }
  }

  #endTally(): void {
    this.#tally?.end()
    this.#tally = undefined
  }

  // ---- the past -------------------------------------------------------------------------------------------

  /** @throws MmsbError RATE_LIMITED */
  refuseReplay(): void {
    this.#refuseRate('replaySecondsPerMinute')
  }

  get replayWaitMs(): number {
    return this.#rates.replaySecondsPerMinute?.waitMs ?? 0
  }

  readonly replayed = (ms: number): void => {
    this.#rates.replaySecondsPerMinute?.take(ms / MS_PER_S)
  }

  // ---- refusals -------------------------------------------------------------------------------------------

  #refuseRate(name: RateName): void {
    const waitMs = this.#rates[name]?.waitMs ?? 0
    if (waitMs > 0) throw this.#refusal(name, waitMs)
  }

  #refusal(name: PrincipalLimitName, waitMs?: number): MmsbError {
    this.#deps.onRefusal(name)
    const retryAfterS = waitMs === undefined ? undefined : Math.ceil(waitMs / MS_PER_S)
    return refusalOf(name, this.#limits[name] ?? 0, retryAfterS === undefined ? {} : { retryAfterS })
  }
}
