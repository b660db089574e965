/**
 * The elements of pages: read them, in whole or in part, as bytes or JSON; write them.
 *
 * PATCH is the hot route of the server: it does nothing per request that could be done once.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { PatchResult, WriteOptions } from '../../engine/bus.js'
import { checkWritable } from '../../engine/commands/transactions.js'
import type { PageData, PageShape } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import { DTYPE_INFO, type TypedArray } from '../../state/dtype.js'
import type { DeltaInput, DeltaValues, Merge } from '../../state/types.js'
import type { App, AppContext, Reply } from '../context.js'
import { renderPieces } from '../reply/json-values.js'
import { renderRead } from '../reply/read-answer.js'
import { answerWith, idempotencyKey, WRITE_PROBLEMS } from '../reply/write-answer.js'
import { untilGone } from '../request/abort-signal.js'
import { byteRangeOf, etagOf, expectedVersion, isNotModified, preferredType } from '../request/negotiate.js'
import { bytesOf, typedArrayOf } from '../request/octet-stream.js'
import { presentBody } from '../request/validation.js'
import { NameParams, Octets } from '../schemas/common.js'
import {
  DataAnswer,
  DataQuery,
  DeltaBody,
  NoQuery,
  octetOr,
  PatchQuery,
  ReadAnswer,
  ReadQuery,
  WholePageBody,
  WriteAnswer,
} from '../schemas/data.js'

const OCTETS = 'application/octet-stream'
const JSON_TYPE = 'application/json'
const JSON_UTF8 = 'application/json; charset=utf-8'
const OFFERED = [OCTETS, JSON_TYPE] as const

const WRITE_HEADERS = {
  'if-match': 'Write only if the page has this version: `"v<version>"`.',
  'idempotency-key': 'A repeat with the same key gets the first answer.',
  'mmsb-dtype':
    'Of an octet-stream body: refused with INVALID_DELTA unless the page has this dtype, or one of these.',
}

interface DataQueryValues {
  readonly epoch?: number
  readonly offset?: number
  readonly count?: number
}

export function dataRoutes(app: App, context: AppContext): void {
  const { bus } = context

  app.get(
    '/v1/pages/:name/data',
    {
      schema: {
        summary: 'Read the elements of a page',
        description:
          'Little-endian bytes, row-major; or JSON, if `Accept` likes that better. `offset` and `count` are elements, `Range` is bytes.',
        tags: ['data'],
        params: NameParams,
        querystring: DataQuery,
      },
      config: {
        produces: { [OCTETS]: Octets, [JSON_TYPE]: DataAnswer },
        statuses: { 200: 'The page', 206: 'The part asked for', 304: 'The version the client has' },
        headers: {
          accept: 'application/octet-stream (default) or application/json',
          range: 'bytes=FIRST-LAST, bytes=FIRST- or bytes=-LENGTH; of octet-stream only',
          'if-none-match': 'Answer 304 when the page has this version: `"v<version>"`.',
        },
        problems: ['PAGE_NOT_FOUND', 'EPOCH_NOT_FOUND', 'EPOCH_COMPACTED', 'RANGE_NOT_SATISFIABLE'],
      },
    },
    async (request, reply) => {
      const { headers } = request
      const { epoch } = request.query
      const signal = epoch === undefined ? undefined : untilGone(reply)
      const page =
        epoch === undefined
          ? bus.peek(request.params.name)
          : await bus.peekAt(request.params.name, epoch, { signal })
      const type = preferredType(headers.accept, OFFERED)
      if (type === undefined) {
        throw new MmsbError('INVALID_REQUEST', `Accept: ${OFFERED.join(' and ')} are what there is`)
      }
      void reply.header('vary', 'accept, origin').header('accept-ranges', 'bytes')
      if (isNotModified(headers['if-none-match'], page.version)) {
        return reply
          .header('etag', etagOf(page.version))
          .header('mmsb-epoch', epoch ?? bus.epoch)
          .code(304)
          .send()
      }
      return type === JSON_TYPE
        ? sendJson(reply, page, request.query, signal)
        : sendOctets(reply, page, request.query, headers, signal)
    },
  )

  const read = async (
    page: PageShape,
    { epoch }: DataQueryValues,
    offset: number,
    count: number,
    signal: AbortSignal | undefined,
  ): Promise<PageData> => {
    const past = epoch === undefined ? {} : { epoch, signal }
    const data = await bus.data(page.name, { offset, count, ...past })
    if (data.dtype !== page.dtype || data.values.length !== count) {
      throw new MmsbError(
        'PAGE_NOT_FOUND',
        `page "${page.name}" was replaced while it was being read; read again`,
      )
    }
    return data
  }

  const sendJson = async (
    reply: Reply,
    page: PageShape,
    query: DataQueryValues,
    signal: AbortSignal | undefined,
  ): Promise<Reply> => {
    const isPart = query.offset !== undefined || query.count !== undefined
    const { offset, count } = elementRange(page, query)
    const data = await read(page, query, offset, count, signal)
    describeData(reply, data)
    if (isPart && count > 0) {
      void reply.header('content-range', `elements ${offset}-${offset + count - 1}/${page.elements}`)
    }
    const { name, dtype, shape, epoch, version } = data
    const head = JSON.stringify(
      isPart ? { name, dtype, shape, epoch, version, offset } : { name, dtype, shape, epoch, version },
    )
    const body = renderPieces([`${head.slice(0, -1)},"values":`, data, '}'])
    return reply
      .code(isPart ? 206 : 200)
      .header('content-type', JSON_UTF8)
      .send(body)
  }

  const sendOctets = async (
    reply: Reply,
    page: PageShape,
    query: DataQueryValues,
    headers: IncomingHttpHeaders,
    signal: AbortSignal | undefined,
  ): Promise<Reply> => {
    const { sizeBytes } = DTYPE_INFO[page.dtype]
    if (query.offset !== undefined || query.count !== undefined) {
      if (headers.range !== undefined) {
        throw new MmsbError('INVALID_REQUEST', 'give either offset and count or a Range header')
      }
      const { offset, count } = elementRange(page, query)
      const data = await read(page, query, offset, count, signal)
      describeData(reply, data)
      return sendPart(reply, bytesOf(data.values), offset * sizeBytes, page.bytes)
    }
    const isRangeMeant = headers['if-range'] === undefined || headers['if-range'] === etagOf(page.version)
    const range = isRangeMeant ? byteRangeOf(headers.range, page.bytes) : undefined
    if (range === null) throw outside(page, `Range: ${headers.range}`)
    if (range === undefined) {
      const data = await read(page, query, 0, page.elements, signal)
      describeData(reply, data)
      return reply.code(200).header('content-type', OCTETS).send(bytesOf(data.values))
    }
    const first = Math.floor(range.start / sizeBytes)
    const data = await read(page, query, first, Math.ceil(range.end / sizeBytes) - first, signal)
    describeData(reply, data)
    const bytes = bytesOf(data.values).subarray(
      range.start - first * sizeBytes,
      range.end - first * sizeBytes,
    )
    return sendPart(reply, bytes, range.start, page.bytes)
  }

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
      const answered = answeredBefore(name, request.headers)
      if (answered !== undefined) return answerWith(reply, answered)
      const delta = deltaOf(name, presentBody(request.body), request.query, request.headers)
      answerWith(reply, bus.patch(name, delta, writeOptions(name, request.headers)))
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
      const answered = answeredBefore(name, request.headers)
      if (answered !== undefined) return answerWith(reply, answered)
      const body = presentBody(request.body) as Buffer | { values: DeltaValues }
      const values = Buffer.isBuffer(body) ? elementsOf(name, body, request.headers) : body.values
      answerWith(reply, bus.write(name, values, writeOptions(name, request.headers)))
    },
  )

  /** A repeat gets the first answer, even where the page has gone since. */
  const answeredBefore = (name: string, headers: IncomingHttpHeaders): Promise<PatchResult> | undefined => {
    const key = headers['idempotency-key']
    return key === undefined ? undefined : bus.answered(name, idempotencyKey(key))
  }

  const elementsOf = (name: string, body: Buffer, headers: IncomingHttpHeaders): TypedArray => {
    const page = bus.peek(name)
    checkWritable(page)
    const { dtype } = page
    const claimed = headers['mmsb-dtype']
    if (claimed !== undefined && !String(claimed).split(',').includes(dtype)) {
      throw new MmsbError('INVALID_DELTA', `the body is of ${claimed}; page "${name}" is of ${dtype}`)
    }
    return typedArrayOf(dtype, body)
  }

  const deltaOf = (
    name: string,
    body: unknown,
    query: { offset?: number; merge?: string },
    headers: IncomingHttpHeaders,
  ): DeltaInput => {
    if (Buffer.isBuffer(body)) {
      const values = elementsOf(name, body, headers)
      const { offset = 0, merge = 'set' } = query
      return { offset, merge: merge as Merge, values }
    }
    if (query.offset !== undefined || query.merge !== undefined) {
      throw new MmsbError('INVALID_REQUEST', 'query: offset and merge go into the body when it is JSON')
    }
    return body as DeltaInput
  }

  const writeOptions = (name: string, headers: IncomingHttpHeaders): WriteOptions => {
    const ifMatch = headers['if-match']
    const key = headers['idempotency-key']
    if (ifMatch === undefined && key === undefined) return NO_OPTIONS
    const version = expectedVersion(ifMatch, () => bus.peek(name).version)
    return {
      ...(version === undefined ? {} : { expectVersion: version }),
      ...(key === undefined ? {} : { key: idempotencyKey(key) }),
    }
  }

  app.get(
    '/v1/read',
    {
      schema: {
        summary: 'Read several pages, all at one epoch',
        tags: ['data'],
        querystring: ReadQuery,
      },
      config: {
        produces: { [JSON_TYPE]: ReadAnswer },
        statuses: { 200: 'The pages' },
        problems: ['PAGE_NOT_FOUND', 'EPOCH_NOT_FOUND', 'EPOCH_COMPACTED'],
      },
    },
    async (request, reply) => {
      const wanted = request.query.epoch
      const past = wanted === undefined ? {} : { epoch: wanted, signal: untilGone(reply) }
      const { epoch, pages } = await bus.readMany(request.query.pages.split(','), past)
      return reply
        .header('mmsb-epoch', epoch)
        .header('content-type', JSON_UTF8)
        .send(renderRead(epoch, pages))
    },
  )
}

