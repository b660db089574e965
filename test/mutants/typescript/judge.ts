/**
 * Finds out whether a test notices a mutant: makes the mutant in a copy of the tree and runs tests, the best
 * first, until one fails.
 *
 * Invariant: a failure counts only if the test passes without the mutant. Quick tests that were recorded
 * are believed.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { sourcesUnder } from '../../house/source.js'
import { ROOT } from '../../lib/place.js'
import type { Tree } from '../tree.js'
import { distancesOf, Kills, testsFor } from './choose.js'
import type { Mutant } from './mutations.js'
import { readReach } from './reach.js'

/** A test that takes so much longer than recorded hangs. */
const HANGS_FACTOR = 5
const HANGS_MIN_MS = 20_000
/** A recorded test that is quicker is believed when it fails. */
const SURE_MS = 10_000

export interface Verdict {
  readonly verdict: 'caught' | 'survived' | 'undecided' | 'equivalent'
  /** The test that noticed, how many ran, or why no test can notice. */
  readonly by: string
}

export const sourceOf = (path: string): string => readFileSync(join(ROOT, path), 'utf8')

export function plantIn(tree: Tree, { path, start, end, replacement }: Mutant): void {
  const text = sourceOf(path)
  tree.change(path, text.slice(0, start) + replacement + text.slice(end))
}

export class Judge {
  readonly #maxMs: number
  readonly #reach = readReach()
  readonly #distances = distancesOf(sourcesUnder('src', 'test'))
  readonly #kills = new Kills()
  /** Whether a test passes without a mutant. A slow one may fail on a busy machine. */
  readonly #sound = new Map([...this.#reach].map(([test, { ms }]) => [test, ms < SURE_MS]))

  /** `maxMs` bounds the time of one mutant. */
  constructor(maxMs: number) {
    this.#maxMs = maxMs
  }

  async judge(tree: Tree, mutant: Mutant): Promise<Verdict> {
    const untilMs = performance.now() + this.#maxMs
    const tests = testsFor(mutant, this.#reach, this.#distances, this.#kills)
    try {
      for (const [i, test] of tests.entries()) {
        const limitMs = this.#limitMs(test)
        const leftMs = untilMs - performance.now()
        if (leftMs <= 0) return { verdict: 'undecided', by: `${i} of ${tests.length} tests` }
        plantIn(tree, mutant)
        const { passed, late } = await tree.run(test, Math.min(limitMs, leftMs))
        if (passed || (late && leftMs < limitMs)) continue
        if (!(await this.#isSound(tree, test, late))) continue
        this.#kills.add(mutant.path, test)
        return { verdict: 'caught', by: late ? `${test} (hangs)` : test }
      }
      return { verdict: 'survived', by: `${tests.length} tests` }
    } finally {
      tree.restore()
    }
  }

  #limitMs(test: string): number {
    return Math.max(HANGS_MIN_MS, HANGS_FACTOR * (this.#reach.get(test)?.ms ?? 0))
  }

  /** Whether it is the mutant that made a test fail. */
  async #isSound(tree: Tree, test: string, late: boolean): Promise<boolean> {
    if (this.#sound.get(test) !== true || late) {
      tree.restore()
      this.#sound.set(test, (await tree.run(test, this.#limitMs(test))).passed)
    }
    return this.#sound.get(test)!
  }
}
