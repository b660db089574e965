/**
 * Logins by the certificate that a client shows in its TLS handshake.
 *
 * Invariants: only DNS names and URIs among the subject's alternative names say who it is, and only those
 * that the auth file gives to one principal. A login ends with the certificate, and with the principal.
 * Whether an accepted authority has signed the certificate is found out before, by the TLS handshake.
 */
import type { X509Certificate } from 'node:crypto'
import { type CertificateLogins, type Login, unauthorized } from './authenticator.js'
import { namesOf } from './certificate-names.js'
import type { Principal } from './principals.js'

/** The principals by the names of their certificates; see certificate-names.ts. */
export interface Named {
  principalNamed(name: string): Principal | undefined
  onChange(listener: () => void): () => void
}

export class NamedCertificates implements CertificateLogins {
  readonly #principals: Named
  /** Grows when the authorities change. */
  #generation = 0
  readonly #listeners = new Set<() => void>()

  constructor(principals: Named) {
    this.#principals = principals
  }

  /** @throws MmsbError UNAUTHORIZED */
  login(certificate: X509Certificate): Login {
    const endMs = Date.parse(certificate.validTo)
    const found = new Map<Principal, string>()
    for (const name of namesOf(certificate.subjectAltName ?? '')) {
      const principal = this.#principals.principalNamed(name)
      if (principal !== undefined) found.set(principal, name)
    }
    const [first, ...others] = found
    if (first === undefined || Date.now() >= endMs) throw unauthorized('The client certificate names nobody.')
    if (others.length > 0) throw unauthorized('The client certificate names more than one principal.')
    const [known, name] = first
    const expiresMs = Math.min(endMs, known.expiresMs ?? endMs)
    const generation = this.#generation
    const isValid = (): boolean =>
      Date.now() < expiresMs &&
      this.#generation === generation &&
      this.#principals.principalNamed(name) === known
    if (!isValid()) throw unauthorized('The client certificate names nobody.')
    return { principal: { ...known, expiresMs }, isValid }
  }

  endAll(): void {
    this.#generation++
    for (const listener of this.#listeners) listener()
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    const stop = this.#principals.onChange(listener)
    return () => {
      stop()
      this.#listeners.delete(listener)
    }
  }
}
