/** Several ways to log in, at one server. */
import { type Authenticator, type Login, unauthorized } from './authenticator.js'
import type { NamedCertificates } from './certificates.js'
import { isToken } from './tokens.js'

export interface Ways {
  /** Tokens of this server. */
  readonly tokens?: Authenticator | undefined
  /** Tokens of an issuer. */
  readonly jwt?: Authenticator | undefined
  readonly certificates?: NamedCertificates | undefined
}

export class CombinedAuthenticator implements Authenticator {
  readonly #ways: Ways

  readonly certificates: NamedCertificates | undefined

  constructor(ways: Ways) {
    this.#ways = ways
    this.certificates = ways.certificates
  }

  login(credential: string): Login | Promise<Login> {
    const { tokens, jwt } = this.#ways
    // The forms of the two differ, so that no token is tried in both ways.
    const way = tokens !== undefined && (jwt === undefined || isToken(credential)) ? tokens : jwt
    if (way === undefined) throw unauthorized('This server accepts no tokens.')
    return way.login(credential)
  }

  onChange(listener: () => void): () => void {
    const { tokens, jwt, certificates } = this.#ways
    const ends = [tokens, jwt, certificates].map((way) => way?.onChange(listener))
    return () => {
      for (const end of ends) end?.()
    }
  }
}
