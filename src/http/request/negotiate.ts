/**
 * HTTP headers of requests: Host, Content-Encoding, Accept, ETags and lists of them, Range (RFC 9110).
 * Functions that know neither pages nor the framework.
 */
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { MmsbError } from '../../errors.js'

const NO_HOST = new MmsbError('INVALID_REQUEST', 'headers: HTTP/1.1 needs Host')
const TWO_HOSTS = new MmsbError('INVALID_REQUEST', 'headers: Host is there twice')

/** Why a request is refused for its headers, before its body is read; undefined if it is not. */
export function refusedHeaders({ headers, rawHeaders, httpVersion }: IncomingMessage): MmsbError | undefined {
  // RFC 9112, 3.2.
  if (headers.host === undefined) {
    if (httpVersion === '1.1') return NO_HOST
  } else if (hasTwoHosts(rawHeaders)) return TWO_HOSTS
  const encoding = headers['content-encoding']
  if (encoding === undefined || encoding === '' || encoding.toLowerCase() === 'identity') return undefined
  const detail = `Content-Encoding: ${JSON.stringify(encoding.slice(0, 100))} is not decoded; send the body as it is`
  return new MmsbError('UNSUPPORTED_MEDIA_TYPE', detail)
}

/** Names and values alternate. */
function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  return hosts > 1
}

interface MediaRange {
  readonly type: string
  readonly quality: number
}

/**
 * The type of `offered` that `accept` prefers; the earlier one of equals; undefined if it accepts none. A
 * more specific range overrides a wider one, whatever their order.
 */
export function preferredType(accept: string | undefined, offered: readonly string[]): string | undefined {
  if (accept === undefined || accept === '' || accept === '*/*') return offered[0]
  const ranges = accept.split(',').map(mediaRangeOf)
  let best: string | undefined
  let bestQuality = 0
  for (const type of offered) {
    const quality = qualityOf(type, ranges)
    if (quality > bestQuality) {
      best = type
      bestQuality = quality
    }
  }
  return best
}

function mediaRangeOf(text: string): MediaRange {
  const [type = '', ...parameters] = text.split(';').map((part) => part.trim().toLowerCase())
  const q = parameters.find((p) => p.startsWith('q='))
  const quality = q === undefined ? 1 : Number(q.slice(2))
  return { type, quality: quality >= 0 && quality <= 1 ? quality : 0 }
}

function qualityOf(type: string, ranges: readonly MediaRange[]): number {
  const family = `${type.split('/', 1)[0]}/*`
  for (const wanted of [type, family, '*/*']) {
    const range = ranges.find((r) => r.type === wanted)
    if (range !== undefined) return range.quality
  }
  return 0
}

const TAG_DIGITS = 12
let taggedHistory = ''
let tag = ''

/** A short hash of a history. A process answers with one history, so the last one is kept. */
function tagOf(history: string): string {
  if (history !== taggedHistory) {
    tag = createHash('sha256').update(history).digest('hex').slice(0, TAG_DIGITS)
    taggedHistory = history
  }
  return tag
}

/** The ETag of a version of a page: two histories never have the same. */
export const etagOf = (history: string, version: number): string => `"${tagOf(history)}.v${version}"`

const ENTITY_TAG = /^\s*(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*$/

/**
 * The tags of an If-Match or If-None-Match header, with quotes, without the mark of weak ones; '*' for any.
 *
 * @throws MmsbError INVALID_REQUEST when malformed
 */
export function entityTags(header: string, field: string): '*' | readonly string[] {
  if (header.trim() === '*') return '*'
  return header.split(',').map((part) => {
    const match = ENTITY_TAG.exec(part)
    if (match === null)
      throw new MmsbError(
        'INVALID_REQUEST',
        `${field}: ${JSON.stringify(header.slice(0, 100))} is not a list of "v<version>"`,
      )
    return `"${match[2]}"`
  })
}

/** What an If-Match header asks for. */
export type ExpectedVersion =
  /** Nothing: there is no header, or it is `*`, which asks only that the page exists. */
  | undefined
  | number
  /** A version of another history, which no page has. */
  | 'another history'

const VERSION_TAG = /^"(?:([0-9a-f]{12})\.)?v(\d{1,16})"$/

/**
 * The version an If-Match header asks for: an ETag, or `"v<version>"`, which means the present history. Of a
 * list it is the current version if the list has it.
 */
export function expectedVersion(
  header: string | undefined,
  history: string,
  current: () => number,
): ExpectedVersion {
  if (header === undefined) return undefined
  const tags = entityTags(header, 'If-Match')
  if (tags === '*') return undefined
  const versions = tags.flatMap((tag) => {
    const [, of, digits] = VERSION_TAG.exec(tag) ?? []
    if (digits === undefined)
      throw new MmsbError('INVALID_REQUEST', `If-Match: ${tag.slice(0, 100)} is not of the form "v<version>"`)
    return of === undefined || of === tagOf(history) ? [Number(digits)] : []
  })
  if (versions.length < 2) return versions[0] ?? 'another history'
  const now = current()
  return versions.includes(now) ? now : versions[0]
}

/**
 * True if If-None-Match lists this version: the client has it already. `"v<version>"` names no history, so it
 * counts only if the request named the present one.
 */
export function isNotModified(
  header: string | undefined,
  history: string,
  version: number,
  namesHistory: boolean,
): boolean {
  if (header === undefined) return false
  const tags = entityTags(header, 'If-None-Match')
  if (tags === '*' || tags.includes(etagOf(history, version))) return true
  return namesHistory && tags.includes(`"v${version}"`)
}

export interface ByteRange {
  readonly start: number
  /** First byte after the range. */
  readonly end: number
}

/**
 * The single range of a Range header over `size` bytes. undefined if the header must be ignored (RFC 9110,
 * 14.2): it has another unit, is malformed or has several ranges.
 */
export function byteRangeOf(
  header: string | undefined,
  size: number,
): ByteRange | 'unsatisfiable' | undefined {
  const match = /^bytes=\s*(\d*)-(\d*)\s*$/i.exec(header ?? '')
  if (match === null) return undefined
  const [, first = '', last = ''] = match
  if (first === '' && last === '') return undefined
  if (first === '') {
    const suffix = Math.min(Number(last), size)
    return suffix === 0 ? 'unsatisfiable' : { start: size - suffix, end: size }
  }
  const start = Number(first)
  if (last !== '' && Number(last) < start) return undefined
  if (start >= size) return 'unsatisfiable'
  return { start, end: last === '' ? size : Math.min(Number(last) + 1, size) }
}
