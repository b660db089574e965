/**
 * Writing the elements of one source page: a part of it, or all of it, from JSON or bytes.
 *
 * PATCH is the hot route of the server: it does nothing per request that could be done once. The bus asks
 * whether the idempotency key is new, then calls back for the content; so a repeat gets the first answer
 * before its body is checked. (src/engine/commands/transactions.ts lists where each question about a write is
 * asked.)
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyRequest } from 'fastify'
import type { ClientBus } from '../../auth/guarded-bus.js'
import type { WriteContent } from '../../engine/bus.js'
import type { PageShape } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import type { DeltaInput, DeltaValues } from '../../state/types.js'
import type { TypedArray } from '../../wire/dtype.js'
import type { Merge } from '../../wire/page.js'
import type { App } from '../context.js'
import { answerWith, idempotencyKey, WRITE_PROBLEMS } from '../reply/write-answer.js'
import { expectedVersion } from '../request/negotiate.js'
import { typedArrayOf } from '../request/octet-stream.js'
import { presentBody } from '../request/validation.js'
import { NameParams } from '../schemas/common.js'
import { DeltaBody, NoQuery, octetOr, PatchQuery, WholePageBody, WriteAnswer } from '../schemas/data.js'

const WRITE_HEADERS = {
  'if-match': 'Write only if the page has this ETag, or this version: `"v<version>"`.',
  'idempotency-key': 'A repeat with the same key gets the first answer; anything else under it is refused.',
  'mmsb-dtype':
    'For an octet-stream body: refuse it with INVALID_DELTA unless the page has this dtype, or one of those listed.',
}

export function dataWriteRoutes(app: App): void {
  const refuseBody = ({ bus, params, headers }: FastifyRequest, bytes: number): void =>
    bus.refuseWrite((params as { name: string }).name, keyOf(headers), bytes)
  app.patch(
    '/v1/pages/:name/data',
    {
      schema: {
        operationId: 'patchPage',
        summary: 'Write a part of a source page',
        description:
          'JSON: dense (`offset`, `values`), sparse (`indices`, `values`) or masked (`mask`, `values`). Octet-stream: dense, at `?offset=`.',
        tags: ['data'],
        params: NameParams,
        querystring: PatchQuery,
        body: octetOr(DeltaBody),
        response: { 200: WriteAnswer },
      },
      config: { needs: ['write'], headers: WRITE_HEADERS, problems: WRITE_PROBLEMS, refuseBody },
    },
    (request, reply) => {
      const { bus, params, headers, query } = request
      const make = (page: () => PageShape): WriteContent => {
        const delta = deltaOf(presentBody(request.body), query, headers, page)
        return { delta, expectVersion: expectedVersionOf(bus, params.name, headers) }
      }
      answerWith(reply, bus.writeOnce(params.name, keyOf(headers), make))
    },
  )

  app.put(
    '/v1/pages/:name/data',
    {
      schema: {
        operationId: 'writePage',
        summary: 'Write a whole source page',
        tags: ['data'],
        params: NameParams,
        querystring: NoQuery,
        body: octetOr(WholePageBody),
        response: { 200: WriteAnswer },
      },
      config: { needs: ['write'], headers: WRITE_HEADERS, problems: WRITE_PROBLEMS, refuseBody },
    },
    (request, reply) => {
      const { bus, params, headers } = request
      const make = (page: () => PageShape): WriteContent => {
        const body = presentBody(request.body) as Buffer | { values: DeltaValues }
        const values = Buffer.isBuffer(body) ? elementsOf(body, headers, page()) : body.values
        const expectVersion = expectedVersionOf(bus, params.name, headers)
        return { delta: { offset: 0, values }, isWhole: true, expectVersion }
      }
      answerWith(reply, bus.writeOnce(params.name, keyOf(headers), make))
    },
  )
}

function keyOf(headers: IncomingHttpHeaders): string | undefined {
  const key = headers['idempotency-key']
  return key === undefined ? undefined : idempotencyKey(key)
}

function expectedVersionOf(bus: ClientBus, name: string, headers: IncomingHttpHeaders): number | undefined {
  const header = headers['if-match']
  if (header === undefined) return undefined
  const actual = (): number => bus.peek(name).version
  const expected = expectedVersion(header, bus.historyId, actual)
  if (expected !== 'another history') return expected
  throw new MmsbError('PRECONDITION_FAILED', `If-Match: ${header.slice(0, 100)} is of another history.`, {
    page: name,
    actual: actual(),
  })
}

function deltaOf(
  body: unknown,
  query: { offset?: number; merge?: string },
  headers: IncomingHttpHeaders,
  page: () => PageShape,
): DeltaInput {
  if (Buffer.isBuffer(body)) {
    const values = elementsOf(body, headers, page())
    const { offset = 0, merge = 'set' } = query
    return { offset, merge: merge as Merge, values }
  }
  if (query.offset !== undefined || query.merge !== undefined) {
    throw new MmsbError('INVALID_REQUEST', 'query: offset and merge go into the body when it is JSON')
  }
  return body as DeltaInput
}

function elementsOf(body: Buffer, headers: IncomingHttpHeaders, { name, dtype }: PageShape): TypedArray {
  const claimed = headers['mmsb-dtype']
  if (claimed !== undefined && !String(claimed).split(',').includes(dtype)) {
    throw new MmsbError('INVALID_DELTA', `the body has dtype ${claimed}; page "${name}" has dtype ${dtype}`)
  }
  return typedArrayOf(dtype, body)
}
