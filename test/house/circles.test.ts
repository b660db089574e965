/**
 * No import circle anywhere in src/, type imports included: every strongly connected component of the imports
 * is one file. A circle means that two files are one subject, or that a type lives in the wrong one of them.
 */
import t from 'tap'
import { type Source, sourcesOf, sourcesUnder } from './source.js'

/** The circles, each as the files in it (Tarjan, SIAM J. Comput. 1972). */
function circlesIn(sources: readonly Source[]): string[][] {
  const targets = new Map(
    sources.map(({ path, imports }) => [path, imports.flatMap(({ target }) => target ?? [])]),
  )
  const order = new Map<string, number>()
  const lowest = new Map<string, number>()
  const open: string[] = []
  const circles: string[][] = []
  const visit = (path: string): void => {
    const number = order.size
    order.set(path, number)
    lowest.set(path, number)
    open.push(path)
    for (const target of targets.get(path)!) {
      if (!targets.has(target)) continue
      if (!order.has(target)) visit(target)
      if (open.includes(target)) lowest.set(path, Math.min(lowest.get(path)!, lowest.get(target)!))
    }
    if (lowest.get(path) !== number) return
    const circle = open.splice(open.indexOf(path))
    if (circle.length > 1 || targets.get(path)!.includes(path)) circles.push(circle.sort())
  }
  for (const path of targets.keys()) if (!order.has(path)) visit(path)
  return circles
}

t.test('a circle is found, through a type import too', async (t) => {
  const circles = circlesIn(
    sourcesOf({
      'src/a.ts': "import { b } from './b.js'",
      'src/b.ts': "import type { C } from './c/c.js'\nimport './d.js'",
      'src/c/c.ts': "export type { A } from '../a.js'",
      'src/d.ts': "import fs from 'node:fs'",
      'src/self.ts': "import './self.js'",
    }),
  )
  t.same(circles, [['src/a.ts', 'src/b.ts', 'src/c/c.ts'], ['src/self.ts']])
})

t.test('no import circle in src', async (t) => {
  t.same(circlesIn(sourcesUnder('src')), [])
})
