/**
 * `make image-check`: carries out every step of deploy/docker/Dockerfile without docker, in file systems of
 * Debian that debootstrap makes, and starts the image. Needs root, debootstrap and a network; takes some
 * minutes. The images that it begins with are Debian with the Node of this machine. The variant with CUDA is
 * not part of it.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { ROOT } from '../lib/place.js'
import { freePort } from '../support/free-port.js'
import { Container, runIsolated } from './container.js'
import { type ContainerConfig, scriptOf, stagesOf } from './image.js'

/**
 * Outside of the checkout, where nothing looks for sources. What it begins with is kept there for
 * the next time.
 */
const PLACE = join(tmpdir(), 'mmsb-image')
/** What is in an image of Node beside Debian and Node. */
const IMAGES = [
  { pattern: /^node:\d+-bookworm$/, packages: ['ca-certificates', 'make', 'g++', 'python3'] },
  { pattern: /^node:\d+-bookworm-slim$/, packages: [] },
]

const place = (name: string): string => join(PLACE, name.replaceAll(/\W/g, '-'))

/** Debian and Node in a folder. */
function makeBase(root: string, packages: readonly string[]): void {
  const include = packages.length === 0 ? [] : [`--include=${packages.join(',')}`]
  // It mounts what it needs, and may leave that behind: so in mounts of its own.
  const command = ['debootstrap', '--variant=minbase', ...include, 'bookworm', root]
  execFileSync('unshare', ['--mount', ...command], { stdio: 'inherit' })
  const copy = (from: string, to: string): void => {
    if (!existsSync(from)) return
    mkdirSync(dirname(join(root, to)), { recursive: true })
    cpSync(realpathSync(from), join(root, to), { recursive: true })
  }
  copy(process.execPath, 'usr/local/bin/node')
  const npm = join(execFileSync('npm', ['root', '--global'], { encoding: 'utf8' }).trim(), 'npm')
  copy(npm, 'usr/local/lib/node_modules/npm')
  for (const name of ['npm', 'npx'])
    symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(root, 'usr/local/bin', name))
  // What this machine needs to reach a registry, and the headers with which npm builds packages.
  for (const file of ['/etc/resolv.conf', '/etc/hosts', '/etc/ssl/certs/ca-certificates.crt'])
    copy(file, file)
  copy('/usr/include/node', '/usr/include/node')
}

function environment(): Record<string, string> {
  const cas = '/etc/ssl/certs/ca-certificates.crt'
  return {
    HOME: '/tmp',
    ...(existsSync(cas) ? { NODE_EXTRA_CA_CERTS: cas } : {}),
    ...(existsSync('/usr/include/node') ? { npm_config_nodedir: '/usr' } : {}),
  }
}

/** Carries out the stages that the last one needs. */
function buildImage(): { root: string; config: ContainerConfig } {
  const stages = stagesOf('deploy/docker/Dockerfile', { VARIANT: 'cpu' }).filter(
    ({ name }) => !name.endsWith('-cuda'),
  )
  const roots = new Map<string, string>()
  let last: { root: string; config: ContainerConfig } | undefined
  for (const stage of stages) {
    const root = place(stage.name || 'image')
    const from = roots.get(stage.from) ?? place(stage.from)
    const image = IMAGES.find(({ pattern }) => pattern.test(stage.from))
    if (image !== undefined && !existsSync(from)) makeBase(from, image.packages)
    // A stage without steps is the one it comes from.
    roots.set(stage.name, stage.steps.length === 0 ? from : root)
    if (stage.steps.length === 0) continue
    console.log(`== ${stage.name || 'the image'}, from ${stage.from}`)
    rmSync(root, { recursive: true, force: true })
    execFileSync('cp', ['-a', from, root])
    const { script, config } = scriptOf(stage, {
      root,
      sourceOf: (name, path) => (name === undefined ? join(ROOT, path) : join(roots.get(name)!, path)),
      runEnv: environment(),
    })
    runIsolated(root, script)
    last = { root, config }
  }
  return last!
}

async function tryImage({ root, config }: { root: string; config: ContainerConfig }): Promise<void> {
  const env = { ...config.env, MMSB_PORT: '0', MMSB_ADMIN_LISTEN: `127.0.0.1:${await freePort()}` }
  const container = new Container({
    prelude: '',
    root,
    config: { ...config, env },
    cmd: ['serve', '--insecure'],
  })
  try {
    await container.ready()
    const health = container.exec(config.healthcheck)
    if (health !== 0) throw new Error(`the health check says ${health}`)
    const code = await container.end('TERM')
    if (code !== 0) throw new Error(`it ended with ${code}: ${container.said}`)
  } finally {
    await container.end('KILL')
  }
}

const missing =
  Container.missing() ?? (spawnSync('debootstrap', ['--version']).error && 'debootstrap is missing')
if (missing !== undefined) {
  console.error(`image-check: ${missing}`)
  process.exit(1)
}
mkdirSync(PLACE, { recursive: true })
const image = buildImage()
await tryImage(image)
const size = execFileSync('du', ['-sh', join(image.root, 'opt/mmsb')], { encoding: 'utf8' }).split('\t')[0]
console.log(`the image serves, is healthy and stops; /opt/mmsb has ${size}`)
