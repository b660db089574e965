/** What the routes work with. Types only. */

import type { ServerResponse } from 'node:http'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify'
import type { Auditor } from '../audit/auditor.js'
import type { Authenticator } from '../auth/authenticator.js'
import type { PrincipalUsages } from '../auth/limits/usages.js'
import type { Tickets } from '../auth/tickets.js'
import type { EngineBus } from '../engine/bus.js'
import type { StreamHub } from '../stream/hub.js'
import type { Answers } from './answers.js'
import type { ProtectedResource } from './challenge.js'
import type { ClientCertificates } from './client-certificates.js'

/** The Fastify instance with types that follow the schemas. */
export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>

export type Reply = FastifyReply

/** The HTTP requests being read or answered. */
export interface OpenRequests {
  readonly count: number
  /** Counts this one no longer: its answer does not end by itself. */
  exclude(response: ServerResponse): void
}

export interface AppContext {
  readonly bus: EngineBus
  readonly hub: StreamHub
  /** Undefined: everybody may do everything. */
  readonly authenticator: Authenticator | undefined
  /** Undefined: nobody logs in with a certificate. */
  readonly certificates: ClientCertificates | undefined
  readonly tickets: Tickets
  /** Set where the tokens of an issuer count. */
  readonly resource: ProtectedResource | undefined
  /** Undefined: there is no audit trail. */
  readonly auditor: Auditor | undefined
  /** What principals use of their limits; undefined where nothing is counted. */
  readonly usages: PrincipalUsages | undefined
  /** Answers in flight. */
  readonly answers: Answers
  readonly openRequests: OpenRequests
  /** True once the server has begun to stop. */
  isStopping: boolean
}
