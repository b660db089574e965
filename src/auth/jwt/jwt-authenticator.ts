/**
 * Accepts access tokens of an issuer: JSON Web Tokens that it has signed for this server (RFC 9068).
 *
 * Invariants: only signatures with a public key count, so that nobody can sign with what is public. Issuer
 * and audience are compared exactly. A token without an end, or one that only the holder of a key may use, is
 * refused. What is wrong with a token is told only once its signature is known to be right, or where its head
 * alone shows it.
 */
import { errors, type JWTPayload, jwtVerify } from 'jose'
import { MmsbError } from '../../errors.js'
import { JWT_SKEW_SECONDS } from '../../limits.js'
import { type Authenticator, type Login, unauthorized } from '../authenticator.js'
import type { Principal } from '../principals.js'
import { type Scopes, scopesOfClaim } from '../scopes.js'
import { IssuerKeys, type IssuerKeysOptions } from './issuer-keys.js'
import { principalOf } from './subject.js'

const ALGORITHMS = ['EdDSA', 'ES256', 'RS256', 'PS256']
/**
 * What a token may say that it is. Others, such as those that end a session, are signed with the same keys.
 */
const TYPES: ReadonlySet<unknown> = new Set([undefined, 'jwt', 'at+jwt', 'application/at+jwt'])
const SKEW_MS = JWT_SKEW_SECONDS * 1000

export interface JwtOptions extends IssuerKeysOptions {
  readonly audience: string
}

export class JwtAuthenticator implements Authenticator {
  readonly issuer: string
  readonly #audience: string
  readonly #keys: IssuerKeys

  constructor(options: JwtOptions) {
    this.issuer = options.issuer
    this.#audience = options.audience
    this.#keys = new IssuerKeys(options)
  }

  async login(token: string): Promise<Login> {
    const principal = principalIn(await this.#verified(token))
    const { expiresMs = 0 } = principal
    return { principal, isValid: () => Date.now() < expiresMs }
  }

  /** Reads the keys of the issuer again, in the background. */
  reload(): void {
    void this.#keys.refresh()
  }

  /** Tokens end by themselves. */
  onChange(): () => void {
    return () => {}
  }

  close(): void {
    this.#keys.close()
  }

  /** What a token says, if it counts. @throws MmsbError UNAUTHORIZED */
  async #verified(token: string): Promise<JWTPayload> {
    try {
      const { payload, protectedHeader } = await jwtVerify(token, this.#keys.get, {
        algorithms: ALGORITHMS,
        issuer: this.issuer,
        audience: this.#audience,
        clockTolerance: JWT_SKEW_SECONDS,
        requiredClaims: ['exp', 'sub'],
      })
      if (!TYPES.has(protectedHeader.typ?.toLowerCase())) throw refused('it is not an access token')
      return payload
    } catch (error) {
      if (error instanceof MmsbError) throw error
      // The library throws other errors for keys that are too short, or broken.
      throw refused(error instanceof errors.JOSEError ? faultOf(error) : 'its key cannot be used')
    }
  }
}

function principalIn({ sub, exp = 0, scope = '', cnf }: JWTPayload): Principal {
  if (typeof sub !== 'string' || sub === '') throw refused('it names no subject')
  if (cnf !== undefined) throw refused('it counts only together with a key, which this server does not check')
  if (typeof scope !== 'string') throw refused('its scope is not a text')
  const endMs = exp * 1000
  // The clocks may differ: a token that has just ended counts, but for no longer than they may.
  const expiresMs = Date.now() < endMs ? endMs : endMs + SKEW_MS
  return { id: principalOf(sub), scopes: scopesIn(scope), expiresMs }
}

function scopesIn(claim: string): Scopes {
  try {
    return scopesOfClaim(claim)
  } catch (error) {
    throw refused((error as Error).message)
  }
}

const refused = (why: string): MmsbError => unauthorized(`The token is not accepted: ${why}.`)

/** What is wrong with a token, in words for its sender. */
function faultOf(error: errors.JOSEError): string {
  if (error instanceof errors.JWTExpired) return 'it has expired'
  if (error instanceof errors.JOSEAlgNotAllowed) return `its algorithm is none of ${ALGORITHMS.join(', ')}`
  if (error instanceof errors.JWKSNoMatchingKey) return 'its issuer has no such key'
  if (error instanceof errors.JWKSMultipleMatchingKeys) return 'it does not say which key has signed it'
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'its signature is wrong'
  if (error instanceof errors.JWTClaimValidationFailed) return claimFault(error)
  return 'it is not a signed JSON Web Token'
}

function claimFault({ claim, reason }: errors.JWTClaimValidationFailed): string {
  if (reason === 'missing') return `it has no ${claim}`
  switch (claim) {
    case 'iss':
      return 'it is of another issuer'
    case 'aud':
      return 'it is for another audience'
    case 'nbf':
      return 'it does not count yet'
    default:
      return `its ${claim} is wrong`
  }
}
