/** Certificates made by openssl: authorities, and what they certify. */
import { execFileSync } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Pair {
  /** Files. */
  readonly cert: string
  readonly key: string
}

export interface Subject {
  /** Such as `DNS:desk.example.com` or `IP:127.0.0.1`; several with commas between them. */
  readonly san?: string
  /** Negative: it has ended already. */
  readonly days?: number
  readonly extensions?: readonly string[]
}

const openssl = (...args: string[]): void => {
  execFileSync('openssl', args, { stdio: 'pipe' })
}

const newKey = (key: string): string[] => [
  '-newkey',
  'ec',
  '-pkeyopt',
  'ec_paramgen_curve:prime256v1',
  '-nodes',
  '-keyout',
  key,
]

export class Authority {
  readonly cert: string
  readonly #key: string
  readonly #dir: string

  constructor(dir: string, name: string) {
    this.#dir = dir
    this.cert = join(dir, `${name}.pem`)
    this.#key = join(dir, `${name}.key`)
    openssl('req', '-x509', '-days', '2', '-out', this.cert, ...newKey(this.#key), '-subj', `/CN=${name}`)
  }

  get pem(): string {
    return readFileSync(this.cert, 'utf8')
  }

  /** Another authority, certified by this one. */
  intermediate(name: string): Authority {
    const made = new Authority(this.#dir, name)
    this.#certify(
      name,
      made.#key,
      made.cert,
      ['basicConstraints=critical,CA:TRUE', 'keyUsage=keyCertSign'],
      2,
    )
    return made
  }

  certify(name: string, { san, days = 2, extensions = [] }: Subject = {}): Pair {
    const [cert, key] = [join(this.#dir, `${name}.pem`), join(this.#dir, `${name}.key`)]
    openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-out', key)
    chmodSync(key, 0o600)
    this.#certify(
      name,
      key,
      cert,
      ['basicConstraints=CA:FALSE', ...(san === undefined ? [] : [`subjectAltName=${san}`]), ...extensions],
      days,
    )
    return { cert, key }
  }

  #certify(name: string, key: string, cert: string, extensions: readonly string[], days: number): void {
    const [request, config] = [join(this.#dir, `${name}.csr`), join(this.#dir, `${name}.cnf`)]
    writeFileSync(config, extensions.join('\n'))
    openssl('req', '-new', '-key', key, '-subj', `/CN=${name}`, '-out', request)
    const signer = ['-CA', this.cert, '-CAkey', this.#key, '-CAcreateserial', '-extfile', config]
    openssl('x509', '-req', '-in', request, '-out', cert, '-days', String(days), ...signer)
  }
}

/** Both as text, as programs give them to the client. */
export const pemOf = ({ cert, key }: Pair): { cert: string; key: string } => ({
  cert: readFileSync(cert, 'utf8'),
  key: readFileSync(key, 'utf8'),
})
