/**
 * Failed logins by address: some at once, then so many a minute. What comes beyond them is told to wait.
 *
 * Invariants: only failures count. Credentials are checked first, so that whoever shares an address with
 * somebody who sends bad ones is not kept out. Memory is bounded, whatever addresses there are.
 */
import {
  LOGIN_FAILURE_ADDRESSES_MAX,
  LOGIN_FAILURES_AT_ONCE,
  LOGIN_FAILURES_PER_MINUTE,
} from '../../limits.js'
import { type Ticks, TokenBucket } from './token-bucket.js'

const SECONDS_PER_MINUTE = 60
const MS_PER_S = 1000
/** So many groups of an IPv6 address name one network, in which one client may have any address. */
const NETWORK_GROUPS = 4
const GROUPS = 8

export class FailedLogins {
  readonly #ticks: Ticks | undefined
  /** The address that failed first is the first. */
  readonly #buckets = new Map<string, TokenBucket>()

  constructor(ticks?: Ticks) {
    this.#ticks = ticks
  }

  /** Addresses that are remembered. */
  get size(): number {
    return this.#buckets.size
  }

  /** Counts a failure; answers the seconds to wait if there were too many. */
  add(address: string): number | undefined {
    const network = networkOf(address)
    const bucket = this.#buckets.get(network) ?? this.#begin(network)
    const { waitMs } = bucket
    if (waitMs > 0) return Math.ceil(waitMs / MS_PER_S)
    bucket.take(1)
    return undefined
  }

  #begin(network: string): TokenBucket {
    if (this.#buckets.size >= LOGIN_FAILURE_ADDRESSES_MAX) this.#forget()
    const perSecond = LOGIN_FAILURES_PER_MINUTE / SECONDS_PER_MINUTE
    const bucket = new TokenBucket(perSecond, LOGIN_FAILURES_AT_ONCE, this.#ticks)
    this.#buckets.set(network, bucket)
    return bucket
  }

  /** Forgets addresses that have not failed lately; the oldest, if there are none. */
  #forget(): void {
    for (const [network, { isFull }] of this.#buckets) if (isFull) this.#buckets.delete(network)
    if (this.#buckets.size < LOGIN_FAILURE_ADDRESSES_MAX) return
    const [oldest] = this.#buckets.keys()
    if (oldest !== undefined) this.#buckets.delete(oldest)
  }
}

/** The address, or of IPv6 its network. */
function networkOf(address: string): string {
  // An address with dots is one of IPv4, perhaps written as one of IPv6.
  if (!address.includes(':') || address.includes('.')) return address
  const [head = '', tail] = address.split('::')
  const before = head.split(':')
  const after = tail === undefined ? [] : tail.split(':')
  const zeros = Array<string>(Math.max(0, GROUPS - before.length - after.length)).fill('0')
  return [...before, ...zeros, ...after].slice(0, NETWORK_GROUPS).join(':')
}
