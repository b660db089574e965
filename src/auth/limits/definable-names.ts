/**
 * The names that a principal may define with any of the tokens that it has used. Its pages are those with
 * such a name, whoever created them: it can create no others, so nothing that it creates is missed, and what
 * it counts is the same after a restart. An issuer may give one subject tokens for different names; those of
 * all its tokens count together, so that nobody gets more by asking for several.
 */

import { PRINCIPAL_PATTERNS_MAX } from '../../limits.js'
import { type PatternSet, patternSet } from '../../state/pattern.js'

export class DefinableNames {
  readonly #onChange: () => void
  readonly #sets = new Map<string, PatternSet>()
  #isEverything = false
  #patterns = 0

  /** `onChange` is called when other names count. */
  constructor(onChange: () => void) {
    this.#onChange = onChange
  }

  add(patterns: readonly string[]): void {
    if (this.#isEverything || patterns.length === 0) return
    const set = patternSet(patterns)
    if (this.#sets.has(set.key)) return
    this.#patterns += set.patterns.length
    // Beyond the bound all pages count. This is never less than what should.
    if (this.#patterns > PRINCIPAL_PATTERNS_MAX) this.#isEverything = true
    else this.#sets.set(set.key, set)
    this.#onChange()
  }

  has(name: string): boolean {
    if (this.#isEverything) return true
    for (const set of this.#sets.values()) if (set.matches(name)) return true
    return false
  }
}
