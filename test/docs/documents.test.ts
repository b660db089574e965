/** Documents say what the code says: the error table, the links, the make targets, the tests that guarantees name. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { ERRORS } from '../../src/errors.js'
import { blocksOf, documentPaths, linksOf, ROOT, readDocument, tableRowsOf } from './markdown.js'

const DOCUMENTS = ['README.md', 'examples/risk/README.md', 'examples/flights/README.md', ...documentPaths()]

t.test('docs/guide/ERRORS.md is the table of src/errors.ts', async (t) => {
  const rows = tableRowsOf(readDocument('docs/guide/ERRORS.md'))
  const entries = Object.entries(ERRORS)
  t.same(
    rows,
    entries.map(([code, { status, title, hint }]) => [code, String(status), title, hint]),
  )
})

t.test('every link inside the repository leads somewhere', async (t) => {
  for (const document of DOCUMENTS.filter((name) => name.endsWith('.md'))) {
    for (const link of linksOf(readDocument(document)).filter((link) => !/^[a-z]+:|^#/.test(link))) {
      const target = normalize(join(ROOT, dirname(document), link.replace(/#.*$/, '')))
      t.ok(existsSync(target), `${document} -> ${link}`)
    }
  }
})

t.test('README links every document of docs/', async (t) => {
  const links = linksOf(readDocument('README.md'))
  for (const path of documentPaths()) t.ok(links.includes(path), path)
})

t.test('every make target that a document names is there', async (t) => {
  const makefile = readDocument('Makefile')
  for (const document of DOCUMENTS.filter((name) => name.endsWith('.md'))) {
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
  for (const document of DOCUMENTS.filter((name) => name.endsWith('.md'))) {
    const named = /`((?:test|bench)\/[\w./-]+)`(?: "([^"]+)")?/g
    for (const [, path, title] of readDocument(document).matchAll(named)) {
      count += 1
      const file = join(ROOT, path!)
      t.ok(existsSync(file), `${document} names ${path}`)
      if (title === undefined || !existsSync(file)) continue
      t.ok(readFileSync(file, 'utf8').includes(title), `${document}: ${path} has "${title}"`)
    }
  }
  t.ok(count > 20)
})
