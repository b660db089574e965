/**
 * Prometheus metrics, read from bus and stream at the moment of the scrape. They keep no counts of their own
 * and cost nothing between scrapes. Each app has its own registry.
 */
import { Counter, collectDefaultMetrics, Gauge, type Metric as PromMetric, Registry } from 'prom-client'
import type { Auditor } from '../audit/auditor.js'
import type { PrincipalUsages } from '../auth/limits/usages.js'
import type { EngineBus } from '../engine/bus.js'
import { STAGE_BOUNDS_SECONDS } from '../engine/stage-timings.js'
import type { BusStats } from '../engine/types.js'
import { LIMIT_NAMES, type LimitGuard, OPERATOR_LIMITS } from '../operator-limits.js'
import type { HubStats } from '../stream/hub.js'
import type { AppContext } from './context.js'
import type { Health } from './health.js'

type Sample = readonly [labels: Record<string, string>, value: number]

interface Metric {
  readonly name: string
  readonly help: string
  readonly labels?: readonly string[]
  /** Counters only ever grow; the rest are gauges. */
  readonly isCounter?: boolean
  readonly read: (stats: BusStats, stream: HubStats) => readonly Sample[]
}

const one = (value: number): readonly Sample[] => [[{}, value]]

const METRICS: readonly Metric[] = [
  { name: 'mmsb_epoch', help: 'Newest published epoch', read: (s) => one(s.epoch) },
  {
    name: 'mmsb_pages',
    help: 'Pages by kind',
    labels: ['kind'],
    read: (s) => [
      [{ kind: 'source' }, s.pages.source],
      [{ kind: 'derived' }, s.pages.derived],
    ],
  },
  {
    name: 'mmsb_page_bytes',
    help: 'Bytes of pages by location',
    labels: ['location'],
    read: (s) => Object.entries(s.pages.byLocation).map(([location, { bytes }]) => [{ location }, bytes]),
  },
  {
    name: 'mmsb_page_quota_bytes',
    help: 'Maximum bytes of all pages together',
    read: (s) => one(s.pages.quotaBytes),
  },
  {
    name: 'mmsb_deltas_total',
    help: 'Deltas committed since start',
    labels: ['kind'],
    isCounter: true,
    read: (s) => Object.entries(s.deltas).map(([kind, count]) => [{ kind }, count]),
  },
  { name: 'mmsb_graph_edges', help: 'Edges of the dependency graph', read: (s) => one(s.graph.edges) },
  { name: 'mmsb_graph_depth', help: 'Levels of the dependency graph', read: (s) => one(s.graph.depth) },
  {
    name: 'mmsb_queue_transactions',
    help: 'Transactions waiting for an epoch',
    read: (s) => one(s.queue.transactions),
  },
  { name: 'mmsb_queue_bytes', help: 'Bytes of the waiting transactions', read: (s) => one(s.queue.bytes) },
  {
    name: 'mmsb_stage_total',
    help: 'How often each stage ran since start',
    labels: ['stage'],
    isCounter: true,
    read: (s) => Object.entries(s.timings).map(([stage, { count }]) => [{ stage }, count]),
  },
  { name: 'mmsb_log_bytes', help: 'Bytes of the log', read: (s) => (s.log === null ? [] : one(s.log.bytes)) },
  {
    name: 'mmsb_log_segments',
    help: 'Segments of the log',
    read: (s) => (s.log === null ? [] : one(s.log.segments)),
  },
  {
    name: 'mmsb_stream_connections',
    help: 'Open connections of the stream',
    read: (_s, h) => one(h.connections),
  },
  { name: 'mmsb_stream_subscriptions', help: 'Live subscriptions', read: (_s, h) => one(h.subscriptions) },
  {
    name: 'mmsb_stream_delivered_total',
    help: 'Change messages handed to readers',
    isCounter: true,
    read: (_s, h) => one(h.delivered),
  },
  {
    name: 'mmsb_stream_conflated_total',
    help: 'Epochs folded into a later message',
    isCounter: true,
    read: (_s, h) => one(h.conflated),
  },
  {
    name: 'mmsb_stream_overflows_total',
    help: 'Lossless subscriptions ended because the reader was too slow',
    isCounter: true,
    read: (_s, h) => one(h.overflows),
  },
  {
    name: 'mmsb_stream_recent_bytes',
    help: 'Bytes of the epochs kept in memory for readers that resume',
    read: (_s, h) => one(h.recentBytes),
  },
  {
    name: 'mmsb_durable_lag_epochs',
    help: 'Epochs since the cursor of a named durable subscription',
    labels: ['name'],
    read: (_s, h) => h.durable.flatMap(({ name, lag }) => (lag === null ? [] : [[{ name }, lag] as const])),
  },
  {
    name: 'mmsb_durable_connected',
    help: '1 while a reader of the durable subscription is connected',
    labels: ['name'],
    read: (_s, h) => h.durable.map(({ name, connected }) => [{ name }, connected ? 1 : 0] as const),
  },
]

/** Gauges of prom-client with names that Prometheus keeps for counters. Others give the same by type. */
const MISNAMED = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
]

/** A registry with the metrics of the process. */
function createRegistry(): Registry {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  for (const name of MISNAMED) registry.removeSingleMetric(name)
  return registry
}

/** The registry of a server that still recovers. */
export function createStartingMetrics(health: () => Health): Registry {
  const registry = createRegistry()
  const registers = [registry]
  new Gauge({ name: 'mmsb_up', help: '1 while the bus accepts writes and reads', registers })
  const progress = new Gauge({
    name: 'mmsb_recovery_ratio',
    help: 'How far recovery has come, from 0 to 1',
    registers,
    collect() {
      progress.set(health().percent / 100)
    },
  })
  return registry
}

