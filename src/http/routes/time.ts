/** Past epochs, what-if, and verification of the log. */

import type { PastQuestion } from '../../engine/call-types.js'
import type { TransactionInput } from '../../engine/types.js'
import type { ErrorCode } from '../../errors.js'
import type { App, AppContext, Reply } from '../context.js'
import { bytesOfParts, renderParts } from '../reply/json-values.js'
import { renderRead } from '../reply/read-answer.js'
import { abortSignalOf, pastOptionsOf } from '../request/abort-signal.js'
import { NameParams } from '../schemas/common.js'
import { NoQuery, OfHistoryQuery, ReadAnswer } from '../schemas/data.js'
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
const PAST_PROBLEMS: readonly ErrorCode[] = ['EPOCH_NOT_FOUND', 'EPOCH_COMPACTED', 'HISTORY_CHANGED']

export function timeRoutes(app: App, { answers }: AppContext): void {
  app.get(
    '/v1/epochs/:epoch',
    {
      schema: {
        operationId: 'getEpoch',
        summary: 'Describe an epoch',
        tags: ['time'],
        params: EpochParams,
        querystring: OfHistoryQuery,
      },
      config: {
        needs: ['history'],
        produces: { [JSON_TYPE]: EpochEntry },
        statuses: { 200: 'The transactions of the epoch and the pages it changed' },
        problems: PAST_PROBLEMS,
      },
    },
    async (request, reply) => sendPast(answers, reply, { kind: 'epoch', epoch: request.params.epoch }),
  )

  app.get(
    '/v1/epochs',
    {
      schema: {
        operationId: 'listEpochs',
        summary: 'List a range of epochs',
        description:
          'In ascending order. `page` selects epochs that changed this page, `source` those with a transaction of this source. `next` is the `from` of the next request.',
        tags: ['time'],
        querystring: EpochsQuery,
      },
      config: {
        needs: ['history'],
        produces: { [JSON_TYPE]: EpochsAnswer },
        statuses: { 200: 'The epochs' },
        problems: PAST_PROBLEMS,
      },
    },
    async (request, reply) => sendPast(answers, reply, { kind: 'epochs', query: request.query }),
  )

  app.get(
    '/v1/pages/:name/history',
    {
      schema: {
        operationId: 'getPageHistory',
        summary: 'List the versions of a page',
        description: 'In ascending order, from its creation on. `next` is the `from` of the next request.',
        tags: ['time'],
        params: NameParams,
        querystring: HistoryQuery,
      },
      config: {
        needs: ['read', 'history'],
        produces: { [JSON_TYPE]: HistoryAnswer },
        statuses: { 200: 'The versions: the epochs in which its bytes changed' },
        problems: ['PAGE_NOT_FOUND', ...PAST_PROBLEMS],
      },
    },
    async (request, reply) =>
      sendPast(answers, reply, { kind: 'history', name: request.params.name, query: request.query }),
  )

  app.get(
    '/v1/diff',
    {
      schema: {
        operationId: 'diffEpochs',
        summary: 'Compare two epochs',
        description:
          'Answers, for each page, the element ranges whose bytes differ. `to` defaults to the newest epoch.',
        tags: ['time'],
        querystring: DiffQuery,
      },
      config: {
        needs: ['read', 'history'],
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
      return sendPast(answers, reply, { kind: 'diff', query })
    },
  )

  app.post(
    '/v1/verify',
    {
      // Every field has a default, so the body may be absent.
      preValidation: (request, _reply, done) => {
        request.body ??= {}
        done()
      },
      schema: {
        operationId: 'verifyLog',
        summary: 'Replay the log and compare digests',
        description:
          'Starts from the state after epoch `from`, replays epochs `from` + 1 to `to`, and checks the checkpoints between them. Without a body it verifies all epochs that are kept.',
        tags: ['time'],
        querystring: NoQuery,
        body: VerifyBody,
      },
      config: {
        needs: ['admin'],
        onlyAsks: true,
        produces: { [JSON_TYPE]: VerifyAnswer },
        statuses: { 200: 'The findings; `ok` is true if there are none' },
        problems: PAST_PROBLEMS,
      },
    },
    async (request, reply) => request.bus.verify(request.body, pastOptionsOf(reply)),
  )

  app.post(
    '/v1/whatif',
    {
      schema: {
        operationId: 'whatIf',
        summary: 'Try deltas and read the pages they would change',
        description:
          'Nothing is committed, logged or published. The epoch and the versions are those a commit would have.',
        tags: ['time'],
        querystring: NoQuery,
        body: WhatIfBody,
      },
      config: {
        needs: ['write', 'read'],
        onlyAsks: true,
        produces: { [JSON_TYPE]: ReadAnswer },
        statuses: { 200: 'The pages as they would be' },
        problems: ['INVALID_DELTA', 'PAGE_NOT_FOUND', 'PAGE_READ_ONLY', 'PAYLOAD_TOO_LARGE', 'COST_EXCEEDED'],
      },
    },
    async (request, reply) => {
      const { bus } = request
      const { ops, read } = request.body
      const names = [...new Set(read)]
      answers.reserve(
        reply,
        names.reduce((sum, name) => sum + bus.peek(name).bytes, 0),
      )
      const input = { ops: ops as TransactionInput['ops'], read: names }
      const { epoch, pages } = await bus.whatIf(input, { signal: abortSignalOf(reply) })
      return reply
        .header('mmsb-epoch', epoch)
        .header('content-type', JSON_UTF8)
        .send(renderRead(epoch, pages))
    },
  )
}

/** Answers with JSON that the replay thread made. */
async function sendPast(
  answers: AppContext['answers'],
  reply: Reply,
  question: PastQuestion,
): Promise<Reply> {
  const { parts } = await reply.request.bus.pastJson(question, pastOptionsOf(reply))
  answers.reserve(reply, bytesOfParts(parts))
  return reply.header('content-type', JSON_UTF8).send(renderParts(parts))
}
