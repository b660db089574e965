/**
 * The name of a principal that a token of an issuer names.
 *
 * Invariant: two subjects never have one name.
 */
import { createHash } from 'node:crypto'
import { PRINCIPAL_PATTERN } from '../tokens.js'

const IS_NAME = new RegExp(PRINCIPAL_PATTERN)
/** Begins the names of subjects that cannot be names themselves. */
const HASHED = 'sub:'

/**
 * A subject that can be the id of a principal is one. Another one, such as `auth0|5f7c`, is named by its
 * SHA-256.
 */
export function principalOf(subject: string): string {
  if (IS_NAME.test(subject) && !subject.startsWith(HASHED)) return subject
  return `${HASHED}${createHash('sha256').update(subject).digest('base64url')}`
}
