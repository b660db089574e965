/**
 * Requests and answers of the data routes, `/v1/read` and transactions. The stream's `transaction` has the
 * same fields.
 */
import { Type } from '../typebox.js'
import {
  CLOSED,
  DtypeName,
  ElementIndex,
  Epoch,
  History,
  MergeName,
  Name,
  Octets,
  Position,
  ReadBound,
  Values,
} from './common.js'

const deltaFields = {
  offset: Type.Optional(Position),
  indices: Type.Optional(Type.Array(Position)),
  mask: Type.Optional(
    Type.String({ description: 'base64 of a bitset, least significant bit first, one bit per element' }),
  ),
  values: Values,
  merge: Type.Optional(MergeName),
}

/**
 * Dense (`offset`, default 0), sparse (`indices`) or masked (`mask`). The codec checks which fields may be
 * combined.
 */
export const DeltaBody = Type.Object(deltaFields, CLOSED)
export const WholePageBody = Type.Object({ values: Values }, CLOSED)

export const DataQuery = Type.Object(
  {
    epoch: Type.Optional(Epoch),
    history: Type.Optional(History),
    offset: Type.Optional(ReadBound),
    count: Type.Optional(ReadBound),
  },
  CLOSED,
)

/** For octet-stream bodies, which have no place for these fields. */
export const PatchQuery = Type.Object(
  { offset: Type.Optional(Position), merge: Type.Optional(MergeName) },
  CLOSED,
)
export const NoQuery = Type.Object({}, CLOSED)
/** For routes without other parameters. */
export const OfHistoryQuery = Type.Object({ history: Type.Optional(History) }, CLOSED)

export const DataAnswer = Type.Object(
  {
    name: Name,
    dtype: DtypeName,
    shape: Type.Array(Type.Integer()),
    epoch: Epoch,
    version: Epoch,
    offset: Type.Optional(ElementIndex),
    values: Values,
  },
  CLOSED,
)

export const WriteAnswer = Type.Object({ epoch: Epoch, version: Epoch, page: Name }, CLOSED)

export const ReadQuery = Type.Object(
  {
    pages: Type.String({ minLength: 1, description: 'Names, separated by commas.' }),
    epoch: Type.Optional(Epoch),
    history: Type.Optional(History),
  },
  CLOSED,
)

export const PageRead = Type.Object(
  { dtype: DtypeName, shape: Type.Array(Type.Integer()), version: Epoch, values: Values },
  CLOSED,
)
export const ReadAnswer = Type.Object({ epoch: Epoch, pages: Type.Record(Name, PageRead) }, CLOSED)

/** One delta of a transaction. */
export const PageDelta = Type.Object({ page: Name, ...deltaFields }, CLOSED)
export const Expectation = Type.Object({ page: Name, version: Epoch }, CLOSED)

export const transactionFields = {
  ops: Type.Array(PageDelta, {
    description:
      'May be empty: the transaction then only advances the epoch, which recomputes pages that read `prev`.',
  }),
  expect: Type.Optional(Type.Array(Expectation)),
  source: Type.Optional(Type.String()),
  intent: Type.Optional(Type.Unknown({ description: 'Any JSON. The log keeps it.' })),
  key: Type.Optional(
    Type.String({
      minLength: 1,
      description: 'Idempotency key, for clients that cannot send the header.',
    }),
  ),
}

export const TransactionBody = Type.Object(transactionFields, CLOSED)
export const TransactionAnswer = Type.Object({ epoch: Epoch, pages: Type.Record(Name, Epoch) }, CLOSED)

/** For OpenAPI: one operation that takes JSON or raw bytes. */
export const octetOr = (json: object): object => ({
  content: {
    'application/json': { schema: json },
    'application/octet-stream': { schema: Octets },
  },
})
