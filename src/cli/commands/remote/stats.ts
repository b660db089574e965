/**
 * `mmsb stats`: counts, sizes and timings of a running server since its start. What the token may not see is
 * left out.
 */
import type { Stats } from '../../../client/types.js'
import { type CommandHelp, flagsOrHelp, HELP_FLAG, JSON_FLAG } from '../../flags.js'
import { columns, counted, print, printJson, sizeText, timeText } from '../../output.js'
import { SERVER_FLAGS, withServer } from '../../remote.js'

export const HELP: CommandHelp = {
  usage: 'mmsb stats [OPTIONS]',
  flags: { ...SERVER_FLAGS, json: JSON_FLAG, help: HELP_FLAG },
  examples: [
    ['mmsb stats', 'the server on this machine'],
    ['mmsb stats --json | jq .timings.commit.p99', 'microseconds of a slow commit'],
  ],
}

export async function stats(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  await withServer(flags, async ({ client }) => {
    const now = await client.stats()
    if (flags.switches.has('json')) printJson(now)
    else for (const line of statsLines(now)) print(line)
  })
}

/** Tables, with an empty line between two of them. */
export function statsLines(now: Stats): string[] {
  const { timings, subscriptions } = now
  return [
    ...columns(countRows(now)),
    ...(timings === undefined ? [] : ['', ...stageLines(timings)]),
    ...(subscriptions === undefined || subscriptions.durable.length === 0
      ? []
      : ['', ...durableLines(subscriptions.durable)]),
    ...(subscriptions?.late === undefined || subscriptions.late.length === 0
      ? []
      : ['', ...lateLines(subscriptions.late)]),
  ]
}

function countRows({ epoch, pages, graph, deltas, queue, log, subscriptions }: Stats): string[][] {
  const rows = [
    ['epoch', String(epoch)],
    ['pages', `${pages.count}: ${pages.source} source, ${pages.derived} derived`],
  ]
  const quota = pages.quotaBytes === undefined ? '' : ` of ${sizeText(pages.quotaBytes)}`
  rows.push(['memory', `${sizeText(pages.bytes)}${quota}`])
  for (const [location, { count, bytes }] of Object.entries(pages.byLocation ?? {}))
    if (count > 0) rows.push([`  ${location}`, `${counted(count, 'page')}, ${sizeText(bytes)}`])
  const depth = graph.depth === undefined ? '' : `, depth ${graph.depth}`
  rows.push(['graph', `${counted(graph.nodes, 'node')}, ${counted(graph.edges, 'edge')}${depth}`])
  if (deltas !== undefined)
    rows.push(['deltas', `${deltas.dense} dense, ${deltas.sparse} sparse, ${deltas.masked} masked`])
  if (queue !== undefined)
    rows.push(['queue', `${counted(queue.transactions, 'transaction')}, ${sizeText(queue.bytes)}`])
  if (log !== undefined && log !== null) {
    rows.push([
      'log',
      `${sizeText(log.bytes)} in ${counted(log.segments, 'segment')}, epochs from ${log.minEpoch}`,
    ])
    if (log.failure !== null) rows.push(['log failed', log.failure])
  }
  if (subscriptions !== undefined) {
    const { connections, subscriptions: count, delivered, conflated, overflows } = subscriptions
    rows.push(['stream', `${counted(connections, 'connection')}, ${counted(count, 'subscription')}`])
    rows.push([
      '  messages',
      `${delivered} delivered, ${conflated} folded, ${counted(overflows, 'overflow')}`,
    ])
  }
  return rows
}

/** One line for each stage of a write. */
export function stageLines(timings: NonNullable<Stats['timings']>): string[] {
  const rows = Object.entries(timings).map(([stage, { count, p50, p99, max }]) => [
    stage,
    String(count),
    ...[p50, p99, max].map((us) => timeText(us / 1000)),
  ])
  return columns([['stage', 'count', 'p50', 'p99', 'max'], ...rows], [1, 2, 3, 4])
}

/** One line for each durable subscription; the ones farthest behind come first. */
export function durableLines(durable: NonNullable<Stats['subscriptions']>['durable']): string[] {
  const rows = [...durable]
    .sort((a, b) => (b.lag ?? 0) - (a.lag ?? 0))
    .map(({ name, epoch, lag, connected, held }) => [
      name,
      epoch === null ? 'none' : String(epoch),
      lag === null ? '' : String(lag),
      connected ? 'connected' : 'away',
      held ? '' : 'history not kept',
    ])
  return columns([['durable reader', 'epoch', 'lag', '', ''], ...rows], [1, 2])
}

type Late = NonNullable<NonNullable<Stats['subscriptions']>['late']>

/** One line for each subscription that is behind, as the server orders them. */
export function lateLines(late: Late): string[] {
  const rows = late.map(({ id, pages, lag, queuedBytes }) => [
    pages.join(','),
    id,
    String(lag),
    sizeText(queuedBytes),
  ])
  return columns([['late subscription', 'id', 'lag', 'queued'], ...rows], [2, 3])
}
