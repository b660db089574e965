/**
 * Scopes: what a principal may do. A scope is `verb:pattern`, such as `read:risk.*`; patterns are those of
 * subscriptions.
 *
 * Invariant: a scope allows what it says and nothing more. No verb implies another one.
 */
import { MmsbError } from '../errors.js'
import { type PatternSet, patternSet } from '../state/pattern.js'

/** What can be allowed. `admin`, `metrics` and `functions` do not look at pages; their pattern is `*`. */
export const VERBS = [
  'read',
  'write',
  'define',
  'history',
  'functions',
  'admin',
  'metrics',
  'webhook',
] as const
export type Verb = (typeof VERBS)[number]

const EVERYTHING = '*'
const WITHOUT_PAGES: ReadonlySet<Verb> = new Set(['functions', 'admin', 'metrics'])

export class Scopes {
  /** As they were given, sorted, none twice. */
  readonly texts: readonly string[]
  readonly #sets: ReadonlyMap<Verb, PatternSet>

  /** @throws MmsbError INVALID_REQUEST names the scope that is none */
  constructor(texts: readonly string[]) {
    this.texts = [...new Set(texts)].sort()
    const patterns = new Map<Verb, string[]>()
    for (const text of this.texts) {
      const { verb, pattern } = partsOf(text)
      const others = patterns.get(verb)
      if (others === undefined) patterns.set(verb, [pattern])
      else others.push(pattern)
    }
    this.#sets = new Map([...patterns].map(([verb, list]) => [verb, patternSet(list)]))
  }

  /** Whether the verb is allowed on this page. */
  allows(verb: Verb, name: string): boolean {
    return this.#sets.get(verb)?.matches(name) === true
  }

  /** Whether the verb is allowed on some page. */
  allowsAny(verb: Verb): boolean {
    return this.#sets.has(verb)
  }

  /** Whether the verb is allowed on every page, those to come included. */
  allowsAll(verb: Verb): boolean {
    return this.#sets.get(verb)?.patterns.includes(EVERYTHING) === true
  }

  /** The pages on which the verb is allowed; undefined if there are none. */
  pagesOf(verb: Verb): PatternSet | undefined {
    return this.#sets.get(verb)
  }
}

/** Every verb on every page. */
export const EVERY_SCOPE: readonly string[] = VERBS.map((verb) => `${verb}:${EVERYTHING}`)

/** The scopes among the words of a claim. An issuer also puts other words there, such as `openid`. */
export function scopesOfClaim(claim: string): Scopes {
  return new Scopes(claim.split(' ').filter((word) => VERBS.some((verb) => word.startsWith(`${verb}:`))))
}

function partsOf(text: string): { verb: Verb; pattern: string } {
  const colon = text.indexOf(':')
  const verb = VERBS.find((known) => known === text.slice(0, colon))
  const pattern = text.slice(colon + 1)
  if (verb === undefined || pattern === '') {
    throw invalid(text, `is not VERB:PATTERN, such as read:risk.*; the verbs are ${VERBS.join(', ')}`)
  }
  if (WITHOUT_PAGES.has(verb) && pattern !== EVERYTHING) {
    throw invalid(text, `is not ${verb}:*; ${verb} is allowed as a whole or not at all`)
  }
  try {
    patternSet([pattern])
  } catch {
    throw invalid(text, 'has a pattern that no page name can match')
  }
  return { verb, pattern }
}

const invalid = (text: string, why: string): MmsbError =>
  new MmsbError('INVALID_REQUEST', `scope ${JSON.stringify(text.slice(0, 100))} ${why}`)
