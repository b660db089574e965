/**
 * From the credentials of a caller to its principal.
 *
 * Invariants: a refusal does not say whether the principal exists, or what is wrong with the credentials.
 * A token is looked up by its SHA-256, so that the time of the search tells nothing about it. A reload takes
 * effect whole or not at all.
 */
import { MmsbError } from '../errors.js'
import type { Principal } from './principals.js'
import { readTokens, type Tokens } from './token-file.js'
import { hashOf, isToken } from './tokens.js'

/** A caller that has been recognized. */
export interface Login {
  readonly principal: Principal
  /** Whether the credentials still count: they have not expired, and were not taken away or changed. */
  isValid(): boolean
}

export interface Authenticator {
  /**
   * `credential` is the token, without "Bearer". A promise where keys of somebody else are needed.
   * @throws MmsbError UNAUTHORIZED
   */
  login(credential: string): Login | Promise<Login>
  /** Calls back after what counts has changed, so that open streams look again. Returns what ends that. */
  onChange(listener: () => void): () => void
}

/** Accepts the tokens of a token file. */
export class TokenAuthenticator implements Authenticator {
  readonly #file: string
  #tokens: Tokens
  readonly #listeners = new Set<() => void>()

  /** @throws MmsbError INVALID_REQUEST if the file cannot be used */
  constructor(file: string) {
    this.#file = file
    this.#tokens = readTokens(file)
  }

  login(credential: string): Login {
    const hash = isToken(credential) ? hashOf(credential) : ''
    const principal = this.#tokens.get(hash)
    if (principal === undefined || isOver(principal)) throw unauthorized('The credentials are not accepted.')
    return { principal, isValid: () => !isOver(principal) && this.#tokens.get(hash) === principal }
  }

  /**
   * Reads the file again; returns the ids of the principals whose tokens or scopes have changed. If it cannot
   * be used, what counted goes on to count. @throws MmsbError
   */
  reload(): readonly string[] {
    const before = this.#tokens
    const tokens = new Map<string, Principal>()
    for (const [hash, principal] of readTokens(this.#file)) {
      const known = this.#tokens.get(hash)
      // An unchanged principal stays the same object, so that its streams go on.
      tokens.set(hash, known !== undefined && isSame(known, principal) ? known : principal)
    }
    this.#tokens = tokens
    for (const listener of this.#listeners) listener()
    return changedIds(before, tokens)
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

/** The longest time that a timer of Node can wait. */
const TIMER_MAX_MS = 2 ** 31 - 1

/** Calls back once, when the login counts no longer. Returns what stops watching. */
export function watchLogin(authenticator: Authenticator, login: Login, onEnd: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const stop = (): void => {
    clearTimeout(timer)
    stopListening()
  }
  const look = (): void => {
    if (!login.isValid()) {
      stop()
      onEnd()
      return
    }
    const { expiresMs } = login.principal
    if (expiresMs === undefined) return
    clearTimeout(timer)
    timer = setTimeout(look, Math.min(TIMER_MAX_MS, expiresMs - Date.now()))
    timer.unref()
  }
  const stopListening = authenticator.onChange(look)
  look()
  return stop
}

/** Why a stream ends whose credentials count no longer. */
export const loginEnded = (): MmsbError =>
  unauthorized('The credentials have expired, or were taken away or changed.')

/** The refusal of a request whose sender is not known. */
export const unauthorized = (detail: string): MmsbError => new MmsbError('UNAUTHORIZED', detail)

const isOver = ({ expiresMs }: Principal): boolean => expiresMs !== undefined && Date.now() >= expiresMs

/** The ids of those who have a token in one of two files that is not the same in the other. */
function changedIds(before: Tokens, after: Tokens): readonly string[] {
  const ids = new Set<string>()
  for (const [one, other] of [
    [before, after],
    [after, before],
  ] as const)
    for (const [hash, principal] of one) if (other.get(hash) !== principal) ids.add(principal.id)
  return [...ids].sort()
}

const isSame = (a: Principal, b: Principal): boolean =>
  a.id === b.id && a.expiresMs === b.expiresMs && a.scopes.texts.join() === b.scopes.texts.join()
