/**
 * What `mmsb top` shows: rates from two samples of a server's counters, as a screen of lines, as one
 * line, or as JSON.
 *
 * Invariant: a counter that fell, because the server was restarted, gives no rate.
 *
 * Null because JSON has it where there is no rate or no lag.
 */
import type { Page, Stats, Status } from '../../../client/types.js'
import { columns, counted, sizeText, timeText } from '../../output.js'
import { durableLines, lateLines } from './stats.js'
import { formText } from './values.js'

export interface Sample {
  readonly atMs: number
  readonly status: Status
  readonly stats: Stats
}

export interface Shown {
  readonly url: string
  /** The sample before this one; undefined for the first. */
  readonly before: Sample | undefined
  readonly now: Sample
  /** The largest pages, largest first. */
  readonly pages: readonly Page[]
  /** Why there is no newer sample. */
  readonly trouble?: string | undefined
}

/** A line of the screen; the heads of tables are set off. */
export interface ScreenLine {
  readonly text: string
  readonly isHead?: boolean
}

interface Rates {
  readonly epochs: number | undefined
  readonly deltas: number | undefined
  readonly logBytes: number | undefined
  readonly delivered: number | undefined
  readonly stages: Readonly<Record<string, number | undefined>>
}

function ratesOf({ before, now }: Shown): Rates {
  const seconds = before === undefined ? 0 : (now.atMs - before.atMs) / 1000
  const isSame =
    before !== undefined &&
    before.status.history === now.status.history &&
    before.status.uptimeMs < now.status.uptimeMs
  const rate = (count: (stats: Stats) => number | undefined): number | undefined => {
    const last = isSame ? count(before.stats) : undefined
    const next = count(now.stats)
    if (last === undefined || next === undefined || seconds <= 0) return undefined
    return Math.max(0, next - last) / seconds
  }
  const stages = Object.keys(now.stats.timings ?? {}).map(
    (stage) => [stage, rate(({ timings }) => timings?.[stage]?.count)] as const,
  )
  return {
    epochs: rate(({ epoch }) => epoch),
    deltas: rate(({ deltas }) => deltas && deltas.dense + deltas.sparse + deltas.masked),
    logBytes: rate(({ log }) => log?.bytes),
    delivered: rate(({ subscriptions }) => subscriptions?.delivered),
    stages: Object.fromEntries(stages),
  }
}

const rateText = (rate: number | undefined): string => (rate === undefined ? '-' : rate.toFixed(1))

const bytesRateText = (rate: number | undefined): string => (rate === undefined ? '-' : `${sizeText(rate)}/s`)

const BAR_WIDTH = 20

function bar(part: number, whole: number): string {
  const share = whole > 0 ? Math.min(1, part / whole) : 0
  return `[${'|'.repeat(Math.ceil(share * BAR_WIDTH)).padEnd(BAR_WIDTH)}]`
}

/** The screen from top to bottom; `rows` lines of it fit. */
export function screenOf(shown: Shown, rows: number): ScreenLine[] {
  const lines = [
    ...headLines(shown),
    { text: '' },
    ...stageLines(shown),
    { text: '' },
    ...streamLines(shown, rows),
  ]
  const room = rows - lines.length - 2
  return room < 1 ? lines.slice(0, rows) : [...lines, { text: '' }, ...pageLines(shown.pages, room)]
}

function headLines(shown: Shown): ScreenLine[] {
  const { url, now, trouble } = shown
  const { status, stats } = now
  const rates = ratesOf(shown)
  const { bytes, quotaBytes, count, source, derived } = stats.pages
  const state = status.state === 'ready' ? '' : `  ${status.state}: ${status.reason ?? ''}`
  const texts = [
    `mmsb ${status.version}  ${url}  up ${timeText(status.uptimeMs)}  ${status.backend}  fsync ${status.fsync}${state}`,
    ...(trouble === undefined ? [] : [`no answer: ${trouble}`]),
    `epoch ${stats.epoch}  epochs/s ${rateText(rates.epochs)}  deltas/s ${rateText(rates.deltas)}  log ${bytesRateText(rates.logBytes)}`,
    `memory ${quotaBytes === undefined ? '' : `${bar(bytes, quotaBytes)} `}${sizeText(bytes)}${quotaBytes === undefined ? '' : ` of ${sizeText(quotaBytes)}`}  ${counted(count, 'page')}: ${source} source, ${derived} derived`,
  ]
  if (stats.queue !== undefined)
    texts.push(`queue ${counted(stats.queue.transactions, 'transaction')}, ${sizeText(stats.queue.bytes)}`)
  if (stats.log)
    texts.push(
      `log ${sizeText(stats.log.bytes)} in ${counted(stats.log.segments, 'segment')}${stats.log.failure === null ? '' : `, failed: ${stats.log.failure}`}`,
    )
  return texts.map((text, i) => (i === 0 ? { text, isHead: true } : { text }))
}

