/**
 * `mmsb top`: how busy a server is, again and again: on a screen in a terminal, elsewhere one line each time.
 * A server that goes away is waited for. Ctrl-C or q ends it, with exit code 0.
 *
 * Null because the JSON of the server's lists has it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../../../client/client.js'
import { MmsbError } from '../../../client/node.js'
import type { Page } from '../../../client/types.js'
import { type CommandHelp, durationOf, flagsOrHelp, HELP_FLAG, UsageError } from '../../flags.js'
import { print, printJson, reader, report } from '../../output.js'
import { explained, SERVER_FLAGS, type Server, withServer } from '../../remote.js'
import { Screen } from './screen.js'
import { jsonOf, lineOf, type Sample, type Shown, screenOf } from './top-view.js'

export const HELP: CommandHelp = {
  usage: 'mmsb top [OPTIONS]',
  flags: {
    interval: { value: 'TIME', help: 'time between two samples, at least 100ms', standard: '1s' },
    once: { help: 'print everything once, without a screen' },
    json: { help: 'print JSON, one line per sample' },
    ...SERVER_FLAGS,
    help: HELP_FLAG,
  },
  examples: [
    ['mmsb top', 'a screen that renews itself; q ends it'],
    ['mmsb top --interval 10s | tee bus.log', 'a line every ten seconds'],
    ['mmsb top --once --json | jq .perSecond.epochs', 'a number for a script'],
  ],
}

const INTERVAL_MS = 1_000
const INTERVAL_LEAST_MS = 100
/** The list of pages is long, and changes seldom. */
const PAGES_EVERY_MS = 10_000
const PAGES_PART = 1_000
/** Of more pages, the largest of these are shown. */
const PAGES_PARTS_MAX = 20
const PAGES_KEPT = 100
/** Rows of the view that `--once` prints. */
const ONCE_ROWS = 60

export async function top(args: readonly string[]): Promise<void> {
  const flags = flagsOrHelp(args, HELP)
  if (flags === undefined) return
  const given = flags.values.get('interval')
  const intervalMs = given === undefined ? INTERVAL_MS : durationOf(given)
  if (intervalMs < INTERVAL_LEAST_MS)
    throw new UsageError(`--interval: must be at least ${INTERVAL_LEAST_MS}ms`)
  const isJson = flags.switches.has('json')
  const isOnce = flags.switches.has('once')
  await withServer(flags, async (server) => {
    const sampler = new Sampler(server)
    if (isOnce) await once(sampler, intervalMs, isJson)
    else if (isJson || !process.stdout.isTTY) await inLines(sampler, intervalMs, isJson)
    else await onScreen(sampler, intervalMs)
  })
}

/** Takes samples of a server. */
class Sampler {
  readonly #client: Client
  readonly #url: string
  #before: Sample | undefined
  #now: Sample | undefined
  #pages: readonly Page[] = []
  #pagesAtMs = Number.NEGATIVE_INFINITY

  constructor({ client, url }: Server) {
    this.#client = client
    this.#url = url
  }

  /**
   * Another sample; while the server is away, the last one with the reason. @throws MmsbError when the server
   * refuses, or has never answered
   */
  async next(): Promise<Shown> {
    try {
      const [status, stats] = await Promise.all([this.#client.status(), this.#client.stats()])
      const atMs = Date.now()
      if (atMs - this.#pagesAtMs >= PAGES_EVERY_MS) {
        this.#pages = await largestPages(this.#client)
        this.#pagesAtMs = atMs
      }
      this.#before = this.#now
      this.#now = { atMs, status, stats }
      return { url: this.#url, before: this.#before, now: this.#now, pages: this.#pages }
    } catch (error) {
      const isAway = error instanceof MmsbError && (error.status === 0 || error.status >= 500)
      if (!isAway || this.#now === undefined) throw error
      const trouble = explained(error, this.#url).message
      return { url: this.#url, before: this.#before, now: this.#now, pages: this.#pages, trouble }
    }
  }
}

async function largestPages(client: Client): Promise<readonly Page[]> {
  let largest: Page[] = []
  let cursor: string | null = ''
  for (let part = 0; part < PAGES_PARTS_MAX && cursor !== null; part++) {
    const after: { cursor?: string } = cursor === '' ? {} : { cursor }
    const { pages, next } = await client.pages({ limit: PAGES_PART, ...after })
    largest = [...largest, ...pages].sort((a, b) => b.bytes - a.bytes).slice(0, PAGES_KEPT)
    cursor = next
  }
  return largest
}

async function once(sampler: Sampler, intervalMs: number, isJson: boolean): Promise<void> {
  await sampler.next()
  await sleep(intervalMs)
  const shown = await sampler.next()
  if (isJson) printJson(jsonOf(shown))
  else for (const { text } of screenOf(shown, ONCE_ROWS)) print(text)
}

async function inLines(sampler: Sampler, intervalMs: number, isJson: boolean): Promise<void> {
  let isAway = false
  for (let shown = await sampler.next(); !reader.isGone; shown = await sampler.next()) {
    const { trouble, before } = shown
    if (trouble !== undefined && !isAway) report(`${trouble}; trying again`)
    isAway = trouble !== undefined
    // The first has no rates yet.
    if (trouble === undefined && before !== undefined) {
      if (isJson) printJson(jsonOf(shown))
      else print(lineOf(shown))
    }
    await sleep(intervalMs)
  }
}

async function onScreen(sampler: Sampler, intervalMs: number): Promise<void> {
  const ended = new AbortController()
  let shown = await sampler.next()
  const screen = new Screen(
    (rows) => screenOf(shown, rows),
    () => ended.abort(),
  )
  reader.onGone = () => ended.abort()
  const wantsToEnd = new Promise<undefined>((resolve) => {
    ended.signal.addEventListener('abort', () => resolve(undefined), { once: true })
  })
  screen.open()
  try {
    while (!ended.signal.aborted) {
      await sleep(intervalMs, undefined, { signal: ended.signal }).catch(() => {})
      if (ended.signal.aborted) return
      // A server that does not answer must not keep the user here.
      const next = await Promise.race([sampler.next(), wantsToEnd])
      if (next === undefined) return
      shown = next
      screen.draw()
    }
  } finally {
    screen.close()
  }
}
