/**
 * The image and the services of compose. The steps of the last stage run on a copy of this machine's file
 * system, with what was built in the checkout; then a container's process starts as docker would start it.
 * All steps, in a file system of their own, run with `make image-check`. Docker itself is not part of it.
 */
import { spawnSync } from 'node:child_process'
import { chownSync, copyFileSync, existsSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { addToken } from '../../src/auth/token-file.js'
import { ROOT } from '../lib/place.js'
import { until } from '../lib/wait.js'
import { certificate } from '../support/certificate.js'
import { freePort } from '../support/free-port.js'
import { Container } from './container.js'
import { quoted, scriptOf, stagesOf } from './image.js'
import { askTls, readText } from './tools.js'

t.setTimeout(110_000)
const DOCKERFILE = 'deploy/docker/Dockerfile'
const USER = 7411

interface Compose {
  readonly services: Readonly<
    Record<
      string,
      {
        environment?: Record<string, string>
        volumes: string[]
        read_only?: boolean
        build?: { context: string; dockerfile: string }
      }
    >
  >
}

const compose = parse(readText('deploy/docker/compose.yaml')) as Compose

t.test('both variants: every stage is there, and every file that is copied', async (t) => {
  const ignored = readText(`${DOCKERFILE}.dockerignore`).split('\n')
  for (const VARIANT of ['cpu', 'cuda']) {
    const stages = stagesOf(DOCKERFILE, { VARIANT })
    const names = stages.map(({ name }) => name)
    t.ok(names.length > 5)
    const last = stages.at(-1)!
    t.equal(last.from, `base-${VARIANT}`)
    t.equal(stages.find(({ name }) => name === 'library')!.from, `library-${VARIANT}`)
    for (const { name, from, steps } of stages) {
      t.ok(names.includes(from) || /^(node|nvidia\/cuda):[\w.-]+$/.test(from), `${name}: ${from}`)
      for (const { text } of steps.filter((step) => step.name === 'COPY')) {
        const [, stage, rest] = /^(?:--from=(\S+) )?(.*)$/.exec(text)!
        if (stage !== undefined) t.ok(names.includes(stage), text)
        else
          for (const path of rest!.split(' ').slice(0, -1)) {
            t.ok(existsSync(join(ROOT, path)), path)
            t.ok(ignored.includes(`!${path.split('/')[0]}`), `${path} is part of the context`)
          }
      }
    }
  }
})

t.test('compose: what it mounts is there', async (t) => {
  const folder = join(ROOT, 'deploy/docker')
  const { mmsb, prometheus } = compose.services
  t.equal(relative(ROOT, join(folder, mmsb!.build!.context)), '')
  t.equal(mmsb!.build!.dockerfile, DOCKERFILE)
  for (const volume of prometheus!.volumes.filter((text) => text.startsWith('.')))
    t.ok(existsSync(join(folder, volume.split(':')[0]!)), volume)
  const config = (path: string): { scrape_configs: { static_configs: unknown }[] } => parse(readText(path))
  const [here, alone] = [config('deploy/docker/prometheus.yml'), config('deploy/monitoring/prometheus.yml')]
  t.same(here.scrape_configs[0]!.static_configs, [{ targets: ['mmsb:7412'] }])
  here.scrape_configs[0]!.static_configs = alone.scrape_configs[0]!.static_configs
  t.same(here, alone, 'otherwise it is the one of deploy/monitoring')
})

// ---- a container ------------------------------------------------------------------------------------------

/** The packages that the server needs, as folders below the checkout. */
function productionPackages(): string[] {
  const { stdout } = spawnSync('npm', ['ls', '--all', '--parseable', '--omit=dev'], {
    cwd: ROOT,
    encoding: 'utf8',
  })
  return stdout
    .split('\n')
    .map((path) => relative(ROOT.replace(/\/$/, ''), path))
    .filter((path) => path.startsWith('node_modules/'))
}

/** A script that makes the image in `dir`/root of a copy of this machine. */
function prepare(dir: string): ReturnType<typeof scriptOf> {
  const made = scriptOf(stagesOf(DOCKERFILE).at(-1)!, {
    root: join(dir, 'root'),
    sourceOf: (_stage, path) =>
      join(path.endsWith('/node_modules') ? dir : ROOT, path.replace('/opt/mmsb', '')),
  })
  const lines = [
    `mount -t tmpfs tmpfs ${quoted(dir)}`,
    `cd ${quoted(dir)} && mkdir upper work root node_modules`,
    'mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root',
    // The machine may have what the image makes.
    "rm -rf root/usr/local/bin/mmsb root/opt/mmsb root/var/lib/mmsb && sed -i '/^mmsb:/d' root/etc/passwd root/etc/group root/etc/shadow root/etc/gshadow",
    `install -D ${quoted(process.execPath)} root/usr/local/bin/node`,
    `(cd ${quoted(ROOT)} && cp -a --parents ${productionPackages().map(quoted).join(' ')} ${quoted(dir)})`,
    made.script,
  ]
  return { config: made.config, script: lines.join('\n') }
}

/** Starts the process of the image, as `docker run` does. */
function start(
  t: Test,
  dir: string,
  extra: { env: Record<string, string>; mounts?: readonly string[] },
): Container {
  const { script, config } = prepare(dir)
  const container = new Container({
    prelude: [script, ...(extra.mounts ?? [])].join('\n'),
    root: join(dir, 'root'),
    config: { ...config, env: { ...config.env, ...extra.env } },
  })
  t.teardown(() => container.end('KILL'))
  return container
}

const reason = Container.missing()
const skip = reason !== undefined && `skipped: ${reason}`

t.test('without tokens and TLS the image does not serve', { skip }, async (t) => {
  const container = start(t, t.testdir(), { env: { MMSB_ADMIN_LISTEN: '127.0.0.1:0' } })
  t.equal(await container.exited, 2, container.said)
  t.match(
    container.said,
    /0\.0\.0\.0 can be reached from other machines, and this server has no authentication/,
  )
})

t.test('a container of compose serves, is healthy, reloads and stops', { skip }, async (t) => {
  const dir = t.testdir({ image: {}, secrets: {}, data: {} })
  const secrets = join(dir, 'secrets')
  const tokens = join(secrets, 'tokens.json')
  const useCertificate = (name: string): string => {
    const { cert, key } = certificate(dir, name)
    copyFileSync(cert, join(secrets, 'server.pem'))
    copyFileSync(key, join(secrets, 'server.key'))
    return cert
  }
  const own = (): void => {
    for (const name of ['', ...readdirSync(secrets)]) chownSync(join(secrets, name), USER, USER)
  }
  const first = useCertificate('first')
  const token = addToken(tokens, { id: 'desk', scopes: ['read:*'] }).token
  own()
  chownSync(join(dir, 'data'), USER, USER)

  const { environment, volumes, read_only: readOnly } = compose.services.mmsb!
  const [port, admin] = [await freePort(), await freePort()]
  t.equal(environment!.MMSB_ADMIN_LISTEN, '0.0.0.0:7412')
  const places: Record<string, string> = { data: join(dir, 'data'), './secrets': secrets }
  const root = join(dir, 'image', 'root')
  const mounts = volumes.flatMap((volume) => {
    const [from, to, mode] = volume.split(':') as [string, string, string | undefined]
    const at = quoted(root + to)
    return [
      `mkdir -p ${at} && mount --bind ${quoted(places[from]!)} ${at}`,
      ...(mode === 'ro' ? [`mount -o remount,bind,ro ${at}`] : []),
    ]
  })
  t.ok(readOnly)
  const container = start(t, join(dir, 'image'), {
    env: { ...environment, MMSB_PORT: String(port), MMSB_ADMIN_LISTEN: `0.0.0.0:${admin}` },
    mounts: [
      // A new volume is as the folder of the image is.
      `test "$(stat -c %u:%a ${quoted(root)}/var/lib/mmsb)" = ${USER}:700`,
      ...mounts,
      `mount -t tmpfs tmpfs ${quoted(`${root}/tmp`)}`,
      `mount -o remount,bind,ro ${quoted(root)}`,
    ],
  })
  await container.ready()
  const { healthcheck } = container.config
  t.equal(container.exec(healthcheck), 0, 'it is healthy')
  t.not(
    container.exec(['env', `MMSB_ADMIN_LISTEN=127.0.0.1:${port}`, ...healthcheck]),
    0,
    'the check can fail',
  )
  t.not(container.exec(['sh', '-c', 'echo x > /opt/mmsb/x']), 0, 'it cannot write outside of its folder')
  t.equal(
    container.exec(['sh', '-c', `test "$(id -u)" = ${USER} && test "$(stat -c %u /proc/1)" = ${USER}`]),
    0,
  )
  t.equal(await askTls(port, first, token), 200)
  t.equal(await askTls(port, first, 'mmsb_none'), 401)

  const second = useCertificate('second')
  const renewed = addToken(tokens, { id: 'other', scopes: ['read:*'] }).token
  own()
  container.signal('HUP')
  await until(async () => (await askTls(port, second, renewed)) === 200, 'the new token and certificate')

  t.equal(await container.end('TERM'), 0, container.said)
  t.ok(existsSync(join(dir, 'data', 'data', 'log')), 'the data are on the volume')
})