function stageLines(shown: Shown): ScreenLine[] {
  const { timings } = shown.now.stats
  if (timings === undefined) return []
  const { stages } = ratesOf(shown)
  const rows = Object.entries(timings).map(([stage, { p50, p99, max }]) => [
    stage,
    rateText(stages[stage]),
    ...[p50, p99, max].map((us) => timeText(us / 1000)),
  ])
  return table([['stage', '/s', 'p50', 'p99', 'max'], ...rows], [1, 2, 3, 4])
}

function streamLines(shown: Shown, rows: number): ScreenLine[] {
  const { subscriptions } = shown.now.stats
  if (subscriptions === undefined) return []
  const { connections, subscriptions: count, conflated, overflows, durable, late = [] } = subscriptions
  const { delivered } = ratesOf(shown)
  const text = `stream ${counted(connections, 'connection')}, ${counted(count, 'subscription')}  messages/s ${rateText(delivered)}  folded ${conflated}  ${counted(overflows, 'overflow')}`
  const lists = [durable.length > 0 ? durableLines(durable) : [], late.length > 0 ? lateLines(late) : []]
  // A quarter of the screen for each, so that pages are seen too.
  const most = Math.max(2, Math.floor(rows / 4))
  return [{ text }, ...lists.flatMap((lines) => heads(shortened(lines, most)))]
}

/** The first lines, and how many more there are. */
const shortened = (lines: readonly string[], most: number): readonly string[] =>
  lines.length <= most ? lines : [...lines.slice(0, most), `... ${lines.length - most} more`]

function pageLines(pages: readonly Page[], room: number): ScreenLine[] {
  if (pages.length === 0) return []
  const rows = pages
    .slice(0, room - 1)
    .map(({ name, kind, dtype, shape, bytes, location, version }) => [
      name,
      kind,
      formText(dtype, shape),
      location,
      sizeText(bytes),
      String(version),
    ])
  return table([['largest page', 'kind', 'form', 'where', 'size', 'changed in'], ...rows], [4, 5])
}

const table = (rows: readonly (readonly string[])[], right: readonly number[]): ScreenLine[] =>
  heads(columns(rows, right))

const heads = (lines: readonly string[]): ScreenLine[] =>
  lines.map((text, i) => (i === 0 ? { text, isHead: true } : { text }))

/** One line, for logs and pipes. */
export function lineOf(shown: Shown): string {
  const { status, stats } = shown.now
  const { epochs, deltas, logBytes, delivered } = ratesOf(shown)
  const parts = [
    status.state,
    `epoch ${stats.epoch}`,
    `epochs/s ${rateText(epochs)}`,
    `deltas/s ${rateText(deltas)}`,
    `log ${bytesRateText(logBytes)}`,
    `memory ${sizeText(stats.pages.bytes)}`,
  ]
  if (stats.timings?.commit !== undefined)
    parts.push(`commit p99 ${timeText(stats.timings.commit.p99 / 1000)}`)
  if (stats.queue !== undefined) parts.push(`queue ${stats.queue.transactions}`)
  if (stats.subscriptions !== undefined) {
    parts.push(`subscriptions ${stats.subscriptions.subscriptions}`, `messages/s ${rateText(delivered)}`)
    const { durable, late = [] } = stats.subscriptions
    const lags = [...durable, ...late].map(({ lag }) => lag ?? 0)
    if (lags.length > 0) parts.push(`lag ${Math.max(...lags)}`)
  }
  return parts.join('  ')
}

/** The rates, and the answers of the server that they are of. */
export function jsonOf(shown: Shown): object {
  const { status, stats } = shown.now
  const { epochs, deltas, logBytes, delivered, stages } = ratesOf(shown)
  const perSecond = {
    epochs: epochs ?? null,
    deltas: deltas ?? null,
    logBytes: logBytes ?? null,
    messages: delivered ?? null,
    stages: Object.fromEntries(Object.entries(stages).map(([stage, rate]) => [stage, rate ?? null])),
  }
  const largest = shown.pages.slice(0, JSON_PAGES).map(({ name, bytes }) => ({ name, bytes }))
  return { at: new Date(shown.now.atMs).toISOString(), perSecond, status, stats, largest }
}

const JSON_PAGES = 10
