/**
 * Logins of clients by their TLS certificate.
 *
 * Invariants: a certificate counts only if its handshake has found it signed by an authority that counts now.
 * A page of another origin that a browser shows never uses the certificate of the browser's user.
 */
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import { type CertificateLogins, type Login, unauthorized } from '../auth/authenticator.js'
import { MmsbError } from '../errors.js'

export class ClientCertificates {
  readonly #logins: CertificateLogins
  readonly #allowedOrigins: ReadonlySet<string>
  readonly #handshakes: Handshakes
  /** Of connections, so that a certificate is not read for each request. */
  readonly #known = new WeakMap<TLSSocket, Login>()

  constructor(server: Server, logins: CertificateLogins, allowedOrigins: ReadonlySet<string>) {
    this.#logins = logins
    this.#allowedOrigins = allowedOrigins
    this.#handshakes = new Handshakes(server)
  }

  /**
   * Who sends a request; undefined if it has no certificate. @throws MmsbError UNAUTHORIZED, or FORBIDDEN for
   * a page of another origin
   */
  loginOf({ socket, headers }: IncomingMessage): Login | undefined {
    if (!(socket instanceof TLSSocket)) return undefined
    const known = this.#known.get(socket)
    const login = known?.isValid() === true ? known : this.#newLogin(socket)
    const { origin, host } = headers
    const isOwn = origin === undefined || origin === `https://${host}` || this.#allowedOrigins.has(origin)
    if (login !== undefined && !isOwn)
      throw new MmsbError(
        'FORBIDDEN',
        'Origin: a page of another origin may not use the certificate of a user',
      )
    return login
  }

  #newLogin(socket: TLSSocket): Login | undefined {
    const certificate = socket.getPeerX509Certificate()
    if (certificate === undefined) return undefined
    if (!socket.authorized) {
      throw unauthorized(`The client certificate is not accepted: ${String(socket.authorizationError)}.`)
    }
    if (!this.#handshakes.isOfNow(socket))
      throw unauthorized('The authorities of client certificates have changed: open a new connection.')
    const login = this.#logins.login(certificate)
    this.#known.set(socket, login)
    return login
  }

  /** Whether nothing but a new connection helps. */
  isStale(socket: unknown): boolean {
    return socket instanceof TLSSocket && !this.#handshakes.isOfNow(socket)
  }

  /** Other authorities count from now on: for handshakes that begin from now on. */
  renew(): void {
    this.#handshakes.renew()
    this.#logins.endAll()
  }
}

/** Remembers which authorities counted when a handshake began. It may take its time. */
class Handshakes {
  /** Grows when the authorities change. */
  #now = 0
  /** By the address of the client, which the raw connection and the secure one have in common. */
  readonly #begun = new Map<string, { readonly at: number }>()
  readonly #done = new WeakMap<TLSSocket, number>()

  constructor(server: Server) {
    // Those who connected before, while the server recovered, came when the first authorities counted.
    server.on('connection', (socket) => {
      const key = addressOf(socket)
      const begun = { at: this.#now }
      this.#begun.set(key, begun)
      socket.once('close', () => {
        if (this.#begun.get(key) === begun) this.#begun.delete(key)
      })
    })
    server.on('secureConnection', (socket: TLSSocket) => {
      this.#done.set(socket, this.#begun.get(addressOf(socket))?.at ?? 0)
    })
  }

  isOfNow(socket: TLSSocket): boolean {
    return (this.#done.get(socket) ?? 0) === this.#now
  }

  renew(): void {
    this.#now++
  }
}

const addressOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`
