/**
 * From the credentials of a caller to its principal.
 *
 * Invariants: a refusal does not say whether the principal exists, or what is wrong with the credentials.
 * A token is looked up by its SHA-256, so that the time of the search tells nothing about it. A reload takes
 * effect whole or not at all.
 */
import type { X509Certificate } from 'node:crypto'
import { MmsbError } from '../errors.js'
import { NO_LIMITS, type PrincipalLimits } from './limits/principal-limits.js'
import type { Principal } from './principals.js'
import { type AuthFile, readAuthFile } from './token-file.js'
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
  /** Logins of clients that send no token. Absent: they say nothing by their certificate. */
  readonly certificates?: CertificateLogins | undefined
  /** Calls back after what counts has changed, so that open streams look again. Returns what ends that. */
  onChange(listener: () => void): () => void
}

/** Logins by the certificate that a client shows in its TLS handshake. */
export interface CertificateLogins {
  /** @throws MmsbError UNAUTHORIZED */
  login(certificate: X509Certificate): Login
  /** Ends all of them: other authorities count from now on. */
  endAll(): void
}

/** Accepts the tokens of a token file, and knows its principals. */
export class TokenAuthenticator implements Authenticator {
  readonly #file: string
  #content: AuthFile
  #limits: ReadonlyMap<string, PrincipalLimits>
  readonly #listeners = new Set<() => void>()

  /** @throws MmsbError INVALID_REQUEST if the file cannot be used */
  constructor(file: string) {
    this.#file = file
    this.#content = readAuthFile(file)
    this.#limits = limitsOf(this.#content)
  }

  /** The limits that the file gives, by the id of a principal. */
  get limits(): ReadonlyMap<string, PrincipalLimits> {
    return this.#limits
  }

  login(credential: string): Login {
    const hash = isToken(credential) ? hashOf(credential) : ''
    const principal = this.#content.tokens.get(hash)
    if (principal === undefined || isOver(principal)) throw unauthorized('The credentials are not accepted.')
    return { principal, isValid: () => !isOver(principal) && this.#content.tokens.get(hash) === principal }
  }

  /** The principal that a certificate names; see certificate-names.ts. */
  principalNamed(name: string): Principal | undefined {
    return this.#content.names.get(name)
  }

  /**
   * Reads the file again; returns the ids of the principals whose tokens, certificates or scopes have
   * changed. If it cannot be used, what counted goes on to count. @throws MmsbError
   */
  reload(): readonly string[] {
    const { tokens, names } = readAuthFile(this.#file)
    const before = this.#content
    this.#limits = limitsOf({ tokens, names })
    this.#content = { tokens: kept(before.tokens, tokens), names: kept(before.names, names) }
    for (const listener of this.#listeners) listener()
    return changedIds(before, this.#content)
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

/** An unchanged principal stays the same object, so that its streams go on. */
function kept(
  before: ReadonlyMap<string, Principal>,
  now: ReadonlyMap<string, Principal>,
): ReadonlyMap<string, Principal> {
  const entries = [...now].map(([key, principal]): [string, Principal] => {
    const known = before.get(key)
    return [key, known !== undefined && isSame(known, principal) ? known : principal]
  })
  return new Map(entries)
}

const limitsOf = ({ tokens, names }: AuthFile): ReadonlyMap<string, PrincipalLimits> =>
  new Map([...tokens.values(), ...names.values()].map(({ id, limits = NO_LIMITS }) => [id, limits]))

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

/** The ids of those of whom one of two files says something that the other one does not. */
function changedIds(before: AuthFile, after: AuthFile): readonly string[] {
  const ids = new Set<string>()
  for (const [one, other] of [
    [before.tokens, after.tokens],
    [after.tokens, before.tokens],
    [before.names, after.names],
    [after.names, before.names],
  ] as const)
    for (const [key, principal] of one) if (other.get(key) !== principal) ids.add(principal.id)
  return [...ids].sort()
}

const isSame = (a: Principal, b: Principal): boolean =>
  a.id === b.id && a.expiresMs === b.expiresMs && a.scopes.texts.join() === b.scopes.texts.join()
