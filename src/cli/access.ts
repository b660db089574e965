/**
 * The files that say who may reach a server and how: the token file, the certificate and its key. They are
 * read at the start, and again on SIGHUP.
 *
 * Invariant: they are taken over together or not at all; if one has a mistake, what counted goes on to count.
 */
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'
import { TokenAuthenticator } from '../auth/authenticator.js'
import { readPrivate, unusable } from '../auth/private-file.js'
import type { Tls } from '../http/framework.js'
import type { TlsFiles } from './auth-flags.js'
import { StartError } from './flags.js'

export interface AccessFiles {
  /** Undefined: everybody may do everything. */
  readonly tokenFile?: string
  /** Undefined: plain HTTP. */
  readonly tls?: TlsFiles
}

export class Access {
  readonly authenticator: TokenAuthenticator | undefined
  readonly tls: Tls | undefined
  readonly #files: AccessFiles

  /** @throws StartError if a file cannot be used */
  constructor(files: AccessFiles) {
    this.#files = files
    try {
      this.authenticator = files.tokenFile === undefined ? undefined : new TokenAuthenticator(files.tokenFile)
      this.tls = files.tls === undefined ? undefined : readTls(files.tls)
    } catch (error) {
      throw new StartError((error as Error).message, { cause: error })
    }
  }

  /** Reads the files again on SIGHUP. `renewTls` uses another certificate from now on. */
  reloadOnSignal(renewTls: (tls: Tls) => void, logger: Logger): void {
    const { tokenFile, tls: tlsFiles } = this.#files
    if (tokenFile === undefined && tlsFiles === undefined) return
    process.on('SIGHUP', () => {
      try {
        const tls = tlsFiles === undefined ? undefined : readTls(tlsFiles)
        this.authenticator?.reload()
        if (tls !== undefined) renewTls(tls)
        logger.info({ tokenFile, ...tlsFiles }, 'tokens and certificate were read again')
      } catch (error) {
        const { message } = error as Error
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
