/**
 * The files that say who may reach a server and how: the token file, the certificate and its key, and the
 * authorities of clients. They are read at the start, and again on SIGHUP.
 *
 * Invariant: they are taken over together or not at all; if one has a mistake, what counted goes on to count.
 */
import { X509Certificate } from 'node:crypto'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'
import { type Authenticator, TokenAuthenticator } from '../auth/authenticator.js'
import { NamedCertificates } from '../auth/certificates.js'
import { CombinedAuthenticator } from '../auth/combined.js'
import type { OnNotice } from '../auth/jwt/issuer-keys.js'
import { JwtAuthenticator } from '../auth/jwt/jwt-authenticator.js'
import { readDefaultLimits } from '../auth/limits/default-limits.js'
import { type GivenLimits, LimitBook } from '../auth/limits/limit-book.js'
import { NO_LIMITS } from '../auth/limits/principal-limits.js'
import { readPrivate, readPublic, unusable } from '../auth/private-file.js'
import type { ProtectedResource } from '../http/challenge.js'
import type { Tls } from '../http/framework.js'
import type { Oidc, TlsFiles, Way } from './auth-flags.js'
import { StartError } from './flags.js'

export interface AccessFiles {
  /** Empty: everybody may do everything. */
  readonly ways?: ReadonlySet<Way>
  readonly tokenFile?: string | undefined
  readonly oidc?: Oidc | undefined
  /** Limits of principals, as JSON or the name of a file. */
  readonly principalLimits?: string | undefined
  readonly publicUrl?: string | undefined
  /** Undefined: plain HTTP. */
  readonly tls?: TlsFiles | undefined
}

export class Access {
  /** Undefined: everybody may do everything. */
  readonly authenticator: Authenticator | undefined
  readonly resource: ProtectedResource | undefined
  readonly tls: Tls | undefined
  /** Undefined: nobody is asked who they are, so there is nothing to count. */
  readonly limits: LimitBook | undefined
  readonly #files: AccessFiles
  readonly #principals: TokenAuthenticator | undefined
  readonly #jwt: JwtAuthenticator | undefined

  /** @throws StartError if a file cannot be used */
  constructor(files: AccessFiles, logger: Logger) {
    this.#files = files
    const { ways = new Set(), tokenFile, oidc, publicUrl, tls } = files
    try {
      this.#principals = tokenFile === undefined ? undefined : new TokenAuthenticator(tokenFile)
      this.tls = tls === undefined ? undefined : readTls(tls)
      const given = this.#givenLimits()
      this.limits = ways.size === 0 ? undefined : new LimitBook(given)
    } catch (error) {
      throw new StartError((error as Error).message, { cause: error })
    }
    const onNotice: OnNotice = ({ level, message }) => logger[level](message)
    this.#jwt = oidc === undefined ? undefined : new JwtAuthenticator({ ...oidc, onNotice })
    this.resource = oidc === undefined ? undefined : { issuer: oidc.issuer, publicUrl }
    this.authenticator = ways.size === 0 ? undefined : this.#combined(ways)
  }

  #combined(ways: ReadonlySet<Way>): Authenticator {
    const principals = this.#principals
    return new CombinedAuthenticator({
      tokens: ways.has('token') ? principals : undefined,
      jwt: this.#jwt,
      certificates:
        ways.has('mtls') && principals !== undefined ? new NamedCertificates(principals) : undefined,
    })
  }

  /** @throws MmsbError INVALID_REQUEST if the defaults cannot be used */
  #givenLimits(): GivenLimits {
    const { principalLimits } = this.#files
    const defaults = principalLimits === undefined ? NO_LIMITS : readDefaultLimits(principalLimits)
    return { defaults, own: this.#principals?.limits }
  }

  /** Whether there are files to read again. */
  get hasFiles(): boolean {
    return this.authenticator !== undefined || this.#files.tls !== undefined
  }

  /** The files, as the log names them. */
  get fileNames(): object {
    const { tokenFile, tls } = this.#files
    return { tokenFile, ...tls }
  }

  /**
   * Reads the files again; `renewTls` uses another certificate from now on. Answers the principals that
   * changed. @throws MmsbError INVALID_REQUEST if a file cannot be used: then nothing has changed
   */
  reload(
    renewTls: (tls: Tls) => void,
    { principalLimits }: Pick<AccessFiles, 'principalLimits'> = this.#files,
  ): readonly string[] {
    const { tls: tlsFiles } = this.#files
    // The issuer is asked in the background; what it answers has nothing to do with the files.
    this.#jwt?.reload()
    const tls = tlsFiles === undefined ? undefined : readTls(tlsFiles)
    const defaults = principalLimits === undefined ? NO_LIMITS : readDefaultLimits(principalLimits)
    const changed = this.#principals?.reload() ?? []
    this.limits?.replace({ defaults, own: this.#principals?.limits })
    if (tls !== undefined) renewTls(tls)
    return changed
  }
}

/** @throws MmsbError INVALID_REQUEST if the files cannot be read, or are not what they should be */
function readTls({ cert: certFile, key: keyFile, clientCa }: TlsFiles): Tls {
  const cert = readPublic(certFile)
  const key = readPrivate(keyFile)
  try {
    createSecureContext({ cert, key })
  } catch (error) {
    throw unusable(certFile, `and ${keyFile} are not a certificate and its key: ${(error as Error).message}`)
  }
  return { cert, key, ...(clientCa === undefined ? {} : { ca: readAuthorities(clientCa) }) }
}

/** The certificates of authorities. Node passes over what is none. */
function readAuthorities(file: string): string {
  const text = readPublic(file)
  const blocks = text.match(CERTIFICATE) ?? []
  if (blocks.length === 0) throw unusable(file, 'has no certificate in PEM')
  for (const block of blocks) {
    let isAuthority: boolean
    try {
      isAuthority = new X509Certificate(block).ca
    } catch {
      throw unusable(file, 'has a certificate that cannot be read')
    }
    if (!isAuthority) throw unusable(file, 'has a certificate that is not one of an authority')
  }
  return text
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g
