/**
 * The tokens that this server makes: `mmsb_<principal>_<secret><checksum>`. The secret is 32 random bytes in
 * base64url. The checksum finds a token that was cut or mistyped, and lets scanners of source code recognize
 * one; it protects nothing.
 *
 * Invariant: a token is nowhere but in the answer that makes it. What is stored is its SHA-256.
 */
import { createHash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'

/** Like page names, so that an id can stand in a log, in `source` and in a URL. */
export const PRINCIPAL_PATTERN = '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$'

const PREFIX = 'mmsb_'
const SECRET_BYTES = 32
/** 32 bytes in base64url without padding. */
const SECRET_CHARS = 43
const CHECKSUM_CHARS = 8

export function newToken(principal: string): string {
  const body = `${PREFIX}${principal}_${randomBytes(SECRET_BYTES).toString('base64url')}`
  return `${body}${checksumOf(body)}`
}

/** Whether a text has the form and the checksum of a token. */
export function isToken(text: string): boolean {
  const id = text.slice(PREFIX.length, -(SECRET_CHARS + CHECKSUM_CHARS + 1))
  const body = text.slice(0, -CHECKSUM_CHARS)
  return (
    text.startsWith(PREFIX) &&
    new RegExp(PRINCIPAL_PATTERN).test(id) &&
    /^_[A-Za-z0-9_-]{43}$/.test(body.slice(PREFIX.length + id.length)) &&
    text.slice(-CHECKSUM_CHARS) === checksumOf(body)
  )
}

/** SHA-256 in hexadecimal digits, as the token file holds it. */
export function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('hex')
}

const checksumOf = (text: string): string => crc32(text).toString(16).padStart(CHECKSUM_CHARS, '0')
