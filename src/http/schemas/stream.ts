/**
 * Messages a client may send on the stream, the query of its server-sent events, and durable subscriptions.
 */
import { PRINCIPAL_PATTERN } from '../../auth/tokens.js'
import {
  PAGE_MAX_ELEMENTS,
  STREAM_ID_MAX_LENGTH,
  STREAM_PATTERNS_MAX,
  STREAM_RATE_MAX_HZ,
} from '../../limits.js'
import { DATA_MODES, POLICIES, STARTS } from '../../wire/messages.js'
import { NAME_PATTERN, PAGE_MAX_RANK } from '../../wire/page.js'
import { type Static, Type } from '../typebox.js'
import { CLOSED, Epoch, History, Name } from './common.js'
import { transactionFields } from './data.js'

const Id = Type.String({ minLength: 1, maxLength: STREAM_ID_MAX_LENGTH })
const DataMode = Type.Enum([...DATA_MODES])
const Policy = Type.Enum([...POLICIES])
const Rate = Type.Number({ exclusiveMinimum: 0, maximum: STREAM_RATE_MAX_HZ })

const Bound = Type.Integer({ minimum: 0, maximum: PAGE_MAX_ELEMENTS })
export const Slice = Type.Record(
  Type.String(),
  Type.Array(Type.Tuple([Bound, Bound]), { maxItems: PAGE_MAX_RANK }),
  {
    description: 'Windows on pages: for each axis the first index and the index after the last.',
  },
)

export const SubscribeMessage = Type.Object(
  {
    type: Type.Literal('subscribe'),
    id: Id,
    pages: Type.Array(Type.String(), { minItems: 1, maxItems: STREAM_PATTERNS_MAX }),
    from: Type.Optional(Type.Union([Type.Enum([...STARTS]), Epoch])),
    data: Type.Optional(DataMode),
    slice: Type.Optional(Slice),
    policy: Type.Optional(Policy),
    maxRate: Type.Optional(Rate),
    durable: Type.Optional(Name),
    history: Type.Optional(History),
  },
  CLOSED,
)
export const UnsubscribeMessage = Type.Object({ type: Type.Literal('unsubscribe'), id: Id }, CLOSED)
export const CommitMessage = Type.Object({ type: Type.Literal('commit'), id: Id, epoch: Epoch }, CLOSED)
export const TransactionMessage = Type.Object(
  {
    type: Type.Literal('transaction'),
    id: Id,
    ...transactionFields,
    traceparent: Type.Optional(
      Type.String({ maxLength: 512, description: 'The trace it belongs to (W3C Trace Context).' }),
    ),
  },
  CLOSED,
)

export const EventsQuery = Type.Object(
  {
    pages: Type.String({ minLength: 1, description: 'Names and patterns of pages, separated by commas.' }),
    from: Type.Optional(
      Type.String({
        pattern: '^(now|snapshot|0|[1-9][0-9]{0,15})$',
        description: '`now`, `snapshot` or an epoch',
      }),
    ),
    data: Type.Optional(DataMode),
    slice: Type.Optional(
      Type.String({
        description: 'Windows on pages, as JSON: `{"PAGE":[[start,stop],...]}`, a pair for each axis.',
      }),
    ),
    policy: Type.Optional(Policy),
    maxRate: Type.Optional(Rate),
    history: Type.Optional(History),
  },
  CLOSED,
)

export type SubscribeMessage = Static<typeof SubscribeMessage>
export type UnsubscribeMessage = Static<typeof UnsubscribeMessage>
export type CommitMessage = Static<typeof CommitMessage>
export type TransactionMessage = Static<typeof TransactionMessage>
export type EventsQuery = Static<typeof EventsQuery>

export const Ticket = Type.Object(
  { ticket: Type.String({ description: 'Counts once.' }), expiresAt: Type.String() },
  CLOSED,
)

/** A name, or for those with `admin` a name of another principal. */
const DurableName = Type.String({
  pattern: `^(${PRINCIPAL_PATTERN.slice(1, -1)}/)?${NAME_PATTERN.slice(1)}`,
  description: 'The name; `PRINCIPAL/NAME` for one of another principal',
})
export const DurableParams = Type.Object({ name: DurableName }, CLOSED)

/** A named durable subscription. */
export const DurableSubscription = Type.Object(
  {
    name: DurableName,
    pages: Type.Array(Type.String()),
    epoch: Type.Union([Epoch, Type.Null()], {
      description: 'The last epoch committed; null until its first snapshot is committed.',
    }),
    lag: Type.Union([Type.Integer(), Type.Null()], { description: 'Epochs since `epoch`.' }),
    connected: Type.Boolean(),
    held: Type.Boolean({ description: 'Whether the server keeps the epochs it has not seen.' }),
    createdAt: Type.String(),
    seenAt: Type.String({ description: 'When a reader was last connected.' }),
  },
  CLOSED,
)
export const DurableList = Type.Object({ subscriptions: Type.Array(DurableSubscription) }, CLOSED)
export const DurableGone = Type.Object({ name: DurableName }, CLOSED)
