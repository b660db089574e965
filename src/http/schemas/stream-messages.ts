/**
 * The messages of the stream in JSON, both ways, by their type: what the server checks and what /asyncapi.json shows. The
 * binary protocol's are the same, laid out as docs/internals/FORMAT.md says.
 */
import Type, { type TSchema } from 'typebox'
import { ERRORS } from '../../errors.js'
import type { StreamMessage } from '../../stream/messages.js'
import { CLOSED, DtypeName, Epoch, Name, Values } from './common.js'
import { CommitMessage, SubscribeMessage, TransactionMessage, UnsubscribeMessage } from './stream.js'

const Id = Type.String({ description: 'Of the subscription or transaction, as the client chose it.' })
const Extents = Type.Array(Type.Integer({ minimum: 0 }))
const Ranges = Type.Array(Type.Tuple([Type.Integer({ minimum: 0 }), Type.Integer({ minimum: 0 })]), {
  description: 'Offset and count, in elements; ascending and disjoint.',
})

const Change = Type.Object(
  {
    page: Name,
    kind: Type.Enum(['source', 'derived', 'created', 'deleted']),
    dtype: Type.Optional(DtypeName),
    shape: Type.Optional(Extents),
    ranges: Type.Optional(Ranges),
    values: Type.Optional(Values),
  },
  {
    ...CLOSED,
    description:
      'dtype and shape: of created pages. ranges: with data "ranges" and "values"; values, those of the ranges one after another: with "values".',
  },
)

const SnapshotPage = Type.Object({ dtype: DtypeName, shape: Extents, version: Epoch, values: Values }, CLOSED)

const told = (type: string, fields: Record<string, TSchema>, description: string): TSchema =>
  Type.Object({ type: Type.Literal(type), id: Id, ...fields }, { ...CLOSED, description })

export const CLIENT_MESSAGES = {
  subscribe: SubscribeMessage,
  unsubscribe: UnsubscribeMessage,
  commit: CommitMessage,
  transaction: TransactionMessage,
} as const satisfies Record<string, TSchema>

export const SERVER_MESSAGES = {
  subscribed: told(
    'subscribed',
    { epoch: Epoch },
    'The subscription is there; changes after this epoch follow.',
  ),
  snapshot: told(
    'snapshot',
    { epoch: Epoch, pages: Type.Record(Name, SnapshotPage) },
    'The pages as of an epoch; the changes after it follow.',
  ),
  change: told(
    'change',
    { epoch: Epoch, first: Epoch, changes: Type.Array(Change) },
    'What an epoch changed; with first < epoch what several epochs did, folded into one. Deletions come first.',
  ),
  progress: told('progress', { epoch: Epoch }, 'There is nothing to tell of the epochs up to this one.'),
  compacted: told('compacted', { minEpoch: Epoch }, 'The start asked for is gone; there is no subscription.'),
  overflow: told('overflow', { resumeFrom: Epoch }, 'The reader was too slow; the subscription has ended.'),
  unsubscribed: told('unsubscribed', { epoch: Epoch }, 'The subscription has ended, as asked for.'),
  committed: told(
    'committed',
    { epoch: Epoch },
    'The cursor of the durable subscription stands at this epoch, durably.',
  ),
  ack: told('ack', { epoch: Epoch }, 'The transaction is durable and visible as of this epoch.'),
  error: Type.Object(
    {
      type: Type.Literal('error'),
      id: Type.Optional(Id),
      code: Type.Enum(Object.keys(ERRORS)),
      detail: Type.String(),
      hint: Type.String(),
    },
    {
      additionalProperties: true,
      description:
        'A message was refused, or a subscription has ended. Without id: of a message that gave none. Some codes add fields.',
    },
  ),
} as const satisfies Record<StreamMessage['type'] | 'ack', TSchema>
