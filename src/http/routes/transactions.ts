/** Several deltas in one transaction. */
import type { TransactionInput } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import type { App } from '../context.js'
import { idempotencyKey, WRITE_PROBLEMS } from '../reply/write-answer.js'
import { NoQuery, TransactionAnswer, TransactionBody } from '../schemas/data.js'

export function transactionRoutes(app: App): void {
  app.post(
    '/v1/transactions',
    {
      schema: {
        operationId: 'commitTransaction',
        summary: 'Commit deltas to several pages together',
        description:
          'Commits all of them in one epoch, or none. `expect` names the versions pages must have.',
        tags: ['data'],
        querystring: NoQuery,
        body: TransactionBody,
        response: { 200: TransactionAnswer },
      },
      config: {
        needs: ['write'],
        headers: {
          'idempotency-key':
            'A repeat with the same key gets the first answer; anything else under it is refused.',
        },
        problems: WRITE_PROBLEMS,
      },
    },
    async (request) => {
      const { bus } = request
      const body = request.body as TransactionInput
      const header = request.headers['idempotency-key']
      if (header === undefined) return bus.transact(body)
      if (body.key !== undefined) {
        throw new MmsbError('INVALID_REQUEST', 'body.key: give the key here or in Idempotency-Key, not twice')
      }
      return bus.transact({ ...body, key: idempotencyKey(header) })
    },
  )
}
