/**
 * The public keys of an issuer.
 *
 * How it works: the keys are read at the start, and again every few minutes. A token that names a key which
 * is not there makes them be read at once, but not more often than once in a while, whatever tokens come.
 * While the issuer cannot be reached, the keys that were read last go on to count.
 *
 * Invariants: the keys are replaced whole or not at all. Not more than one reading is under way.
 */
import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from 'jose'
import { MmsbError } from '../../errors.js'
import { ISSUER_KEYS_MAX, ISSUER_PAUSE_MS, ISSUER_REFRESH_MS } from '../../limits.js'
import { readKeys } from './issuer-document.js'

/** Gets what an operator should know. */
export type OnNotice = (notice: { readonly level: 'info' | 'warn'; readonly message: string }) => void

export interface IssuerKeysOptions {
  readonly issuer: string
  readonly onNotice?: OnNotice | undefined
  /** The time between two readings. */
  readonly refreshMs?: number
  /** The least time between two readings, and the time after one that failed. */
  readonly pauseMs?: number
}

export class IssuerKeys {
  readonly #issuer: string
  readonly #onNotice: OnNotice
  readonly #refreshMs: number
  readonly #pauseMs: number
  #keys: JWTVerifyGetKey | undefined
  #reading: Promise<void> | undefined
  #readMs = Number.NEGATIVE_INFINITY
  #hasFailed = false
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(options: IssuerKeysOptions) {
    const { issuer, onNotice = () => {}, refreshMs = ISSUER_REFRESH_MS, pauseMs = ISSUER_PAUSE_MS } = options
    this.#issuer = issuer
    this.#onNotice = onNotice
    this.#refreshMs = refreshMs
    this.#pauseMs = pauseMs
    void this.refresh()
  }

  /**
   * The key that a token names. @throws JOSEError if there is none; MmsbError OVERLOADED if none are known
   */
  readonly get: JWTVerifyGetKey = async (header, token) => {
    if (this.#keys === undefined) await this.#readAgain()
    if (this.#keys === undefined) {
      throw new MmsbError('OVERLOADED', 'The keys of the issuer of tokens cannot be read at the moment.')
    }
    try {
      return await this.#keys(header, token)
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error
      await this.#readAgain()
      return this.#keys(header, token)
    }
  }

  /** Reads the keys now. A failure goes to `onNotice`. */
  refresh(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined
      this.#refreshLater()
    })
    return this.#reading
  }

  /** Reads nothing more. */
  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }

  async #readAgain(): Promise<void> {
    if (this.#reading !== undefined || performance.now() - this.#readMs >= this.#pauseMs) await this.refresh()
  }

  async #read(): Promise<void> {
    clearTimeout(this.#timer)
    try {
      this.#keys = createLocalJWKSet(checkedKeys(await readKeys(this.#issuer)))
      if (this.#hasFailed) this.#onNotice({ level: 'info', message: `${this.#issuer} gives its keys again` })
      this.#hasFailed = false
    } catch (error) {
      const what = this.#keys === undefined ? 'no token of it counts' : 'the keys read last go on to count'
      // Once, not at each attempt.
      if (!this.#hasFailed) {
        const message = `keys of ${this.#issuer} cannot be read; ${what}: ${(error as Error).message}`
        this.#onNotice({ level: 'warn', message })
      }
      this.#hasFailed = true
    }
    this.#readMs = performance.now()
  }

  #refreshLater(): void {
    if (this.#isClosed) return
    this.#timer = setTimeout(() => void this.refresh(), this.#hasFailed ? this.#pauseMs : this.#refreshMs)
    this.#timer.unref()
  }
}

function checkedKeys(document: unknown): JSONWebKeySet {
  const { keys } = Object(document) as Partial<JSONWebKeySet>
  if (!Array.isArray(keys)) throw new Error('its keys are not a JSON Web Key Set')
  if (keys.length > ISSUER_KEYS_MAX) throw new Error(`it has more than ${ISSUER_KEYS_MAX} keys`)
  return { keys }
}
