/** Answers of the graph, status, statistics, checkpoint and health routes. */

import { FSYNC_MODES } from '../../engine/arguments.js'
import { Type } from '../typebox.js'
import { CLOSED, Digest, Epoch, History, Name, PageKindName } from './common.js'

export const GraphQuery = Type.Object(
  { format: Type.Optional(Type.Enum(['json', 'dot', 'mermaid'])) },
  CLOSED,
)

export const GraphNode = Type.Object(
  { name: Name, kind: PageKindName, level: Type.Integer(), op: Type.Optional(Type.String()) },
  CLOSED,
)
export const GraphEdge = Type.Object(
  {
    from: Name,
    to: Name,
    input: Type.String(),
    prev: Type.Optional(Type.Literal(true, { description: 'Reads the previous epoch.' })),
  },
  CLOSED,
)
export const GraphAnswer = Type.Object({ nodes: Type.Array(GraphNode), edges: Type.Array(GraphEdge) }, CLOSED)

export const DeviceLoss = Type.Object({ epoch: Epoch, reason: Type.String() }, CLOSED)

export const StatusAnswer = Type.Object(
  {
    version: Type.String(),
    history: History,
    epoch: Epoch,
    digest: Type.Optional(Digest),
    backend: Type.Enum(['cpu', 'cuda']),
    device: Type.Optional(Type.Object({}, { additionalProperties: true })),
    deviceLoss: Type.Optional(DeviceLoss),
    pages: Type.Integer(),
    fsync: Type.Enum([...FSYNC_MODES]),
    readOnly: Type.Boolean({ description: 'Every write is refused with READ_ONLY.' }),
    uptimeMs: Type.Integer(),
    minEpoch: Epoch,
    state: Type.Enum(['ready', 'stopping', 'failed']),
    reason: Type.Optional(Type.String({ description: 'Why the server is not ready.' })),
  },
  CLOSED,
)

export const Durations = Type.Object(
  { count: Type.Integer(), p50: Type.Number(), p99: Type.Number(), max: Type.Number() },
  {
    ...CLOSED,
    description: 'Median, 99th percentile and maximum of `count` durations, in microseconds.',
  },
)

export const DeltaCounts = Type.Object(
  { dense: Type.Integer(), sparse: Type.Integer(), masked: Type.Integer() },
  CLOSED,
)
export const GraphSize = Type.Object(
  { nodes: Type.Integer(), edges: Type.Integer(), depth: Type.Optional(Type.Integer()) },
  CLOSED,
)
export const QueueSize = Type.Object({ transactions: Type.Integer(), bytes: Type.Integer() }, CLOSED)
export const LogStats = Type.Object({ appendUs: Durations }, { additionalProperties: true })

/**
 * Open: later versions add fields, and readers ignore unknown ones. A principal that may not read all pages
 * gets the counts of those that it may read, and no more.
 */
export const StatsAnswer = Type.Object(
  {
    epoch: Epoch,
    pages: Type.Object({}, { additionalProperties: true }),
    deltas: Type.Optional(DeltaCounts),
    graph: GraphSize,
    timings: Type.Optional(
      Type.Record(Type.String(), Durations, {
        description: 'Duration of each stage of a write since start.',
      }),
    ),
    queue: Type.Optional(QueueSize),
    log: Type.Optional(
      Type.Union([LogStats, Type.Null()], {
        description:
          '`appendUs`: how long the newest appends took to become durable. null if there is no log.',
      }),
    ),
    subscriptions: Type.Optional(Type.Object({}, { additionalProperties: true })),
  },
  { additionalProperties: true },
)

export const Checkpoint = Type.Object(
  {
    epoch: Epoch,
    pages: Type.Integer(),
    bytes: Type.Integer({ description: 'Bytes of all pages.' }),
    newBytes: Type.Integer({
      description: 'Bytes written for this checkpoint; the rest is in files of older checkpoints.',
    }),
    ms: Type.Number(),
  },
  CLOSED,
)
export const CheckpointList = Type.Object({ checkpoints: Type.Array(Checkpoint) }, CLOSED)

export const Alive = Type.Object({ alive: Type.Boolean() }, CLOSED)
export const Started = Type.Object(
  {
    state: Type.Enum(['recovering', 'ready', 'stopping', 'failed']),
    percent: Type.Integer({ minimum: 0, maximum: 100 }),
  },
  CLOSED,
)
export const Ready = Type.Object({ ready: Type.Boolean(), epoch: Epoch, readOnly: Type.Boolean() }, CLOSED)
