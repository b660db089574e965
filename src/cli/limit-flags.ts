/**
 * The flags of the operator's limits (src/operator-limits.ts): `--max-past-requests 1000`,
 * `--answer-budget 256m`.
 */
import {
  LIMIT_NAMES,
  type LimitName,
  type Limits,
  type LimitUnit,
  limitVariable,
  OPERATOR_LIMITS,
  showLimit,
} from '../operator-limits.js'
import {
  bytesOf,
  durationOf,
  type FlagTable,
  type Given,
  integerOf,
  type ParsedFlags,
  UsageError,
} from './flags.js'

const PLACEHOLDERS: Readonly<Record<LimitUnit, string>> = { count: 'N', bytes: 'SIZE', ms: 'TIME' }

/** One flag for each limit. */
export const LIMIT_FLAGS: FlagTable = Object.fromEntries(
  LIMIT_NAMES.map((name) => {
    const { flag, unit, standard, help } = OPERATOR_LIMITS[name]
    return [
      flag,
      {
        value: PLACEHOLDERS[unit],
        help: `maximum ${help}`,
        env: limitVariable(flag),
        standard: showLimit(unit, standard),
      },
    ]
  }),
)

/** The limits that flags or environment variables set. @throws UsageError */
export function limitsOf({ values }: ParsedFlags): Partial<Limits> {
  const limits: Partial<Record<LimitName, number>> = {}
  for (const name of LIMIT_NAMES) {
    const given = values.get(OPERATOR_LIMITS[name].flag)
    if (given !== undefined) limits[name] = limitOf(name, given)
  }
  return limits
}

function limitOf(name: LimitName, given: Given): number {
  const { unit, least, most } = OPERATOR_LIMITS[name]
  if (unit === 'count') return integerOf(given, least, most)
  const value = unit === 'bytes' ? bytesOf(given) : durationOf(given)
  if (value >= least && value <= most) return value
  throw new UsageError(
    `${given.from}: ${JSON.stringify(given.text)} is not between ${showLimit(unit, least)} and ${showLimit(unit, most)}`,
  )
}
