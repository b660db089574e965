/**
 * Reading the elements of pages: one page in whole or in part, as bytes or JSON, and several pages at one
 * epoch.
 *
 * Invariants: no header is set before the answer is known to hold what was asked for; bytes go out as they
 * lie in memory.
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { ClientBus } from '../../auth/guarded-bus.js'
import type { PageData, PageShape, PastOptions } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import { OCTETS_PIECE_BYTES, READ_SLICE_BYTES } from '../../limits.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { HISTORY_HEADER } from '../../wire/messages.js'
import type { Answers } from '../answers.js'
import type { App, AppContext, Reply } from '../context.js'
import { renderPieces } from '../reply/json-values.js'
import { renderRead } from '../reply/read-answer.js'
import { partsOf, slicedBody } from '../reply/sliced-body.js'
import { pastOptionsOf } from '../request/abort-signal.js'
import { byteRangeOf, etagOf, isNotModified, preferredType } from '../request/negotiate.js'
import { bytesOf } from '../request/octet-stream.js'
import { NameParams, Octets } from '../schemas/common.js'
import { DataAnswer, DataQuery, ReadAnswer, ReadQuery } from '../schemas/data.js'

const OCTETS = 'application/octet-stream'
const JSON_TYPE = 'application/json'
const JSON_UTF8 = 'application/json; charset=utf-8'
const OFFERED = [OCTETS, JSON_TYPE] as const

interface DataQueryValues {
  readonly epoch?: number
  readonly offset?: number
  readonly count?: number
}

/** A request for elements, and the page as it was when the request came. */
interface DataRequest {
  readonly bus: ClientBus
  readonly answers: Answers
  readonly page: PageShape
  readonly query: DataQueryValues
  readonly headers: IncomingHttpHeaders
  /** Aborts a read that takes long, and says whose it is. */
  readonly past: PastOptions
}

export function dataReadRoutes(app: App, { answers }: AppContext): void {
  app.get(
    '/v1/pages/:name/data',
    {
      schema: {
        operationId: 'readPage',
        summary: 'Read the elements of a page',
        description:
          'Answers little-endian bytes in row-major order, or JSON if `Accept` prefers it. `offset` and `count` are in elements, `Range` is in bytes.',
        tags: ['data'],
        params: NameParams,
        querystring: DataQuery,
      },
      config: {
        needs: ['read'],
        produces: { [OCTETS]: Octets, [JSON_TYPE]: DataAnswer },
        statuses: { 200: 'The page', 206: 'The requested part', 304: 'The client has this version already' },
        headers: {
          accept: 'application/octet-stream (default) or application/json',
          range: 'bytes=FIRST-LAST, bytes=FIRST- or bytes=-LENGTH; for octet-stream only',
          'if-none-match': 'Answer 304 if the page still has this ETag.',
          [HISTORY_HEADER]: 'The history the client knows. HISTORY_CHANGED if it is another one.',
        },
        problems: [
          'PAGE_NOT_FOUND',
          'EPOCH_NOT_FOUND',
          'EPOCH_COMPACTED',
          'HISTORY_CHANGED',
          'RANGE_NOT_SATISFIABLE',
        ],
      },
    },
    async (request, reply) => {
      const { bus, headers, params, query } = request
      const { epoch } = query
      const now = epoch === undefined ? bus.peek(params.name) : undefined
      // Only what takes long is worth cancelling.
      const isLong = now === undefined || now.bytes > READ_SLICE_BYTES
      const past = isLong ? pastOptionsOf(reply) : {}
      const page = now ?? (await bus.peekAt(params.name, epoch as number, past))
      const type = preferredType(headers.accept, OFFERED)
      if (type === undefined) {
        throw new MmsbError('NOT_ACCEPTABLE', `Accept: this route answers with ${OFFERED.join(' or ')}`)
      }
      void reply.header('vary', 'accept, origin').header('accept-ranges', 'bytes')
      const namesHistory = headers[HISTORY_HEADER] !== undefined
      if (isNotModified(headers['if-none-match'], bus.historyId, page.version, namesHistory)) {
        return reply
          .header('etag', etagOf(bus.historyId, page.version))
          .header('mmsb-epoch', epoch ?? bus.epoch)
          .code(304)
          .send()
      }
      const wanted = { bus, answers, page, query, headers, past }
      return type === JSON_TYPE ? sendJson(reply, wanted) : sendOctets(reply, wanted)
    },
  )

  app.get(
    '/v1/read',
    {
      schema: {
        operationId: 'readPages',
        summary: 'Read several pages, all at one epoch',
        tags: ['data'],
        querystring: ReadQuery,
      },
      config: {
        needs: ['read'],
        produces: { [JSON_TYPE]: ReadAnswer },
        statuses: { 200: 'The pages' },
        problems: ['PAGE_NOT_FOUND', 'EPOCH_NOT_FOUND', 'EPOCH_COMPACTED', 'HISTORY_CHANGED'],
      },
    },
    async (request, reply) => {
      const { bus } = request
      const wanted = request.query.epoch
      const names = [...new Set(request.query.pages.split(','))]
      const past = pastOptionsOf(reply)
      const options = wanted === undefined ? past : { ...past, epoch: wanted }
      let bytes = 0
      for (const name of names) {
        bytes += (wanted === undefined ? bus.peek(name) : await bus.peekAt(name, wanted, past)).bytes
      }
      answers.reserve(reply, bytes)
      const { epoch, pages } = await bus.readMany(names, options)
      return reply
        .header('mmsb-epoch', epoch)
        .header('content-type', JSON_UTF8)
        .send(renderRead(epoch, pages))
    },
  )
}

