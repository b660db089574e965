/** The npm package installs and runs on Node 22, for which SQLite is built from source. */
import { join } from 'node:path'
import t from 'tap'
import { folder } from '../lib/folder.js'
import {
  emptyFolder,
  expected,
  installArgs,
  otherNode,
  pack,
  run,
  unreachableRegistry,
  use,
} from './installed.js'

t.setTimeout(600_000)
const dir = folder(t)
const skip = await unreachableRegistry(dir)

t.test('installs and runs', { skip }, async (t) => {
  const env = await otherNode(join(dir, 'node-22'), '22')
  const home = emptyFolder(dir, 'an empty folder')
  const { status, stderr } = await run('npm', installArgs(await pack(dir)), home, env)
  t.equal(status, 0, stderr)
  t.notMatch(stderr, /EBADENGINE/)
  t.equal(await use(home, env), expected('22'))
})
