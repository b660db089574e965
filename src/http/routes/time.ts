/** The past, what might be, and whether the log tells the truth. */
import type { TransactionInput } from '../../engine/types.js'
import type { ErrorCode } from '../../errors.js'
import type { App, AppContext } from '../context.js'
import { renderRead } from '../reply/read-answer.js'
import { abortSignalOf } from '../request/abort-signal.js'
import { NameParams } from '../schemas/common.js'
import { NoQuery, ReadAnswer } from '../schemas/data.js'
import {
  DiffAnswer,
  DiffQuery,
  EpochEntry,
  EpochParams,
  EpochsAnswer,
  EpochsQuery,
  HistoryAnswer,
  HistoryQuery,
  VerifyAnswer,
  VerifyBody,
  WhatIfBody,
} from '../schemas/time.js'

const JSON_TYPE = 'application/json'
const JSON_UTF8 = 'application/json; charset=utf-8'
const PAST_PROBLEMS: readonly ErrorCode[] = ['EPOCH_NOT_FOUND', 'EPOCH_COMPACTED']

export function timeRoutes(app: App, { bus }: AppContext): void {
  app.get(
    '/v1/epochs/:epoch',
    {
      schema: { summary: 'What an epoch did', tags: ['time'], params: EpochParams, querystring: NoQuery },
      config: {
        produces: { [JSON_TYPE]: EpochEntry },
        statuses: { 200: 'Its transactions, with the pages they changed' },
        problems: PAST_PROBLEMS,
      },
    },
    async (request, reply) => bus.epochInfo(request.params.epoch, { signal: abortSignalOf(reply) }),
  )

  app.get(
    '/v1/epochs',
    {
      schema: {
        summary: 'What the epochs of a range did',
        description:
          'Ascending; those that changed `page`, those with a transaction of `source`. `next` is where to go on.',
        tags: ['time'],
        querystring: EpochsQuery,
      },
      config: {
        produces: { [JSON_TYPE]: EpochsAnswer },
        statuses: { 200: 'The epochs' },
        problems: PAST_PROBLEMS,
      },
    },
    async (request, reply) => bus.epochs(request.query, { signal: abortSignalOf(reply) }),
  )

  app.get(
    '/v1/pages/:name/history',
    {
      schema: {
        summary: 'The versions of a page',
        description: 'Ascending, from its creation on; `next` is where to go on.',
        tags: ['time'],
        params: NameParams,
        querystring: HistoryQuery,
      },
      config: {
        produces: { [JSON_TYPE]: HistoryAnswer },
        statuses: { 200: 'Each version is an epoch in which the bytes changed' },
        problems: ['PAGE_NOT_FOUND', ...PAST_PROBLEMS],
      },
    },
    async (request, reply) =>
      bus.history(request.params.name, request.query, { signal: abortSignalOf(reply) }),
  )

  app.get(
    '/v1/diff',
    {
      schema: {
        summary: 'What differs between two epochs',
        description: 'Element ranges whose bytes differ, by page. `to` is the newest epoch unless given.',
        tags: ['time'],
        querystring: DiffQuery,
      },
      config: {
        produces: { [JSON_TYPE]: DiffAnswer },
        statuses: { 200: 'The differences' },
        problems: ['PAGE_NOT_FOUND', ...PAST_PROBLEMS],
      },
    },
    async (request, reply) => {
      const { from, to, pages } = request.query
      const query = {
        from,
        ...(to === undefined ? {} : { to }),
        ...(pages === undefined ? {} : { pages: pages.split(',') }),
      }
      return bus.diff(query, { signal: abortSignalOf(reply) })
    },
  )

  app.post(
    '/v1/verify',
    {
      // All of it has a default, the body too.
      preValidation: (request, _reply, done) => {
        request.body ??= {}
        done()
      },
      schema: {
        summary: 'Replay the log and compare digests',
        description:
          'The state after epoch `from` is the start; epochs `from` + 1 to `to` are replayed, and the checkpoints on the way looked at. Without a body: all that is kept.',
        tags: ['time'],
        querystring: NoQuery,
        body: VerifyBody,
      },
      config: {
        produces: { [JSON_TYPE]: VerifyAnswer },
        statuses: { 200: 'What was found; `ok` says whether all is well' },
        problems: PAST_PROBLEMS,
      },
    },
    async (request, reply) => bus.verify(request.body, { signal: abortSignalOf(reply) }),
  )

  app.post(
    '/v1/whatif',
    {
      schema: {
        summary: 'What pages would hold after these deltas',
        description:
          'Nothing is committed, logged or shown to anyone else. The epoch and the versions are those the commit would have.',
        tags: ['time'],
        querystring: NoQuery,
        body: WhatIfBody,
      },
      config: {
        produces: { [JSON_TYPE]: ReadAnswer },
        statuses: { 200: 'The pages as they would be' },
        problems: ['INVALID_DELTA', 'PAGE_NOT_FOUND', 'PAGE_READ_ONLY', 'PAYLOAD_TOO_LARGE'],
      },
    },
    async (request, reply) => {
      const { ops, read } = request.body
      const { epoch, pages } = await bus.whatIf({ ops: ops as TransactionInput['ops'], read })
      return reply
        .header('mmsb-epoch', epoch)
        .header('content-type', JSON_UTF8)
        .send(renderRead(epoch, pages))
    },
  )
}
