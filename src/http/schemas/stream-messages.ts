/**
 * The JSON messages of the stream in both directions, by type: for the server's checks and for
 * /asyncapi.json. The binary protocol has the same messages in the layout of docs/internals/FORMAT.md.
 */

import { ERRORS } from '../../errors.js'
import type { StreamMessage } from '../../stream/messages.js'
import { type TSchema, Type } from '../typebox.js'
import { CLOSED, DtypeName, Epoch, History, Name, Values } from './common.js'
import { CommitMessage, SubscribeMessage, TransactionMessage, UnsubscribeMessage } from './stream.js'

const Id = Type.String({ description: 'The id the client chose for the subscription or transaction.' })
const Extents = Type.Array(Type.Integer({ minimum: 0 }))
const Ranges = Type.Array(Type.Tuple([Type.Integer({ minimum: 0 }), Type.Integer({ minimum: 0 })]), {
  description: 'Pairs of offset and count in elements, ascending and disjoint.',
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
      '`dtype` and `shape` are present for created pages; `ranges` with data "ranges" or "values"; `values` with data "values": the values of all ranges, one range after another.',
  },
)

const SnapshotPage = Type.Object({ dtype: DtypeName, shape: Extents, version: Epoch, values: Values }, CLOSED)

const message = (type: string, fields: Record<string, TSchema>, description: string): TSchema =>
  Type.Object({ type: Type.Literal(type), id: Id, ...fields }, { ...CLOSED, description })

export const CLIENT_MESSAGES = {
  subscribe: SubscribeMessage,
  unsubscribe: UnsubscribeMessage,
  commit: CommitMessage,
  transaction: TransactionMessage,
} as const satisfies Record<string, TSchema>

export const SERVER_MESSAGES = {
  subscribed: message(
    'subscribed',
    { epoch: Epoch, history: History },
    'The subscription has started; changes after this epoch follow.',
  ),
  snapshot: message(
    'snapshot',
    { epoch: Epoch, history: History, pages: Type.Record(Name, SnapshotPage) },
    'The pages as of this epoch; the changes after it follow.',
  ),
  change: message(
    'change',
    { epoch: Epoch, first: Epoch, changes: Type.Array(Change) },
    'The changes of one epoch or, if first < epoch, of several epochs combined. Deletions come first.',
  ),
  progress: message(
    'progress',
    { epoch: Epoch },
    'No epoch up to this one changed anything more for the subscription.',
  ),
  compacted: message(
    'compacted',
    { minEpoch: Epoch },
    'The requested start is no longer kept; the subscription was not started.',
  ),
  overflow: message(
    'overflow',
    { resumeFrom: Epoch },
    'The reader was too slow; the subscription has ended.',
  ),
  unsubscribed: message('unsubscribed', { epoch: Epoch }, 'The subscription has ended, as requested.'),
  committed: message(
    'committed',
    { epoch: Epoch },
    'The cursor of the durable subscription is at this epoch, on disk.',
  ),
  ack: message('ack', { epoch: Epoch }, 'The transaction is durable and visible as of this epoch.'),
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
        'A message was refused, or a subscription has ended. `id` is absent if the message had none. Some codes add fields.',
    },
  ),
} as const satisfies Record<StreamMessage['type'] | 'ack', TSchema>
