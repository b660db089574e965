/**
 * The options of a subscription, checked the same way for network clients and for programs that hold the bus.
 */
import { type Check, type Checks, checkFields, isOneOf, isWhole } from '../engine/arguments.js'
import { MmsbError } from '../errors.js'
import { STREAM_RATE_MAX_HZ } from '../limits.js'
import { DATA_MODES, POLICIES, STARTS } from '../wire/messages.js'
import { NAME_PATTERN } from '../wire/page.js'
import type { SubscribeOptions } from './types.js'

const NAME = new RegExp(NAME_PATTERN)

const isNames: Check = (value) =>
  Array.isArray(value) && value.every((name) => typeof name === 'string')
    ? undefined
    : 'is not a list of names and patterns'

const isStart: Check = (value) =>
  typeof value === 'number'
    ? isWhole(0)(value, '')
    : isOneOf(STARTS)(value, '') && `is neither one of ${STARTS.join(', ')} nor an epoch`

const isRate: Check = (value) =>
  typeof value === 'number' && value > 0 && value <= STREAM_RATE_MAX_HZ
    ? undefined
    : `is not a number above 0, up to ${STREAM_RATE_MAX_HZ}`

const isName: Check = (value) =>
  typeof value === 'string' && NAME.test(value) ? undefined : `is not a name: it must match ${NAME_PATTERN}`

const isText: Check = (value) => (typeof value === 'string' ? undefined : 'is not a text')

/** The windows themselves are checked against the pages (views/viewport.ts). */
const isSlices: Check = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? undefined
    : 'is not an object of windows by page'

const OPTIONS: Checks<SubscribeOptions> = {
  pages: isNames,
  from: isStart,
  data: isOneOf(DATA_MODES),
  slice: isSlices,
  policy: isOneOf(POLICIES),
  maxRate: isRate,
  durable: isName,
  history: isText,
}

/** @throws MmsbError INVALID_REQUEST */
export function checkSubscribeOptions(options: SubscribeOptions): void {
  checkFields('options', options, OPTIONS)
  if (options.pages === undefined) throw new MmsbError('INVALID_REQUEST', 'pages: is missing')
}
