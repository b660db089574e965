/**
 * Page patterns of subscriptions: a name, or a name with `*` for any run of characters (dots too).
 *
 * Invariant: matching takes time proportional to pattern times name at most, whatever a client sends; hence
 * no regular expressions.
 */
import { MmsbError } from '../errors.js'
import { STREAM_PATTERNS_MAX } from '../limits.js'
import { NAME_MAX_LENGTH } from '../wire/page.js'

const PATTERN = /^[A-Za-z0-9_.:*-]+$/

export interface PatternSet {
  /** Equal for sets with the same patterns. */
  readonly key: string
  /** Sorted, none twice. */
  readonly patterns: readonly string[]
  /**
   * A name matches if each of these lists has a pattern that it matches. One list, unless sets were
   * intersected.
   */
  readonly lists: readonly (readonly string[])[]
  /** The names that match, sorted, where no pattern has a `*`. */
  readonly names?: readonly string[]
  matches(name: string): boolean
}

/** @throws MmsbError INVALID_REQUEST when a pattern could match no name, or there are none or too many. */
export function patternSet(patterns: readonly string[]): PatternSet {
  if (patterns.length === 0) throw new MmsbError('INVALID_REQUEST', 'pages: names no page and no pattern')
  if (patterns.length > STREAM_PATTERNS_MAX) {
    throw new MmsbError('INVALID_REQUEST', `pages: more than ${STREAM_PATTERNS_MAX} patterns`)
  }
  for (const pattern of patterns) checkPattern(pattern)
  const unique = [...new Set(patterns)].sort()
  const exact = new Set(unique.filter((p) => !p.includes('*')))
  const wild = unique.filter((p) => p.includes('*'))
  return {
    key: unique.join(','),
    patterns: unique,
    lists: [unique],
    ...(wild.length === 0 ? { names: unique } : {}),
    matches: wild.includes('*')
      ? () => true
      : (name) => exact.has(name) || wild.some((pattern) => matchesWild(pattern, name)),
  }
}

/**
 * The names that match both sets. Its patterns are those of `a`: whoever shows them shows what was asked for.
 */
export function intersect(a: PatternSet, b: PatternSet): PatternSet {
  const names = a.names?.filter((name) => b.matches(name)) ?? b.names?.filter((name) => a.matches(name))
  return {
    key: `${a.key}&${b.key}`,
    patterns: a.patterns,
    lists: [...a.lists, ...b.lists],
    ...(names === undefined ? {} : { names }),
    matches: (name) => a.matches(name) && b.matches(name),
  }
}

/** The set of `lists`: see PatternSet. @throws MmsbError INVALID_REQUEST */
export function patternSetOf(lists: readonly (readonly string[])[]): PatternSet {
  return lists.map((list) => patternSet(list)).reduce(intersect)
}

function checkPattern(pattern: string): void {
  if (PATTERN.test(pattern) && pattern.length <= NAME_MAX_LENGTH) return
  const shown = JSON.stringify(pattern.slice(0, 80))
  throw new MmsbError(
    'INVALID_REQUEST',
    `pages: ${shown} is neither a page name nor a pattern such as "risk.*"`,
  )
}

/** Greedy match. On failure it backtracks to the last `*` only, which is enough and never exponential. */
function matchesWild(pattern: string, name: string): boolean {
  let p = 0
  let n = 0
  let star = -1
  let resumeAt = 0
  while (n < name.length) {
    if (pattern[p] === '*') {
      star = p++
      resumeAt = n
    } else if (p < pattern.length && pattern[p] === name[n]) {
      p++
      n++
    } else if (star >= 0) {
      p = star + 1
      n = ++resumeAt
    } else {
      return false
    }
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}
