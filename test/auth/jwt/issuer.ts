/** An issuer of tokens over HTTP whose keys, answers and tokens a test chooses, bad ones too. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, type JWTPayload, SignJWT } from 'jose'
import type { Test } from 'tap'

export const AUDIENCE = 'https://bus.example.com'

export interface SigningKey {
  readonly kid: string
  readonly alg: string
  readonly privateKey: CryptoKey
  readonly publicKey: CryptoKey
  readonly jwk: JWK
}

export async function signingKey(kid: string, alg = 'ES256'): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  return { kid, alg, privateKey, publicKey, jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' } }
}

/** A claim of undefined is left out. */
export type Claims = { readonly [claim: string]: unknown }

export class Issuer {
  readonly url: string
  /** What the key set holds. */
  keys: unknown[] = []
  /** Where the document about the issuer is. */
  documentPath = '/.well-known/openid-configuration'
  /** What it says besides `issuer` and `jwks_uri`, or instead. */
  document: Claims = {}
  /** Paths in the order of their requests. */
  readonly asked: string[] = []
  readonly #port: number
  #server: Server | undefined

  private constructor(port: number, path: string) {
    this.#port = port
    this.url = `http://127.0.0.1:${port}${path}`
  }

  /** An issuer that answers from now on. */
  static async start(t: Test, keys: readonly SigningKey[], path = ''): Promise<Issuer> {
    const issuer = await Issuer.down(t, path)
    issuer.keys = keys.map(({ jwk }) => jwk)
    await issuer.up()
    return issuer
  }

  /** An issuer with an address that nobody answers at. */
  static async down(t: Test, path = ''): Promise<Issuer> {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    await new Promise((resolve) => server.close(resolve))
    const issuer = new Issuer(port, path)
    t.teardown(() => issuer.stop())
    return issuer
  }

  async up(): Promise<void> {
    const server = createServer(({ url = '' }, response) => {
      this.asked.push(url)
      const content = this.#contentOf(url)
      response.writeHead(content === undefined ? 404 : 200, { 'content-type': 'application/json' })
      response.end(typeof content === 'string' ? content : JSON.stringify(content ?? {}))
    })
    this.#server = server
    await new Promise<void>((resolve) => server.listen(this.#port, '127.0.0.1', resolve))
  }

  async stop(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    server?.closeAllConnections()
    await new Promise<unknown>((resolve) =>
      server === undefined ? resolve(undefined) : server.close(resolve),
    )
  }

  #contentOf(url: string): unknown {
    if (url === '/keys') return { keys: this.keys }
    if (url !== this.documentPath) return undefined
    return { issuer: this.url, jwks_uri: `http://127.0.0.1:${this.#port}/keys`, ...this.document }
  }

  /** A token that counts, but for what the test changes in it. */
  async token(key: SigningKey, claims: Claims = {}, header: Claims = {}): Promise<string> {
    const nowS = Math.floor(Date.now() / 1000)
    const all = { iss: this.url, aud: AUDIENCE, sub: 'desk', iat: nowS, exp: nowS + 60, scope: 'read:a' }
    const payload = Object.fromEntries(
      Object.entries({ ...all, ...claims }).filter(([, value]) => value !== undefined),
    )
    return new SignJWT(payload as JWTPayload)
      .setProtectedHeader({ alg: key.alg, kid: key.kid, typ: 'at+jwt', ...header })
      .sign(key.privateKey)
  }
}
