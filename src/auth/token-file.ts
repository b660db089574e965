/**
 * The token file: the principals that log in with tokens of this server, or with certificates.
 *
 *   {"principals":[{"id":"desk","sha256":["<64 hex
 *   digits>"],"scopes":["read:risk.*"],"expires":"2027-01-01T00:00:00Z",
 *   "certificates":["desk.example.com"],"limits":{"pages":100}}]}
 *
 * A principal may have several hashes, so that a new token works before the old one is taken away.
 * `certificates` are names in certificates; where it is missing, the id is such a name.
 *
 * Invariants: the file is used whole or not at all; it is replaced whole, and only its owner can read it.
 */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { MmsbError } from '../errors.js'
import { CERTIFICATE_NAME, nameKey } from './certificate-names.js'
import { limitsFault, type PrincipalLimits } from './limits/principal-limits.js'
import type { Principal } from './principals.js'
import { readPrivate, unusable } from './private-file.js'
import { Scopes } from './scopes.js'
import { hashOf, newToken, PRINCIPAL_PATTERN } from './tokens.js'

const PRIVATE_FILE = 0o600
const HASHES_MAX = 2
const FIELDS: ReadonlySet<string> = new Set(['id', 'sha256', 'scopes', 'expires', 'certificates', 'limits'])

/** One entry of the file. */
export interface TokenEntry {
  readonly id: string
  /** Missing: no token counts, certificates alone. */
  readonly sha256?: readonly string[]
  readonly scopes: readonly string[]
  /** ISO 8601. */
  readonly expires?: string
  readonly certificates?: readonly string[]
  readonly limits?: PrincipalLimits
}

/** Principals by the hash of their token. */
export type Tokens = ReadonlyMap<string, Principal>

/** What a file says: principals by the hashes of their tokens, and by the names of their certificates. */
export interface AuthFile {
  readonly tokens: Tokens
  readonly names: ReadonlyMap<string, Principal>
}

/** @throws MmsbError INVALID_REQUEST if the file cannot be read, is not private, or has a mistake */
export function readAuthFile(file: string): AuthFile {
  const tokens = new Map<string, Principal>()
  const names = new Map<string, Principal>()
  for (const { id, sha256 = [], scopes, expires, certificates = [id], limits } of readEntries(file)) {
    const expiresMs = expires === undefined ? undefined : Date.parse(expires)
    const principal = { id, scopes: new Scopes(scopes), expiresMs, limits }
    for (const hash of sha256) tokens.set(hash, principal)
    for (const name of certificates) names.set(nameKey(name), principal)
  }
  return { tokens, names }
}

/** The entries of the file, checked. @throws MmsbError INVALID_REQUEST */
export function readEntries(file: string): readonly TokenEntry[] {
  const text = readPrivate(file)
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch {
    // The message of the parser would quote the file.
    throw unusable(file, 'is not JSON')
  }
  const list = (Object(content) as { principals?: unknown }).principals
  if (!Array.isArray(list)) throw unusable(file, 'has no list "principals"')
  const entries = list.map((entry, i) => checkedEntry(file, entry, i))
  const hashes = entries.flatMap(({ sha256 = [] }) => sha256)
  const names = entries.flatMap(({ id, certificates = [id] }) => certificates.map(nameKey))
  if (new Set(entries.map(({ id }) => id)).size < entries.length)
    throw unusable(file, 'names a principal twice')
  if (new Set(hashes).size < hashes.length) throw unusable(file, 'has a hash twice')
  if (new Set(names).size < names.length) throw unusable(file, 'gives the name of a certificate twice')
  return entries
}

/**
 * Adds a token for a principal, who becomes known with it, and answers the token. A principal that has one
 * keeps it beside the new one, and gets the new scopes and limits, where some are given.
 * @throws MmsbError INVALID_REQUEST
 */
