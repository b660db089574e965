/**
 * `mmsb watch`: prints each change of pages, one line for each page that an epoch changed. A lost connection
 * is reported, and the next line is the next change: none is missed and none comes twice.
 */
import type { Change, ChangedPage, SubscribeOptions } from '../../../client/types.js'
import { valuesToJsonText } from '../../../state/value.js'
import { DATA_MODES, POLICIES } from '../../../wire/messages.js'
import {
  type CommandHelp,
  choiceOf,
  type Given,
  HELP_FLAG,
  integerOf,
  lineOrHelp,
  type ParsedFlags,
  UsageError,
} from '../../flags.js'
import { print, printJsonText, reader, report } from '../../output.js'
import { SERVER_FLAGS, type Server, withServer } from '../../remote.js'
import { formText, valuesText } from './values.js'

export const HELP: CommandHelp = {
  usage: 'mmsb watch PATTERN... [OPTIONS]',
  flags: {
    from: {
      value: 'START',
      help: 'now; snapshot: whole pages first; or the last epoch already seen',
      standard: 'now',
      choices: ['now', 'snapshot'],
    },
    data: {
      value: 'WHAT',
      help: 'none: names; ranges: what changed; values: the elements too',
      standard: 'values',
      choices: DATA_MODES,
    },
    policy: {
      value: 'HOW',
      help: 'lossless: every epoch; latest: epochs may be folded together for a slow reader',
      standard: 'lossless',
      choices: POLICIES,
    },
    limit: { value: 'N', help: 'end after so many lines' },
    json: { help: 'print JSON, one line per epoch' },
    ...SERVER_FLAGS,
    help: HELP_FLAG,
  },
  examples: [
    ["mmsb watch 'risk.*'", 'the changes of these pages, from now on'],
    ['mmsb watch prices --from snapshot', 'the page first'],
    ['mmsb watch prices --from 100 --json', 'every epoch after 100, for a program'],
    ["mmsb watch '*' --data none | head -1", 'wait for any change'],
  ],
}

/** How often the connection is looked at, to report that it was lost or is back. */
const LOOK_MS = 250
/** Values and ranges of one page that a line shows. */
const SHOWN_MAX = 64

export async function watch(args: readonly string[]): Promise<void> {
  const line = lineOrHelp(args, HELP)
  if (line === undefined) return
  if (line.operands.length === 0) throw new UsageError("PATTERN is missing; '*' is every page")
  const options = optionsOf(line, line.operands)
  const given = line.values.get('limit')
  const limit = given === undefined ? Number.POSITIVE_INFINITY : integerOf(given, 1, Number.MAX_SAFE_INTEGER)
  await withServer(line, (server) => follow(server, options, limit, line.switches.has('json')))
}

function optionsOf({ values }: ParsedFlags, pages: readonly string[]): SubscribeOptions {
  const from = values.get('from')
  const data = values.get('data')
  const policy = values.get('policy')
  return {
    pages,
    ...(from === undefined ? {} : { from: startOf(from) }),
    ...(data === undefined ? {} : { data: choiceOf(data, DATA_MODES) }),
    ...(policy === undefined ? {} : { policy: choiceOf(policy, POLICIES) }),
  }
}

function startOf(from: Given): 'now' | 'snapshot' | number {
  if (from.text === 'now' || from.text === 'snapshot') return from.text
  if (/^\d+$/.test(from.text)) return integerOf(from, 0, Number.MAX_SAFE_INTEGER)
  throw new UsageError(`${from.from}: ${JSON.stringify(from.text)} is not now, snapshot or an epoch`)
}

async function follow(
  { client, url }: Server,
  options: SubscribeOptions,
  limit: number,
  isJson: boolean,
): Promise<void> {
  // A subscription looks for its server for as long as it takes; one that was never there is an error.
  await client.status()
  const subscription = client.subscribe(options)
  reader.onGone = () => subscription.close()
  let wasConnected = false
  let isLost = false
  const look = setInterval(() => {
    const { isConnected } = subscription
    if (wasConnected && !isConnected && !isLost) report(`the connection to ${url} was lost; trying again`)
    if (isLost && isConnected) report('connected again')
    isLost = wasConnected && !isConnected
    wasConnected ||= isConnected
  }, LOOK_MS)
  let printed = 0
  try {
    for await (const change of subscription) {
      for (const text of isJson ? [jsonOf(change)] : linesOf(change)) {
        if (isJson) printJsonText(text)
        else print(text)
        if (++printed >= limit || reader.isGone) return
      }
    }
  } finally {
    clearInterval(look)
    subscription.close()
  }
}

function linesOf({ type, epoch, first, changes }: Change): string[] {
  const epochs = first < epoch ? `epochs ${first} to ${epoch}` : `epoch ${epoch}`
  return changes.map(
    (page) => `${epochs}  ${page.page}  ${type === 'snapshot' ? snapshotText(page) : changeText(page)}`,
  )
}

const snapshotText = ({ dtype, shape, values }: ChangedPage): string =>
  `snapshot ${formText(dtype, shape)}${values === undefined ? '' : ` = ${shown(dtype, values)}`}`

function changeText({ kind, dtype, shape, ranges, values }: ChangedPage): string {
  if (kind === 'deleted') return 'deleted'
  const created = kind === 'created' ? [`created ${formText(dtype, shape)}`] : []
  let at = 0
  const parts = ranges.slice(0, SHOWN_MAX).map(([offset, count]) => {
    const place = count === 1 ? `[${offset}]` : `[${offset}:${offset + count}]`
    if (values === undefined) return place
    const part = values.subarray(at, at + count)
    at += count
    return `${place} = ${shown(dtype, part)}`
  })
  if (ranges.length > SHOWN_MAX) parts.push(`... ${ranges.length - SHOWN_MAX} more ranges`)
  const all = [...created, ...parts]
  return all.length === 0 ? 'changed' : all.join('  ')
}

/** The first elements. */
function shown(dtype: ChangedPage['dtype'], values: NonNullable<ChangedPage['values']>): string {
  const rest = values.length - SHOWN_MAX
  return `${valuesText(dtype, values.subarray(0, SHOWN_MAX))}${rest > 0 ? ` ... ${rest} more` : ''}`
}

/** In the form of the stream, with dtype and shape of every page. */
function jsonOf({ type, epoch, first, changes }: Change): string {
  const list = changes.map(({ page, kind, dtype, shape, ranges, values }) => {
    const head = JSON.stringify({ page, kind, dtype, shape, ranges })
    return values === undefined ? head : `${head.slice(0, -1)},"values":${valuesToJsonText(dtype, values)}}`
  })
  return `{"type":"${type}","epoch":${epoch},"first":${first},"changes":[${list.join()}]}`
}
