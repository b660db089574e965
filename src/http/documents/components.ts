/**
 * The names that schemas have in the OpenAPI document, so that a generated client has named types.
 *
 * Invariants: every object with fields has a name, and stands in the document once, below this name; a name
 * stays what it is from release to release, since clients' programs use it. The schemas that check requests
 * know nothing of this: a schema of the document is replaced by a reference if it equals a named one.
 */

import { withNulls } from '../request/optional-nulls.js'
import * as common from '../schemas/common.js'
import * as data from '../schemas/data.js'
import * as functions from '../schemas/functions.js'
import * as pages from '../schemas/pages.js'
import * as state from '../schemas/state.js'
import * as stream from '../schemas/stream.js'
import * as time from '../schemas/time.js'
import type { TSchema } from '../typebox.js'

/** In answers; and in requests where they have no optional field. */
const ANSWERS: Readonly<Record<string, TSchema>> = {
  Problem: common.Problem,
  ErrorCode: common.CodeOfError,
  Dtype: common.DtypeName,
  Location: common.LocationName,
  PlacedLocation: common.PlacedLocation,
  Merge: common.MergeName,
  PageKind: common.PageKindName,
  Value: common.Value,
  Page: pages.Page,
  PageList: pages.PageList,
  CreatedPages: pages.PagesAnswer,
  Derivation: pages.Derive,
  DerivationInput: pages.DeriveInput,
  EpochAnswer: pages.EpochAnswer,
  PageData: data.DataAnswer,
  PageRead: data.PageRead,
  ReadAnswer: data.ReadAnswer,
  WriteAnswer: data.WriteAnswer,
  TransactionAnswer: data.TransactionAnswer,
  Expectation: data.Expectation,
  FunctionDefinition: functions.FunctionBody,
  FunctionAnswer: functions.FunctionAnswer,
  FunctionView: functions.FunctionView,
  FunctionList: functions.FunctionList,
  Graph: state.GraphAnswer,
  GraphNode: state.GraphNode,
  GraphEdge: state.GraphEdge,
  Status: state.StatusAnswer,
  DeviceLoss: state.DeviceLoss,
  Stats: state.StatsAnswer,
  Durations: state.Durations,
  DeltaCounts: state.DeltaCounts,
  GraphSize: state.GraphSize,
  QueueSize: state.QueueSize,
  LogStats: state.LogStats,
  Checkpoint: state.Checkpoint,
  CheckpointList: state.CheckpointList,
  Liveness: state.Alive,
  Startup: state.Started,
  Readiness: state.Ready,
  EpochEntry: time.EpochEntry,
  EpochList: time.EpochsAnswer,
  LoggedTransaction: time.LoggedTransaction,
  LoggedDelta: time.DeltaOp,
  LoggedCreation: time.CreateOp,
  LoggedDeletion: time.DeleteOp,
  LoggedFunction: time.DefineOp,
  LoggedFunctionDeletion: time.UndefineOp,
  PageVersion: time.PageVersion,
  PageHistory: time.HistoryAnswer,
  PageDiff: time.PageDiff,
  Diff: time.DiffAnswer,
  Divergence: time.Divergence,
  Verification: time.VerifyAnswer,
  Subscription: stream.DurableSubscription,
  SubscriptionList: stream.DurableList,
  DeletedSubscription: stream.DurableGone,
  Ticket: stream.Ticket,
}

/** In requests, where an optional field may also be null. */
const BODIES: Readonly<Record<string, TSchema>> = {
  SourceDefinition: pages.SourceBody,
  DerivedDefinition: pages.DerivedBody,
  PageDefinition: pages.PageBody,
  NamedSourceDefinition: pages.NamedSource,
  NamedDerivedDefinition: pages.NamedDerived,
  NamedDefinition: pages.NamedBody,
  NamedDefinitions: pages.PagesBody,
  Delta: data.DeltaBody,
  PageDelta: data.PageDelta,
  WholePage: data.WholePageBody,
  Transaction: data.TransactionBody,
  WhatIf: time.WhatIfBody,
  VerifyRange: time.VerifyBody,
}

interface Document {
  readonly components?: { readonly schemas?: object }
}

/** All of them, each in full. */
export const COMPONENTS: Readonly<Record<string, object>> = {
  ...ANSWERS,
  ...Object.fromEntries(Object.entries(BODIES).map(([name, schema]) => [name, withNulls(schema)])),
}

/**
 * The document with a reference wherever a schema equals one of its components. The components of the
 * document must be those above, as the document's maker wrote them.
 */
export function withReferences<T extends Document>(document: T): T {
  const schemas = Object.entries(document.components?.schemas ?? {})
  const names = new Map(schemas.map(([name, schema]) => [JSON.stringify(schema), name]))
  const replaced = (part: unknown): unknown => {
    if (Array.isArray(part)) return part.map(replaced)
    if (typeof part !== 'object' || part === null) return part
    const name = names.get(JSON.stringify(part))
    return name === undefined ? inside(part) : { $ref: `#/components/schemas/${name}` }
  }
  const inside = (part: object): object =>
    Object.fromEntries(Object.entries(part).map(([key, value]) => [key, replaced(value)]))
  const components = schemas.map(([name, schema]) => [name, inside(schema as object)])
  return {
    ...(replaced({ ...document, components: {} }) as T),
    components: { ...document.components, schemas: Object.fromEntries(components) },
  }
}
