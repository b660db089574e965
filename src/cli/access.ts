/**
 * The files that say who may reach a server and how: the token file, the certificate and its key. They are
 * read at the start, and again on SIGHUP.
 *
 * Invariant: they are taken over together or not at all; if one has a mistake, what counted goes on to count.
 */
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'
import type { Auditor } from '../audit/auditor.js'
import { type Authenticator, TokenAuthenticator } from '../auth/authenticator.js'
import { CombinedAuthenticator } from '../auth/combined.js'
import type { OnNotice } from '../auth/jwt/issuer-keys.js'
import { JwtAuthenticator } from '../auth/jwt/jwt-authenticator.js'
import { readPrivate, unusable } from '../auth/private-file.js'
import type { ProtectedResource } from '../http/challenge.js'
import type { Tls } from '../http/framework.js'
import type { Oidc, TlsFiles } from './auth-flags.js'
import { StartError } from './flags.js'

export interface AccessFiles {
  /** Undefined: its tokens do not count. With neither tokens nor an issuer everybody may do everything. */
  readonly tokenFile?: string | undefined
  readonly oidc?: Oidc | undefined
  readonly publicUrl?: string | undefined
  /** Undefined: plain HTTP. */
  readonly tls?: TlsFiles | undefined
}

export class Access {
  /** Undefined: everybody may do everything. */
  readonly authenticator: Authenticator | undefined
  readonly resource: ProtectedResource | undefined
  readonly tls: Tls | undefined
  readonly #files: AccessFiles
  readonly #tokens: TokenAuthenticator | undefined
  readonly #jwt: JwtAuthenticator | undefined

  /** @throws StartError if a file cannot be used */
  constructor(files: AccessFiles, logger: Logger) {
    this.#files = files
    const { tokenFile, oidc, publicUrl, tls } = files
    try {
      this.#tokens = tokenFile === undefined ? undefined : new TokenAuthenticator(tokenFile)
      this.tls = tls === undefined ? undefined : readTls(tls)
    } catch (error) {
      throw new StartError((error as Error).message, { cause: error })
    }
    const onNotice: OnNotice = ({ level, message }) => logger[level](message)
    this.#jwt = oidc === undefined ? undefined : new JwtAuthenticator({ ...oidc, onNotice })
    this.resource = oidc === undefined ? undefined : { issuer: oidc.issuer, publicUrl }
    const isOpen = this.#tokens === undefined && this.#jwt === undefined
    this.authenticator = isOpen
      ? undefined
      : new CombinedAuthenticator({ tokens: this.#tokens, jwt: this.#jwt })
  }

  /** Reads the files again on SIGHUP. `renewTls` uses another certificate from now on. */
  reloadOnSignal(renewTls: (tls: Tls) => void, logger: Logger, auditor?: Auditor): void {
    const { tokenFile, tls: tlsFiles } = this.#files
    if (this.authenticator === undefined && tlsFiles === undefined) return
    process.on('SIGHUP', () => {
      // The issuer is asked in the background; what it answers has nothing to do with the files.
      this.#jwt?.reload()
      try {
        const tls = tlsFiles === undefined ? undefined : readTls(tlsFiles)
        const changed = this.#tokens?.reload() ?? []
        if (tls !== undefined) renewTls(tls)
        logger.info({ tokenFile, ...tlsFiles }, 'tokens and certificate were read again')
        void auditor?.note({ action: 'reload', outcome: 'done' })
        for (const target of changed)
          void auditor?.note({ action: 'changePrincipal', outcome: 'done', target })
      } catch (error) {
        const { message } = error as Error
        void auditor?.note({ action: 'reload', outcome: 'failed', code: 'INVALID_REQUEST' })
        logger.error(`tokens and certificate were not taken over, the old ones go on to count: ${message}`)
      }
    })
  }
}

/** @throws MmsbError INVALID_REQUEST if the files cannot be read, or are not a certificate and its key */
function readTls({ cert: certFile, key: keyFile }: TlsFiles): Tls {
  let cert: string
  try {
    cert = readFileSync(certFile, 'utf8')
  } catch (error) {
    throw unusable(certFile, `cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  const key = readPrivate(keyFile)
  try {
    createSecureContext({ cert, key })
  } catch (error) {
    throw unusable(certFile, `and ${keyFile} are not a certificate and its key: ${(error as Error).message}`)
  }
  return { cert, key }
}
