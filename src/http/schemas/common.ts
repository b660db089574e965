/**
 * Schema pieces that every route shares. The same objects validate requests, compile response serialisers, appear in
 * OpenAPI and give the handlers their types. Every object refuses fields it does not name.
 */
import Type, { type Static } from 'typebox'
import { ERRORS } from '../../errors.js'
import { PAGE_MAX_ELEMENTS } from '../../limits.js'
import { DTYPES } from '../../wire/dtype.js'
import { LOCATIONS, MERGES, NAME_PATTERN, PAGE_KINDS, PAGE_MAX_RANK } from '../../wire/page.js'

/** Options of every object: a field we do not know is a mistake of the caller, never ignored. */
export const CLOSED = { additionalProperties: false } as const

export const Name = Type.String({
  pattern: NAME_PATTERN,
  description: 'Letters, digits, `_ . : -`; at most 200 characters.',
})
export const NameParams = Type.Object({ name: Name }, CLOSED)

/** An epoch or a version: exact in a JSON number up to 2^53 - 1. */
export const Epoch = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
export const ElementIndex = Type.Integer({ minimum: 0, maximum: PAGE_MAX_ELEMENTS })
/** Where a delta goes. Any integer: that it is outside the page is said by who knows the page. */
export const Position = Type.Integer({
  description: 'Of an element, from 0; INVALID_DELTA when the page has none there.',
})
/** What is read: past the end of the page it is not satisfiable, however large. */
export const ReadBound = Type.Integer({ minimum: 0, description: 'Elements.' })

export const DtypeName = Type.Enum([...DTYPES])
export const LocationName = Type.Enum([...LOCATIONS])
export const PlacedLocation = Type.Enum(['cpu', 'gpu', 'unified'])
export const MergeName = Type.Enum([...MERGES])
export const PageKindName = Type.Enum([...PAGE_KINDS])
export const Shape = Type.Array(ElementIndex, { maxItems: PAGE_MAX_RANK })

/** One element: a number, a decimal string (any 64-bit integer), "NaN", "Infinity", "-Infinity", or a boolean. */
export const Value = Type.Unsafe<number | string | boolean>({
  type: ['number', 'string', 'boolean'],
  description:
    'A number; u64 and i64 as decimal strings; "NaN", "Infinity", "-Infinity"; true and false. INVALID_DELTA when it is out of the range of the dtype.',
})
export const Values = Type.Array(Value)
export const Digest = Type.String({ pattern: '^[0-9a-f]{32}$' })

/** The body of every error, RFC 9457. Some codes add fields, such as minEpoch. */
export const Problem = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    code: Type.Enum(Object.keys(ERRORS)),
    detail: Type.String(),
    hint: Type.String(),
  },
  { additionalProperties: true, description: 'application/problem+json' },
)

/** Bytes of a page, little-endian and row-major. */
export const Octets = Type.Unsafe<Uint8Array>({ type: 'string', format: 'binary' })
export type Value = Static<typeof Value>
