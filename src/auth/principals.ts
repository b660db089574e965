/** A caller with an identity. */
import type { PrincipalLimits } from './limits/principal-limits.js'
import { EVERY_SCOPE, Scopes } from './scopes.js'

export interface Principal {
  /**
   * Names the caller in logs, in `source`, and in what belongs to the caller: keys, durable subscriptions.
   */
  readonly id: string
  readonly scopes: Scopes
  /** When the credentials end, in milliseconds since 1970; undefined if they do not. */
  readonly expiresMs?: number | undefined
  /** What the token file says of its limits; see LimitBook for what counts. */
  readonly limits?: PrincipalLimits | undefined
}

/** Who everybody is where nobody has to say who they are. */
export const ANYBODY: Principal = { id: '', scopes: new Scopes(EVERY_SCOPE) }
