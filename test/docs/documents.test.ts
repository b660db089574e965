/**
 * Documents say what the code says: the error table, links, paths, make targets, and the tests that
 * guarantees name.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { ERRORS } from '../../src/errors.js'
import { ROOT } from '../lib/place.js'
import { blocksOf, documentPaths, linksOf, readDocument, tableRowsOf } from './markdown.js'

const INDEX = 'docs/README.md'
const AT_ROOT = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md']
const EXAMPLES = ['examples/risk/README.md', 'examples/flights/README.md']
const ROOMS = readdirSync(`${ROOT}/src`, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('README.md'))
  .map((name) => `src/${name}`)
const DOCUMENTS = [...AT_ROOT, ...EXAMPLES, ...ROOMS, ...documentPaths()]

/**
 * Where a document's links lead, as paths from the root of the repository; addresses outside are left out.
 */
function targetsOf(document: string): string[] {
  return linksOf(readDocument(document))
    .filter((link) => !/^[a-z]+:|^#/.test(link))
    .map((link) => normalize(join(dirname(document), link.replace(/#.*$/, ''))))
}

t.test('docs/guide/ERRORS.md is the table of src/errors.ts', async (t) => {
  const rows = tableRowsOf(readDocument('docs/guide/ERRORS.md'))
  const entries = Object.entries(ERRORS)
  t.same(
    rows,
    entries.map(([code, { status, title, hint }]) => [code, String(status), title, hint]),
  )
})

t.test('every link inside the repository leads somewhere', async (t) => {
  for (const document of DOCUMENTS) {
    for (const target of targetsOf(document)) {
      t.ok(existsSync(join(ROOT, target)), `${document} -> ${target}`)
    }
  }
})

t.test('README links the index, and the index every document', async (t) => {
  t.ok(targetsOf('README.md').includes(INDEX))
  const reached = new Set([INDEX, ...targetsOf(INDEX), ...targetsOf('docs/adr/index.md')])
  for (const path of [...AT_ROOT, ...ROOMS, ...documentPaths()]) t.ok(reached.has(path), path)
})

t.test('every path that a document names is there', async (t) => {
  let count = 0
  for (const document of DOCUMENTS) {
    const named = /`((?:src|test|docs|bench|examples|scripts|bin)\/[\w./-]+)`/g
    for (const [, path] of readDocument(document).matchAll(named)) {
      if (path!.includes('NAME')) continue
      count += 1
      t.ok(existsSync(join(ROOT, path!)), `${document} names ${path}`)
    }
  }
  t.ok(count > 100)
})

t.test('the README of a room names what is in it', async (t) => {
  t.ok(ROOMS.length >= 8)
  for (const room of ROOMS) {
    for (const [, name] of readDocument(room).matchAll(/`([a-z][\w./-]*(?:\/|\.ts|\.cuh|\.h))`/g))
      t.ok(
        [dirname(room), '.'].some((base) => existsSync(join(ROOT, base, name!))),
        `${room} names ${name}`,
      )
    // Every sub-room has its line.
    for (const entry of readdirSync(join(ROOT, dirname(room)), { withFileTypes: true }))
      if (entry.isDirectory())
        t.ok(readDocument(room).includes(`\`${entry.name}/\``), `${room} has ${entry.name}/`)
  }
})

t.test('two steps lead from the index to the code', async (t) => {
  t.ok(targetsOf(INDEX).includes('docs/internals/ARCHITECTURE.md'))
  const rows = new Map(
    tableRowsOf(readDocument('docs/internals/ARCHITECTURE.md')).map(([what, where]) => [what, where]),
  )
  for (const [what, where] of [
    ['where an epoch is committed: batch, append, execute, publish', 'src/engine/commit/'],
    ['where a checkpoint is read', 'src/store/checkpoint/'],
    ['where a WebSocket message from a client is decoded', 'src/http/stream/'],
    ['how an op is defined, and how to add one', 'ADD-AN-OP.md'],
  ] as const) {
    t.ok(rows.get(what)?.includes(where), what)
  }
})

t.test('every make target that a document names is there', async (t) => {
  const makefile = readDocument('Makefile') + readDocument('native.mk')
  for (const document of DOCUMENTS) {
    const text = readDocument(document)
    const code = [
      ...blocksOf(text).map((block) => block.text),
      ...[...text.matchAll(/`([^`\n]+)`/g)].map((m) => m[1]!),
    ]
    for (const piece of code) {
      for (const [, target] of piece.matchAll(/^make ([a-z][a-z-]*)/gm)) {
        t.match(makefile, new RegExp(`^[a-z- ]*\\b${target}\\b[a-z- ]*:`, 'm'), `${document}: make ${target}`)
      }
    }
  }
})

t.test('every test that a document names is there, with its title', async (t) => {
  let count = 0
  for (const document of DOCUMENTS) {
    const named = /`((?:test|bench)\/[\w./-]+)`(?: "([^"]+)")?/g
    for (const [, path, title] of readDocument(document).matchAll(named)) {
      if (path!.includes('NAME')) continue
      count += 1
      const file = join(ROOT, path!)
      t.ok(existsSync(file), `${document} names ${path}`)
      if (title === undefined || !existsSync(file)) continue
      t.ok(readFileSync(file, 'utf8').includes(title), `${document}: ${path} has "${title}"`)
    }
  }
  t.ok(count > 20)
})
