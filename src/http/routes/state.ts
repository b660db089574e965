/** The state of the server: status, statistics, checkpoints. */

import type { CheckpointInfo } from '../../store/types.js'
import type { App, AppContext } from '../context.js'
import { healthOf } from '../health.js'
import { NoQuery } from '../schemas/data.js'
import { Checkpoint, CheckpointList, StatsAnswer, StatusAnswer } from '../schemas/state.js'
import type { Type } from '../typebox.js'

/** Subscriptions that statistics name. */
const LATE_SHOWN = 20

export function stateRoutes(app: App, context: AppContext): void {
  checkpointRoutes(app)
  const { hub } = context
  app.get(
    '/v1/status',
    {
      schema: {
        operationId: 'getStatus',
        summary: 'Read the status: epoch, digest, backend',
        tags: ['state'],
        querystring: NoQuery,
        response: { 200: StatusAnswer },
      },
      config: { needs: 'login' },
    },
    ({ bus }, reply) => {
      const { state, reason } = healthOf(context)
      const status = { ...bus.status(), state, ...(reason === undefined ? {} : { reason }) }
      void reply.send(status as Type.Static<typeof StatusAnswer>)
    },
  )

  app.get(
    '/v1/stats',
    {
      schema: {
        operationId: 'getStats',
        summary: 'Read statistics: counts, sizes and timings since start',
        tags: ['state'],
        querystring: NoQuery,
        response: { 200: StatsAnswer },
      },
      config: { needs: 'login' },
    },
    ({ bus, login }, reply) => {
      const stats = bus.stats()
      // Who reads and what is late belongs to all readers together.
      const seesAll = login === undefined || login.principal.scopes.allowsAll('read')
      const answer = seesAll
        ? { ...stats, subscriptions: { ...hub.stats(), late: hub.farthestBehind(LATE_SHOWN) } }
        : stats
      void reply.send(answer as Type.Static<typeof StatsAnswer>)
    },
  )
}

function checkpointRoutes(app: App): void {
  app.post(
    '/v1/checkpoints',
    {
      schema: {
        operationId: 'createCheckpoint',
        summary: 'Write a checkpoint of the newest epoch',
        tags: ['state'],
        querystring: NoQuery,
        response: { 201: Checkpoint },
      },
      config: { needs: ['admin'], answers: { 201: 'Written and durable' }, problems: ['LOG_FULL'] },
    },
    async ({ bus }, reply) => reply.code(201).send(viewOf(await bus.checkpoint())),
  )

  app.get(
    '/v1/checkpoints',
    {
      schema: {
        operationId: 'listCheckpoints',
        summary: 'List the checkpoints',
        tags: ['state'],
        querystring: NoQuery,
        response: { 200: CheckpointList },
      },
      config: { needs: ['admin'] },
    },
    ({ bus }, reply) => {
      void reply.send({ checkpoints: bus.checkpoints().map(viewOf) })
    },
  )
}

/** Without the path of the file, which clients need not know. */
const viewOf = ({ epoch, pages, bytes, newBytes, ms }: CheckpointInfo): Type.Static<typeof Checkpoint> => ({
  epoch,
  pages,
  bytes,
  newBytes,
  ms,
})
