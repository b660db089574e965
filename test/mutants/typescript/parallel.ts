/** Work on several copies of the tree at once, one for each core: a test waits often. */
import { availableParallelism } from 'node:os'
import { Tree } from '../tree.js'

/** Does `work` for every item, in order, each time with a tree that nobody else uses meanwhile. */
export async function eachInParallel<T>(
  items: readonly T[],
  work: (tree: Tree, item: T) => Promise<void>,
): Promise<void> {
  const count = Math.min(availableParallelism(), items.length)
  const trees = Array.from({ length: count }, (_, i) => new Tree(i))
  const left = items.values()
  await Promise.all(
    trees.map(async (tree) => {
      for (const item of left) await work(tree, item)
    }),
  )
}