const NO_OPTIONS: WriteOptions = {}

function elementRange(page: PageShape, query: DataQueryValues): { offset: number; count: number } {
  const { offset = 0 } = query
  const count = query.count ?? Math.max(0, page.elements - offset)
  // Past the end there is nothing to ask for; at the end there is nothing only if a count of 0 says so.
  const isPastEnd = query.count === undefined && offset > 0 && offset >= page.elements
  if (isPastEnd || offset + count > page.elements)
    throw outside(page, `elements ${offset} to ${offset + count}`)
  return { offset, count }
}

const outside = (page: PageShape, what: string): MmsbError =>
  new MmsbError(
    'RANGE_NOT_SATISFIABLE',
    `${what}: page "${page.name}" has ${page.elements} elements, ${page.bytes} bytes`,
    {
      bytes: page.bytes,
      elements: page.elements,
    },
  )

function describeData(reply: Reply, { dtype, shape, version, epoch }: PageData): void {
  void reply
    .header('etag', etagOf(version))
    .header('mmsb-epoch', epoch)
    .header('mmsb-dtype', dtype)
    .header('mmsb-shape', shape.join(','))
}

function sendPart(reply: Reply, bytes: Buffer, start: number, size: number): Reply {
  if (bytes.length > 0)
    void reply.header('content-range', `bytes ${start}-${start + bytes.length - 1}/${size}`)
  return reply.code(206).header('content-type', OCTETS).send(bytes)
}
