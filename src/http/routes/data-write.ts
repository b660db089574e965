/**
 * Writing the elements of one source page: a part of it, or all of it, from JSON or bytes.
 *
 * PATCH is the hot route of the server: it does nothing per request that could be done once.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { Bus, PatchResult, WriteOptions } from '../../engine/bus.js'
import { MmsbError } from '../../errors.js'
import type { DeltaInput, DeltaValues } from '../../state/types.js'
import type { TypedArray } from '../../wire/dtype.js'
import type { Merge } from '../../wire/page.js'
import type { App, AppContext } from '../context.js'
import { answerWith, idempotencyKey, WRITE_PROBLEMS } from '../reply/write-answer.js'
import { expectedVersion } from '../request/negotiate.js'
import { typedArrayOf } from '../request/octet-stream.js'
import { presentBody } from '../request/validation.js'
import { NameParams } from '../schemas/common.js'
import { DeltaBody, NoQuery, octetOr, PatchQuery, WholePageBody, WriteAnswer } from '../schemas/data.js'

const WRITE_HEADERS = {
  'if-match': 'Write only if the page has this version: `"v<version>"`.',
  'idempotency-key': 'A repeat with the same key gets the first answer.',
  'mmsb-dtype':
    'For an octet-stream body: refuse it with INVALID_DELTA unless the page has this dtype, or one of those listed.',
}

export function dataWriteRoutes(app: App, { bus }: AppContext): void {
  app.patch(
    '/v1/pages/:name/data',
    {
      schema: {
        summary: 'Write a part of a source page',
        description:
          'JSON: dense (`offset`, `values`), sparse (`indices`, `values`) or masked (`mask`, `values`). Octet-stream: dense, at `?offset=`.',
        tags: ['data'],
        params: NameParams,
        querystring: PatchQuery,
        body: octetOr(DeltaBody),
        response: { 200: WriteAnswer },
      },
      config: { headers: WRITE_HEADERS, problems: WRITE_PROBLEMS },
    },
    (request, reply) => {
      const { name } = request.params
      const answered = answeredBefore(bus, name, request.headers)
      if (answered !== undefined) return answerWith(reply, answered)
      const delta = deltaOf(bus, name, presentBody(request.body), request.query, request.headers)
      answerWith(reply, bus.patch(name, delta, writeOptions(bus, name, request.headers)))
    },
  )

  app.put(
    '/v1/pages/:name/data',
    {
      schema: {
        summary: 'Write a whole source page',
        tags: ['data'],
        params: NameParams,
        querystring: NoQuery,
        body: octetOr(WholePageBody),
        response: { 200: WriteAnswer },
      },
      config: { headers: WRITE_HEADERS, problems: WRITE_PROBLEMS },
    },
    (request, reply) => {
      const { name } = request.params
      const answered = answeredBefore(bus, name, request.headers)
      if (answered !== undefined) return answerWith(reply, answered)
      const body = presentBody(request.body) as Buffer | { values: DeltaValues }
      const values = Buffer.isBuffer(body) ? elementsOf(bus, name, body, request.headers) : body.values
      answerWith(reply, bus.write(name, values, writeOptions(bus, name, request.headers)))
    },
  )
}

/** The first answer, if this request is a repeat; even if the page has been deleted since. */
function answeredBefore(
  bus: Bus,
  name: string,
  headers: IncomingHttpHeaders,
): Promise<PatchResult> | undefined {
  const key = headers['idempotency-key']
  return key === undefined ? undefined : bus.answered(name, idempotencyKey(key))
}

function deltaOf(
  bus: Bus,
  name: string,
  body: unknown,
  query: { offset?: number; merge?: string },
  headers: IncomingHttpHeaders,
): DeltaInput {
  if (Buffer.isBuffer(body)) {
    const values = elementsOf(bus, name, body, headers)
    const { offset = 0, merge = 'set' } = query
    return { offset, merge: merge as Merge, values }
  }
  if (query.offset !== undefined || query.merge !== undefined) {
    throw new MmsbError('INVALID_REQUEST', 'query: offset and merge go into the body when it is JSON')
  }
  return body as DeltaInput
}

function elementsOf(bus: Bus, name: string, body: Buffer, headers: IncomingHttpHeaders): TypedArray {
  const { dtype } = bus.peekWritable(name)
  const claimed = headers['mmsb-dtype']
  if (claimed !== undefined && !String(claimed).split(',').includes(dtype)) {
    throw new MmsbError('INVALID_DELTA', `the body is of ${claimed}; page "${name}" is of ${dtype}`)
  }
  return typedArrayOf(dtype, body)
}

const NO_OPTIONS: WriteOptions = {}

function writeOptions(bus: Bus, name: string, headers: IncomingHttpHeaders): WriteOptions {
  const ifMatch = headers['if-match']
  const key = headers['idempotency-key']
  if (ifMatch === undefined && key === undefined) return NO_OPTIONS
  const version = expectedVersion(ifMatch, () => bus.peek(name).version)
  return {
    ...(version === undefined ? {} : { expectVersion: version }),
    ...(key === undefined ? {} : { key: idempotencyKey(key) }),
  }
}