async function sendJson(reply: Reply, wanted: DataRequest): Promise<Reply> {
  const { page, query } = wanted
  const isPart = query.offset !== undefined || query.count !== undefined
  const { offset, count } = elementRange(page, query)
  const data = await read(reply, wanted, offset, count)
  describeData(reply, wanted.bus, data)
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

async function sendOctets(reply: Reply, wanted: DataRequest): Promise<Reply> {
  const { bus, page, query, headers } = wanted
  const { sizeBytes } = DTYPE_INFO[page.dtype]
  if (query.offset !== undefined || query.count !== undefined) {
    if (headers.range !== undefined) {
      throw new MmsbError('INVALID_REQUEST', 'give either offset and count or a Range header')
    }
    const { offset, count } = elementRange(page, query)
    const data = await read(reply, wanted, offset, count)
    describeData(reply, wanted.bus, data)
    return sendPart(reply, bytesOf(data.values), offset * sizeBytes, page.bytes)
  }
  const isRangeMeant =
    headers['if-range'] === undefined || headers['if-range'] === etagOf(bus.historyId, page.version)
  const range = isRangeMeant ? byteRangeOf(headers.range, page.bytes) : undefined
  if (range === 'unsatisfiable') throw outside(page, `Range: ${headers.range}`)
  if (range === undefined) {
    const data = await read(reply, wanted, 0, page.elements)
    describeData(reply, wanted.bus, data)
    return sendBytes(reply.code(200), bytesOf(data.values))
  }
  const first = Math.floor(range.start / sizeBytes)
  const data = await read(reply, wanted, first, Math.ceil(range.end / sizeBytes) - first)
  describeData(reply, wanted.bus, data)
  const bytes = bytesOf(data.values).subarray(range.start - first * sizeBytes, range.end - first * sizeBytes)
  return sendPart(reply, bytes, range.start, page.bytes)
}

async function read(
  reply: Reply,
  { bus, answers, page, query: { epoch }, past }: DataRequest,
  offset: number,
  count: number,
): Promise<PageData> {
  answers.reserve(reply, count * DTYPE_INFO[page.dtype].sizeBytes)
  const at = epoch === undefined ? past : { ...past, epoch }
  const data = await bus.data(page.name, { offset, count, ...at })
  if (data.dtype !== page.dtype || data.values.length !== count) {
    throw new MmsbError(
      'PAGE_NOT_FOUND',
      `page "${page.name}" was replaced while it was being read; read again`,
    )
  }
  return data
}

function elementRange(page: PageShape, query: DataQueryValues): { offset: number; count: number } {
  const { offset = 0 } = query
  const count = query.count ?? Math.max(0, page.elements - offset)
  // An offset at or past the end selects nothing. That is an error unless the caller asks for a count of 0 at
  // the end.
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

function describeData(reply: Reply, bus: ClientBus, { dtype, shape, version, epoch }: PageData): void {
  void reply
    .header('etag', etagOf(bus.historyId, version))
    .header('mmsb-epoch', epoch)
    .header('mmsb-dtype', dtype)
    .header('mmsb-shape', shape.join(','))
}

function sendPart(reply: Reply, bytes: Buffer, start: number, size: number): Reply {
  if (bytes.length > 0)
    void reply.header('content-range', `bytes ${start}-${start + bytes.length - 1}/${size}`)
  return sendBytes(reply.code(206), bytes)
}

function sendBytes(reply: Reply, bytes: Buffer): Reply {
  void reply.header('content-type', OCTETS)
  if (bytes.length <= OCTETS_PIECE_BYTES || reply.request.method === 'HEAD') return reply.send(bytes)
  return reply.header('content-length', bytes.length).send(slicedBody(partsOf(bytes)))
}
