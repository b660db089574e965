/**
 * The rules of the native house, read from the #include lines: a file includes from its own floor or below,
 * never up; folders that share a floor do not know each other; no include circle.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { ROOT } from '../lib/place.js'

const NATIVE = `${ROOT}src/kernels/native`

/** Ground first. A place is a folder without those below it, or a file of the root. */
const FLOORS: readonly (readonly string[])[] = [
  ['abi.h', 'ops.h', 'portable'],
  ['core'],
  ['exec', 'expr'],
  ['ops'],
  ['ops/elementwise', 'ops/neighbours', 'ops/order', 'ops/places', 'ops/products', 'ops/reduce'],
  ['catalogue.cuh', 'abi', 'cuda/memory'],
  ['cuda/ops'],
  ['cuda/plan'],
  ['cuda'],
]
/** Parts of the build that are linked, not included: none of them knows another (kernels.cu). */
const PARTS: readonly string[] = ['catalogue.cuh', 'abi', 'cuda']

interface Source {
  readonly path: string
  readonly place: string
  readonly text: string
  readonly includes: readonly string[]
}

function placeOf(path: string): string {
  return dirname(path) === '.' ? path : dirname(path)
}

function floorOf(path: string): number {
  return FLOORS.findIndex((places) => places.includes(placeOf(path)))
}

function partOf(path: string): string | undefined {
  return PARTS.find((part) => path === part || path.startsWith(`${part}/`))
}

function includesOf(text: string): string[] {
  return [...text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)].map(([, name]) => name as string)
}

const all: readonly Source[] = readdirSync(NATIVE, { recursive: true, encoding: 'utf8' })
  .filter((name) => /\.(h|cuh)$/.test(name))
  .map((path) => {
    const text = readFileSync(join(NATIVE, path), 'utf8')
    return { path, place: placeOf(path), text, includes: includesOf(text) }
  })
const byPath = new Map(all.map((source) => [source.path, source]))

/** The first circle that is reached from `path`, or none. */
function circleFrom(
  path: string,
  trail: readonly string[],
  done: Set<string>,
): readonly string[] | undefined {
  if (trail.includes(path)) return [...trail.slice(trail.indexOf(path)), path]
  if (done.has(path)) return undefined
  for (const name of byPath.get(path)?.includes ?? []) {
    const circle = circleFrom(name, [...trail, path], done)
    if (circle !== undefined) return circle
  }
  done.add(path)
  return undefined
}

t.test('every native file has a floor', async (t) => {
  t.ok(all.length > 80, 'there is something to check')
  for (const { path } of all) t.ok(floorOf(path) >= 0, path)
})

t.test('includes name a file by its path from the native root, and never go up', async (t) => {
  for (const { path, place, includes } of all) {
    for (const name of includes) {
      if (!byPath.has(name)) {
        t.fail(`${path} -> ${name}: no such file`)
        continue
      }
      const below = floorOf(name) < floorOf(path)
      t.ok(below || placeOf(name) === place, `${path} -> ${name}`)
    }
  }
})

t.test('the parts of the build do not include each other', async (t) => {
  for (const { path, includes } of all) {
    const part = partOf(path)
    for (const name of part === undefined ? [] : includes) {
      t.ok(partOf(name) === undefined || partOf(name) === part, `${path} -> ${name}`)
    }
  }
})

t.test('no include circle', async (t) => {
  const done = new Set<string>()
  for (const { path } of all) t.same(circleFrom(path, [], done), undefined, path)
})
