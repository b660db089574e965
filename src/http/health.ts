/**
 * What the health routes and the admin listener say about a server: its state, how far it has started, and
 * why it is not ready.
 *
 * Null because the bus promises it: `failure`.
 */
import { MmsbError } from '../errors.js'

/** What probes ask. These answer when nothing else does. */
export const HEALTH_PATHS: ReadonlySet<string> = new Set(['/livez', '/readyz', '/startupz'])

export type ServerState = 'recovering' | 'ready' | 'stopping' | 'failed'

export interface Health {
  readonly state: ServerState
  /** How far recovery has come, from 0 to 100. */
  readonly percent: number
  /** Why the server is not ready, or what it does; for people who may see the status. */
  readonly reason?: string
}

/** What an app says of itself. */
export interface Report {
  health(): Health
  /** In the text format of Prometheus. */
  metrics(): Promise<string>
}

/** What every request but those about health gets until the bus is open. */
export function startingError({ state, percent, reason }: Health): MmsbError {
  const detail = `the server is starting (${percent} %)${reason === undefined ? '' : `: ${reason}`}`
  return new MmsbError('OVERLOADED', detail, { state, percent })
}

/** The health of a server whose bus is open. */
export function healthOf(context: {
  readonly bus: { readonly failure: string | null }
  readonly isStopping: boolean
}): Health {
  const { failure } = context.bus
  if (context.isStopping) return { state: 'stopping', percent: 100, reason: 'the server is stopping' }
  if (failure !== null) return { state: 'failed', percent: 100, reason: failure }
  return { state: 'ready', percent: 100 }
}
