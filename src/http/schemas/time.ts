/** Requests and answers of the routes for past epochs, verification and what-if. */

import { HISTORY_LIMIT_MAX } from '../../limits.js'
import { Type } from '../typebox.js'
import {
  CLOSED,
  Digest,
  DtypeName,
  ElementIndex,
  Epoch,
  History,
  LocationName,
  MergeName,
  Name,
  Value,
  Values,
} from './common.js'
import { transactionFields } from './data.js'
import { Derive } from './pages.js'

const Limit = Type.Integer({ minimum: 1, maximum: HISTORY_LIMIT_MAX })
const Nullable = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()])
const Source = Nullable(Type.String())
const Intent = Type.Unknown({ description: 'Any JSON; null if the transaction had none.' })
const Timestamp = Type.String({ format: 'date-time', description: 'ISO 8601, UTC' })
const Next = Nullable(Epoch)

export const EpochParams = Type.Object({ epoch: Epoch }, CLOSED)

export const EpochsQuery = Type.Object(
  {
    from: Type.Optional(Epoch),
    to: Type.Optional(Epoch),
    page: Type.Optional(Name),
    source: Type.Optional(Type.String()),
    limit: Type.Optional(Limit),
    history: Type.Optional(History),
  },
  CLOSED,
)

export const HistoryQuery = Type.Object(
  {
    from: Type.Optional(Epoch),
    to: Type.Optional(Epoch),
    limit: Type.Optional(Limit),
    history: Type.Optional(History),
  },
  CLOSED,
)

export const DiffQuery = Type.Object(
  {
    from: Epoch,
    to: Type.Optional(Epoch),
    pages: Type.Optional(Type.String({ minLength: 1, description: 'Names, separated by commas.' })),
    history: Type.Optional(History),
  },
  CLOSED,
)

export const DeltaOp = Type.Object(
  {
    page: Name,
    offset: Type.Optional(ElementIndex),
    indices: Type.Optional(Type.Array(ElementIndex)),
    mask: Type.Optional(Type.String()),
    values: Values,
    merge: MergeName,
  },
  { ...CLOSED, title: 'Delta' },
)
export const CreateOp = Type.Object(
  {
    op: Type.Literal('create'),
    page: Name,
    dtype: DtypeName,
    shape: Type.Array(Type.Integer()),
    location: LocationName,
    fill: Type.Optional(Value),
    derive: Type.Optional(Derive),
  },
  { ...CLOSED, title: 'Page created' },
)
export const DefineOp = Type.Object(
  { op: Type.Literal('define'), function: Name, params: Type.Array(Type.String()), expr: Type.String() },
  { ...CLOSED, title: 'Function defined' },
)
export const UndefineOp = Type.Object(
  { op: Type.Literal('undefine'), function: Name },
  { ...CLOSED, title: 'Function deleted' },
)
export const DeleteOp = Type.Object(
  { op: Type.Literal('delete'), page: Name },
  { ...CLOSED, title: 'Page deleted' },
)

/** A transaction as the log has it. */
export const LoggedTransaction = Type.Object(
  {
    source: Source,
    intent: Intent,
    ops: Type.Array(Type.Union([DeltaOp, CreateOp, DeleteOp, DefineOp, UndefineOp])),
  },
  CLOSED,
)

export const EpochEntry = Type.Object(
  {
    epoch: Epoch,
    timestamp: Timestamp,
    void: Type.Optional(
      Type.Boolean({ description: 'The epoch was cancelled after it was logged; it changed nothing' }),
    ),
    transactions: Type.Array(LoggedTransaction),
    changed: Type.Array(Name),
    digest: Type.Optional(Digest),
  },
  CLOSED,
)

export const EpochsAnswer = Type.Object({ epochs: Type.Array(EpochEntry), next: Next }, CLOSED)

export const PageVersion = Type.Object(
  { epoch: Epoch, timestamp: Timestamp, source: Source, intent: Intent },
  CLOSED,
)
export const HistoryAnswer = Type.Object(
  { name: Name, versions: Type.Array(PageVersion), next: Next },
  CLOSED,
)

export const PageDiff = Type.Object(
  {
    ranges: Type.Array(Type.Array(ElementIndex, { minItems: 2, maxItems: 2 })),
    created: Type.Optional(Type.Literal(true)),
    deleted: Type.Optional(Type.Literal(true)),
  },
  CLOSED,
)
export const DiffAnswer = Type.Object({ from: Epoch, to: Epoch, pages: Type.Record(Name, PageDiff) }, CLOSED)

const Start = Type.Integer({
  minimum: 0,
  maximum: Number.MAX_SAFE_INTEGER,
  description:
    'Verification starts from the state after this epoch and replays epochs `from` + 1 to `to`. Default: the oldest epoch kept.',
})
const End = Type.Integer({
  minimum: 0,
  maximum: Number.MAX_SAFE_INTEGER,
  description: 'The last epoch to replay. Default: the newest.',
})
export const VerifyBody = Type.Object({ from: Type.Optional(Start), to: Type.Optional(End) }, CLOSED)

export const Divergence = Type.Object({ epoch: Epoch, page: Nullable(Name), detail: Type.String() }, CLOSED)
export const VerifyAnswer = Type.Object(
  {
    ok: Type.Boolean(),
    from: Epoch,
    to: Epoch,
    epochs: Type.Integer(),
    divergence: Nullable(Divergence),
    problems: Type.Array(Type.String()),
  },
  CLOSED,
)

export const WhatIfBody = Type.Object(
  { ops: transactionFields.ops, read: Type.Array(Name, { minItems: 1 }) },
  CLOSED,
)
