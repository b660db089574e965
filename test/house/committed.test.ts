/** No committed file names a package registry, a proxy or a place on one machine. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../lib/place.js'

// Written in pieces, so that this file passes its own test.
const PLACES = ['work', 'root', 'home/[a-z]', 'Users/[A-Za-z]'].join('|')
const LOCAL = new RegExp(`(^|[\\s"'\`=(:])/(${PLACES})[/\\w]`, 'm')
const REGISTRY = new RegExp(['registry', '(npmjs|yarnpkg|npmmirror)'].join('\\.'), 'i')

function localNames(path: string, text: string): string[] {
  return [
    ...(LOCAL.test(text) ? [`${path} names an absolute local path`] : []),
    ...(REGISTRY.test(text) ? [`${path} names a registry`] : []),
    ...(path === 'package-lock.json' && /"resolved": "https?:/.test(text)
      ? [`${path} names an address`]
      : []),
  ]
}

t.test('a local path and a registry are found', async (t) => {
  for (const place of ['/wo' + 'rk/a', '/ro' + 'ot/b', '/ho' + 'me/me/x']) {
    t.equal(localNames('a.md', `see ${place}`).length, 1, place)
  }
  t.equal(localNames('a.md', `https://registry${'.'}npmjs.org`).length, 1)
  t.equal(localNames('package-lock.json', '"resolved": "https://example.org/a.tgz"').length, 1)
  t.same(localNames('a.md', 'the /v1/pages route, https://example.org/home/'), [])
})

t.test('no committed file names a registry, a proxy or a place on one machine', async (t) => {
  const files = execFileSync('git', ['ls-files', '-z'], { cwd: ROOT, encoding: 'utf8' })
    .split('\0')
    .filter(Boolean)
  t.ok(files.length > 300)
  const found = files
    .filter((path) => existsSync(join(ROOT, path)))
    .flatMap((path) => localNames(path, readFileSync(join(ROOT, path), 'utf8')))
  t.same(found, [])
})
