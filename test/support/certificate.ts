/** Certificates for servers on this machine, made by openssl. */
import { execFileSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'

export interface Pair {
  readonly cert: string
  readonly key: string
}

/** A certificate of its own, for one server: NAME.pem and NAME.key in the folder. */
export function certificate(dir: string, name: string, server = 'IP:127.0.0.1'): Pair {
  const cert = join(dir, `${name}.pem`)
  const key = join(dir, `${name}.key`)
  const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=${server}`]
  const keyArgs = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', key]
  execFileSync('openssl', ['req', '-x509', '-days', '2', '-out', cert, ...keyArgs, ...subject], {
    stdio: 'pipe',
  })
  chmodSync(key, 0o600)
  return { cert, key }
}
