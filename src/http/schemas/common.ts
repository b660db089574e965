/**
 * Schema pieces that routes share. The same objects validate requests, compile response serialisers, appear
 * in OpenAPI and give the handlers their types. Every object refuses fields it does not name.
 */

import { ERRORS } from '../../errors.js'
import { PAGE_MAX_ELEMENTS } from '../../limits.js'
import { DTYPES } from '../../wire/dtype.js'
import { HISTORY_PATTERN } from '../../wire/messages.js'
import { LOCATIONS, MERGES, NAME_PATTERN, PAGE_KINDS, PAGE_MAX_RANK } from '../../wire/page.js'
import { type Static, Type } from '../typebox.js'

/** Options of every object: an unknown field is a mistake of the caller and never ignored. */
export const CLOSED = { additionalProperties: false } as const

export const Name = Type.String({
  pattern: NAME_PATTERN,
  description: 'Letters, digits, `_ . : -`; at most 200 characters.',
})
export const NameParams = Type.Object({ name: Name }, CLOSED)

/** An epoch or a version: exact in a JSON number up to 2^53 - 1. */
export const Epoch = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
/** Which line of epochs an epoch belongs to. */
export const History = Type.String({
  pattern: HISTORY_PATTERN,
  description:
    'The history that epochs belong to: `<bus id>.<generation>`. It changes when epoch numbers may be used again.',
})
export const ElementIndex = Type.Integer({ minimum: 0, maximum: PAGE_MAX_ELEMENTS })
/**
 * The position of a delta. Any integer passes: the engine knows the page and refuses positions outside it.
 */
export const Position = Type.Integer({
  description: 'Index of an element, from 0. INVALID_DELTA if the page has no such element.',
})
/** A bound of a read. Any size passes: one past the end of the page is RANGE_NOT_SATISFIABLE. */
export const ReadBound = Type.Integer({ minimum: 0, description: 'In elements.' })

export const DtypeName = Type.Enum([...DTYPES])
export const LocationName = Type.Enum([...LOCATIONS])
export const PlacedLocation = Type.Enum(['cpu', 'gpu', 'unified'])
export const MergeName = Type.Enum([...MERGES])
export const PageKindName = Type.Enum([...PAGE_KINDS])
export const Shape = Type.Array(ElementIndex, { maxItems: PAGE_MAX_RANK })

/**
 * One element: a number, a decimal string (any 64-bit integer), "NaN", "Infinity", "-Infinity", or a boolean.
 */
export const Value = Type.Unsafe<number | string | boolean>({
  type: ['number', 'string', 'boolean'],
  description:
    'A number; a decimal string for u64 and i64; "NaN", "Infinity", "-Infinity"; true or false. INVALID_DELTA if it is outside the range of the dtype.',
})
export const Values = Type.Array(Value)
export const Digest = Type.String({ pattern: '^[0-9a-f]{32}$' })

export const CodeOfError = Type.Enum(Object.keys(ERRORS))

/** The body of every error, RFC 9457. Some codes add fields, such as minEpoch. */
export const Problem = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    code: CodeOfError,
    detail: Type.String(),
    hint: Type.String(),
  },
  { additionalProperties: true, description: 'application/problem+json' },
)

/** Bytes of a page, little-endian and row-major. */
export const Octets = Type.Unsafe<Uint8Array>({ type: 'string', format: 'binary' })
export type Value = Static<typeof Value>
