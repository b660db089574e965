/**
 * The npm package installs and runs on this Node, and no package beside it asks for a newer one than it may.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { satisfies } from 'semver'
import t from 'tap'
import { folder } from '../lib/folder.js'
import {
  emptyFolder,
  expected,
  installArgs,
  pack,
  readySqlite,
  run,
  thisNode,
  unreachableRegistry,
  use,
} from './installed.js'

/** The oldest version of each line of Node that must not warn. */
const NODE_VERSIONS = ['20.19.0', '22.0.0', '24.0.0']

t.setTimeout(600_000)
const dir = folder(t)
const skip = await unreachableRegistry(dir)

t.test('installs and runs', { skip }, async (t) => {
  const env = { ...thisNode(), ...(await readySqlite(join(dir, 'ready'))) }
  const home = emptyFolder(dir, 'on this Node')
  const { status, stderr } = await run('npm', installArgs(await pack(dir)), home, env)
  t.equal(status, 0, stderr)
  t.notMatch(stderr, /EBADENGINE/)
  t.equal(await use(home, env), expected(process.versions.node.split('.')[0]))

  const manifests = readdirSync(join(home, 'node_modules'), { recursive: true, encoding: 'utf8' })
    .filter((name) => /(^|node_modules\/)(@[^/]+\/)?[^/@]+\/package\.json$/.test(name))
    .map((name) => JSON.parse(readFileSync(join(home, 'node_modules', name), 'utf8')))
  t.ok(manifests.length > 50)
  for (const { name, engines } of manifests as { name: string; engines?: { node?: string } }[])
    for (const version of NODE_VERSIONS)
      t.ok(satisfies(version, engines?.node ?? '*'), `${name} on Node ${version}: ${engines?.node}`)
})