/** The registry of an app. */
export function createMetrics({ bus, hub, auditor, usages }: AppContext): Registry {
  const registry = createRegistry()
  const up = new Gauge({
    name: 'mmsb_up',
    help: '1 while the bus accepts writes and reads',
    registers: [registry],
    collect() {
      up.set(bus.failure === null ? 1 : 0)
    },
  })
  // prom-client collects the metrics one by one. Within one turn of the event loop they share one reading.
  let reading: { readonly stats: BusStats; readonly stream: HubStats } | undefined
  const readOnce = (): typeof reading => {
    if (bus.failure !== null) return undefined
    if (reading === undefined) {
      reading = { stats: bus.stats(), stream: hub.stats() }
      setImmediate(() => {
        reading = undefined
      })
    }
    return reading
  }
  for (const metric of METRICS) register(registry, metric, readOnce)
  registerStages(registry, bus)
  registerLimits(registry, bus.limits)
  if (auditor !== undefined) registerAudit(registry, auditor)
  if (usages !== undefined) registerPrincipalLimits(registry, usages)
  return registry
}

/**
 * The stages of a commit as a histogram. That of prom-client counts by itself; this one shows what the engine
 * has counted.
 */
function registerStages(registry: Registry, bus: EngineBus): void {
  const name = 'mmsb_stage_seconds'
  const help = 'Duration of the stages of a commit since start'
  const valuesOf = (): object[] =>
    Object.entries(bus.stageHistograms()).flatMap(([stage, { counts, count, sumSeconds }]) => [
      ...STAGE_BOUNDS_SECONDS.map((bound, at) => ({
        metricName: `${name}_bucket`,
        labels: { stage, le: String(bound) },
        value: counts[at],
      })),
      { metricName: `${name}_bucket`, labels: { stage, le: '+Inf' }, value: count },
      { metricName: `${name}_sum`, labels: { stage }, value: sumSeconds },
      { metricName: `${name}_count`, labels: { stage }, value: count },
    ])
  const get = async (): Promise<object> => ({ name, help, type: 'histogram', values: valuesOf() })
  // A registry asks a metric for its name and for get() alone.
  registry.registerMetric({ name, get } as unknown as PromMetric)
}

/** The operator's limits, and what they refused. */
function registerLimits(registry: Registry, limits: LimitGuard): void {
  const registers = [registry]
  const values = new Gauge({
    name: 'mmsb_limit',
    help: 'Limits that the operator set, in counts, bytes or seconds',
    labelNames: ['limit'],
    registers,
  })
  for (const name of LIMIT_NAMES) {
    const { flag, unit } = OPERATOR_LIMITS[name]
    values.set({ limit: flag }, unit === 'ms' ? limits.values[name] / 1e3 : limits.values[name])
  }
  const used = new Gauge({
    name: 'mmsb_limit_used',
    help: 'How much of a limit is used now, in counts or bytes',
    labelNames: ['limit'],
    registers,
    collect() {
      for (const [name, value] of limits.uses()) used.set({ limit: OPERATOR_LIMITS[name].flag }, value)
    },
  })
  const refused = new Counter({
    name: 'mmsb_limit_refusals_total',
    help: 'Requests, connections and stored objects refused for a limit since start',
    labelNames: ['limit'],
    registers,
    collect() {
      refused.reset()
      for (const [name, count] of limits.refusals()) {
        refused.inc({ limit: OPERATOR_LIMITS[name].flag }, count)
      }
    },
  })
}

/** Counts of the audit trail, for all callers together. */
function registerAudit(registry: Registry, auditor: Auditor): void {
  const counters = [
    ['mmsb_audit_lines_total', 'Lines written to the audit trail since start', 'lines'],
    ['mmsb_audit_lost_total', 'Entries that could not be written to the audit trail since start', 'lost'],
    ['mmsb_refused_logins_total', 'Requests whose credentials were refused since start', 'refusedLogins'],
  ] as const
  for (const [name, help, count] of counters) {
    const counter = new Counter({
      ...{ name, help, registers: [registry] },
      collect() {
        counter.reset()
        counter.inc(auditor.counts[count])
      },
    })
  }
}

/** How often principals reach their limits, all of them together. */
function registerPrincipalLimits(registry: Registry, usages: PrincipalUsages): void {
  const refused = new Counter({
    name: 'mmsb_principal_limit_refusals_total',
    help: 'Requests, connections and pages refused for a limit of a principal since start',
    labelNames: ['limit'],
    registers: [registry],
    collect() {
      refused.reset()
      for (const [limit, count] of usages.refusals()) refused.inc({ limit }, count)
    },
  })
}

function register(
  registry: Registry,
  { name, help, labels = [], isCounter = false, read }: Metric,
  readOnce: () => { readonly stats: BusStats; readonly stream: HubStats } | undefined,
): void {
  const options = { name, help, labelNames: [...labels], registers: [registry] }
  const samples = (): readonly Sample[] => {
    const now = readOnce()
    return now === undefined ? [] : read(now.stats, now.stream)
  }
  if (isCounter) {
    const counter = new Counter({
      ...options,
      collect() {
        counter.reset()
        for (const [labelValues, value] of samples()) counter.inc(labelValues, value)
      },
    })
    return
  }
  const gauge = new Gauge({
    ...options,
    collect() {
      gauge.reset()
      for (const [labelValues, value] of samples()) gauge.set(labelValues, value)
    },
  })
}
