/** What the routes work with. Types only. */

import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify'
import type { EngineBus } from '../engine/bus.js'
import type { StreamHub } from '../stream/hub.js'
import type { Answers } from './answers.js'

/** The Fastify instance with types that follow the schemas. */
export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>

export type Reply = FastifyReply

export interface AppContext {
  readonly bus: EngineBus
  readonly hub: StreamHub
  /** Answers in flight. */
  readonly answers: Answers
  /** True once the server has begun to stop. */
  isStopping: boolean
}
