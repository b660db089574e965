/**
 * Plants every fault that docs/guide/GUARANTEES.md names, one at a time, and runs the tests that the document
 * names beside it, to see that one of them fails: `make mutants MUTANT_ARGS=--guarantees`. Writes what was
 * noticed into results.json.
 */
import { writeFileSync } from 'node:fs'
import type { Tree } from '../tree.js'
import { eachInParallel } from '../typescript/parallel.js'
import { buildLibrary, isNative, planterOf, restoreLibrary } from './faults.js'
import { labelOf, type NamedTest, type Promised, RESULTS, readNoticed, readPromises } from './promises.js'

/** A test that takes longer hangs. */
const LIMIT_MS = 240_000
/** A native test builds what it needs. */
const BUILDS = /^test\/native\//

export interface GuaranteeOptions {
  /** Only faults and promises that contain this. */
  readonly only: string | undefined
  /** Only faults that no test is known to notice. */
  readonly isOpen: boolean
}

interface Task {
  readonly fault: string
  readonly tests: readonly NamedTest[]
}

function tasksOf(
  promises: readonly Promised[],
  { only, isOpen }: GuaranteeOptions,
  noticed: ReadonlyMap<string, readonly string[]>,
): Task[] {
  return promises.flatMap(({ promise, tests, faults }) =>
    faults
      .filter((fault) => only === undefined || fault.includes(only) || promise.includes(only))
      .map((fault) => ({ fault, tests }))
      .filter(
        ({ fault }) => !isOpen || !tests.some((test) => noticed.get(fault)?.includes(labelOf(test)) === true),
      ),
  )
}

/** The first of the tests that fails with the fault and passes without it. */
async function firstToNotice(tree: Tree, { fault, tests }: Task): Promise<NamedTest | undefined> {
  const plant = planterOf(fault)
  if (plant === undefined) throw new Error(`the sources have no place for the fault ${fault}`)
  for (const test of tests) {
    const needsLibrary = isNative(fault) && !BUILDS.test(test.path)
    try {
      plant(tree)
      if (needsLibrary) buildLibrary(tree)
      if ((await tree.run(test.path, LIMIT_MS, {}, test.title)).passed) continue
    } finally {
      tree.restore()
      if (needsLibrary) restoreLibrary(tree)
    }
    if ((await tree.run(test.path, LIMIT_MS, {}, test.title)).passed) return test
    console.log(`${labelOf(test)} fails without a fault`)
  }
  return undefined
}

/** Whether every fault was noticed. */
export async function checkGuarantees(options: GuaranteeOptions): Promise<boolean> {
  const noticed = new Map<string, readonly string[]>(Object.entries(readNoticed()))
  const promises = readPromises()
  const named = new Set(promises.flatMap(({ faults }) => faults))
  for (const fault of noticed.keys()) if (!named.has(fault)) noticed.delete(fault)
  let isGood = true
  await eachInParallel(tasksOf(promises, options, noticed), async (tree, task) => {
    const { fault, tests } = task
    const test = await firstToNotice(tree, task)
    const labels = tests.map(labelOf)
    const others = (noticed.get(fault) ?? []).filter((label) => !labels.includes(label))
    noticed.set(fault, test === undefined ? others : [...others, labelOf(test)].sort())
    const sorted = [...noticed].sort(([a], [b]) => (a < b ? -1 : 1))
    writeFileSync(RESULTS, `${JSON.stringify(Object.fromEntries(sorted), undefined, 2)}\n`)
    console.log(
      `${test === undefined ? `NOT NOTICED by ${labels.join()}` : `noticed by ${labelOf(test)}`}: ${fault}`,
    )
    isGood &&= test !== undefined
  })
  return isGood
}
