/** Requests and answers of the page routes. */

import { PAGES_AT_ONCE_MAX } from '../../limits.js'
import { NAME_PATTERN } from '../../wire/page.js'
import { Type } from '../typebox.js'
import {
  CLOSED,
  Digest,
  DtypeName,
  Epoch,
  LocationName,
  Name,
  PageKindName,
  PlacedLocation,
  Shape,
  Value,
} from './common.js'

/** A page, or its previous values. One schema instead of a union, so that an error names the field. */
export const DeriveInput = Type.Unsafe<string | { prev: string }>({
  type: ['string', 'object'],
  pattern: NAME_PATTERN,
  properties: { prev: Name },
  required: ['prev'],
  additionalProperties: false,
  description: 'The name of a page, or {"prev": name} for its values in the previous epoch.',
})

/**
 * The op and its inputs by role. Parameters differ from op to op: the op catalogue checks them and refuses
 * unknown ones.
 */
export const Derive = Type.Object(
  { op: Type.String({ minLength: 1 }), inputs: Type.Record(Type.String(), DeriveInput) },
  { additionalProperties: true },
)

export const SourceBody = Type.Object(
  {
    dtype: DtypeName,
    shape: Shape,
    location: Type.Optional(LocationName),
    fill: Type.Optional(Value),
  },
  { ...CLOSED, title: 'Source page' },
)

export const DerivedBody = Type.Object(
  {
    derive: Derive,
    dtype: Type.Optional(DtypeName),
    shape: Type.Optional(Shape),
    location: Type.Optional(LocationName),
  },
  { ...CLOSED, title: 'Derived page' },
)

export const PageBody = Type.Union([SourceBody, DerivedBody])

export const NamedSource = Type.Object(
  { name: Name, ...SourceBody.properties },
  { ...CLOSED, title: 'Source page' },
)
export const NamedDerived = Type.Object(
  { name: Name, ...DerivedBody.properties },
  { ...CLOSED, title: 'Derived page' },
)
export const NamedBody = Type.Union([NamedSource, NamedDerived])

/** Named definitions that are created together. */
export const PagesBody = Type.Object(
  { pages: Type.Array(NamedBody, { minItems: 1, maxItems: PAGES_AT_ONCE_MAX }) },
  CLOSED,
)

export const Page = Type.Object(
  {
    name: Name,
    id: Type.Integer(),
    kind: PageKindName,
    dtype: DtypeName,
    shape: Type.Array(Type.Integer()),
    bytes: Type.Integer(),
    location: PlacedLocation,
    version: Epoch,
    createdEpoch: Epoch,
    derive: Type.Optional(Derive),
    opVersion: Type.Optional(
      Type.Integer({
        minimum: 1,
        description: 'The version of its op that a derived page keeps until it is redefined or migrated.',
      }),
    ),
    inputs: Type.Array(Name),
    dependents: Type.Array(Name),
    digest: Digest,
  },
  CLOSED,
)

export const PageList = Type.Object(
  { pages: Type.Array(Page), next: Type.Union([Type.String(), Type.Null()]) },
  CLOSED,
)

export const PagesAnswer = Type.Object({ epoch: Epoch, pages: Type.Array(Page) }, CLOSED)

export const PageListQuery = Type.Object(
  {
    prefix: Type.Optional(Type.String()),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
    cursor: Type.Optional(Type.String()),
  },
  CLOSED,
)

export const DeleteQuery = Type.Object({ cascade: Type.Optional(Type.Boolean()) }, CLOSED)
export const EpochAnswer = Type.Object({ epoch: Epoch }, CLOSED)