export function addToken(
  file: string,
  { id, scopes, expires, limits }: Omit<TokenEntry, 'sha256' | 'certificates'>,
): { token: string; scopes: readonly string[] } {
  const entries = fs.existsSync(file) ? readEntries(file) : []
  const known = entries.find((entry) => entry.id === id)
  const token = newToken(id)
  const itsLimits = limits ?? known?.limits
  const sha256 = [...(known?.sha256 ?? []), hashOf(token)]
  if (sha256.length > HASHES_MAX) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `principal ${JSON.stringify(id)} has ${HASHES_MAX} tokens already; revoke the older one first`,
    )
  }
  const entry = checkedEntry(
    file,
    {
      id,
      sha256,
      scopes: scopes.length === 0 ? (known?.scopes ?? []) : scopes,
      ...(expires === undefined ? {} : { expires }),
      ...(known?.certificates === undefined ? {} : { certificates: known.certificates }),
      ...(itsLimits === undefined ? {} : { limits: itsLimits }),
    },
    entries.length,
  )
  writeEntries(file, [...entries.filter((other) => other.id !== id), entry])
  return { token, scopes: entry.scopes }
}

/**
 * Takes tokens away: all of a principal, or the older one. A principal that keeps neither a token nor a
 * certificate goes. @throws MmsbError NOT_FOUND, INVALID_REQUEST
 */
export function revokeToken(file: string, id: string, which: 'all' | 'older'): void {
  const entries = readEntries(file)
  const entry = entries.find((other) => other.id === id)
  if (entry === undefined) throw new MmsbError('NOT_FOUND', `no principal ${JSON.stringify(id)} in ${file}`)
  const others = entries.filter((other) => other !== entry)
  const { sha256: hashes = [], ...rest } = entry
  const sha256 = which === 'all' ? [] : hashes.slice(-1)
  const isNamed = entry.certificates !== undefined
  const kept = sha256.length > 0 ? [{ ...rest, sha256 }] : isNamed ? [rest] : []
  writeEntries(file, [...others, ...kept])
}

function checkedEntry(file: string, given: unknown, index: number): TokenEntry {
  const refuse = (what: string): never => {
    throw unusable(file, `principals[${index}]: ${what}`)
  }
  if (Object(given) !== given) return refuse('is not an object')
  const unknown = Object.keys(given as object).find((field) => !FIELDS.has(field))
  if (unknown !== undefined) refuse(`unknown field ${JSON.stringify(unknown.slice(0, 50))}`)
  const { id, sha256, scopes, expires, certificates, limits } = given as Record<string, unknown>
  if (typeof id !== 'string' || !new RegExp(PRINCIPAL_PATTERN).test(id)) refuse('id is not a name')
  if (sha256 !== undefined && !isHashes(sha256))
    refuse('sha256 is not a list of hashes, each of 64 hexadecimal digits')
  if (!isTexts(scopes)) refuse('scopes is not a list of texts')
  if (expires !== undefined && (typeof expires !== 'string' || Number.isNaN(Date.parse(expires))))
    refuse('expires is not a time such as 2027-01-01T00:00:00Z')
  if (
    certificates !== undefined &&
    !(isTexts(certificates) && certificates.every((n) => CERTIFICATE_NAME.test(n)))
  )
    refuse('certificates is not a list of names such as desk.example.com or spiffe://example.com/desk')
  const fault = limits === undefined ? undefined : limitsFault(limits)
  if (fault !== undefined) refuse(fault)
  try {
    new Scopes(scopes as string[])
  } catch (error) {
    refuse((error as Error).message)
  }
  return given as TokenEntry
}

const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((item) => typeof item === 'string')

const isHashes = (value: unknown): boolean =>
  isTexts(value) && value.length > 0 && value.every((hash) => /^[0-9a-f]{64}$/.test(hash))

function writeEntries(file: string, entries: readonly TokenEntry[]): void {
  const draft = path.join(path.dirname(file), `.${path.basename(file)}.${randomBytes(6).toString('hex')}`)
  const text = `${JSON.stringify({ principals: entries }, undefined, 2)}\n`
  try {
    const fd = fs.openSync(draft, 'wx', PRIVATE_FILE)
    try {
      fs.writeFileSync(fd, text)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    fs.renameSync(draft, file)
  } catch (error) {
    fs.rmSync(draft, { force: true })
    throw unusable(file, `cannot be written: ${(error as NodeJS.ErrnoException).code}`)
  }
}
