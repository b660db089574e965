/**
 * The unit of systemd: how far it shuts the server in, and that the server works there. The second is tried
 * with a systemd of its own, on a machine that begins empty.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { addToken, revokeToken } from '../../src/auth/token-file.js'
import { call } from '../cli/process.js'
import { ROOT } from '../lib/place.js'
import { until } from '../lib/wait.js'
import { certificate } from '../support/certificate.js'
import { freePort } from '../support/free-port.js'
import { Machine, noMachine } from './machine.js'
import { askTls, readText } from './tools.js'

const UNIT = 'deploy/systemd/mmsb.service'
const DROP_INS = 'deploy/systemd/mmsb.service.d'
/** Of systemd: 0 is shut in completely, 10 not at all. */
const EXPOSURE_MAX = 3
t.setTimeout(110_000)
const hasAnalyze = spawnSync('systemd-analyze', ['--version']).status === 0
const skipAnalyze = !hasAnalyze && process.env.CI === undefined && 'skipped: no systemd-analyze'

/** How exposed the unit is with these drop-ins. */
function exposureOf(t: Test, dropIns: readonly string[]): number {
  const dir = t.testdir()
  const folder = join(dir, 'mmsb.service.d')
  mkdirSync(folder)
  copyFileSync(join(ROOT, UNIT), join(dir, 'mmsb.service'))
  for (const name of dropIns) copyFileSync(join(ROOT, DROP_INS, name), join(folder, name))
  const env = { ...process.env, SYSTEMD_UNIT_PATH: dir }
  const args = ['security', '--offline=yes', '--no-pager', join(dir, 'mmsb.service')]
  const { stdout, stderr } = spawnSync('systemd-analyze', args, { encoding: 'utf8', env })
  const found = /Overall exposure level for mmsb\.service: ([\d.]+)/.exec(stdout)?.[1]
  t.ok(found, stderr)
  t.notMatch(stderr, /Unknown|ignoring|Failed to parse/, 'systemd knows every setting')
  return Number(found)
}

t.test('systemd finds the server shut in', { skip: skipAnalyze }, async (t) => {
  for (const dropIns of [
    [],
    ['network.conf'],
    ['credentials.conf'],
    ['cuda.conf'],
    ['cuda.conf', 'network.conf'],
  ])
    t.ok(exposureOf(t, dropIns) < EXPOSURE_MAX, `with ${dropIns.join(' and ') || 'no drop-in'}`)
})

t.test('every setting in the units is one of the server', async (t) => {
  const help = spawnSync(process.execPath, [`${ROOT}bin/mmsb.js`, 'serve', '--help'], {
    encoding: 'utf8',
  }).stdout
  const texts = [
    UNIT,
    'deploy/systemd/mmsb.env',
    ...['network', 'credentials', 'cuda'].map((name) => `${DROP_INS}/${name}.conf`),
  ]
  const used = texts.flatMap((path) => readText(path).match(/\bMMSB_[A-Z_]+(?==)/g) ?? [])
  t.ok(used.length > 8)
  for (const name of used) if (name !== 'MMSB_') t.ok(help.includes(`[${name}]`), name)
})

// ---- on a machine -----------------------------------------------------------------------------------------

const reason = noMachine()
const skipMachine = reason !== undefined && `skipped: ${reason}`

interface Installed {
  readonly machine: Machine
  readonly port: number
  readonly admin: number
  /** /etc/mmsb of the machine. */
  readonly etc: string
  /** Uses these drop-ins from now on. */
  use(...dropIns: readonly string[]): Promise<void>
}

/** A machine where everything is installed as DEPLOY.md says. */
async function install(t: Test): Promise<Installed> {
  const dir = t.testdir()
  const [etc, dropInFolder] = [join(dir, 'etc'), join(dir, 'mmsb.service.d')]
  for (const folder of [etc, dropInFolder]) mkdirSync(folder)
  const [port, admin] = [await freePort(), await freePort()]
  writeFileSync(
    join(etc, 'mmsb.env'),
    `MMSB_PORT=${port}\nMMSB_ADMIN_LISTEN=127.0.0.1:${admin}\nMMSB_THREADS=1\n`,
  )
  const machine = await Machine.boot(t, dir, {
    [join(ROOT, UNIT)]: '/etc/systemd/system/mmsb.service',
    [dropInFolder]: '/etc/systemd/system/mmsb.service.d',
    [join(ROOT, 'deploy/systemd/sysusers.conf')]: '/etc/sysusers.d/mmsb.conf',
    [etc]: '/etc/mmsb',
  })
  const use = async (...dropIns: readonly string[]): Promise<void> => {
    for (const name of ['network.conf', 'credentials.conf']) rmSync(join(dropInFolder, name), { force: true })
    for (const name of dropIns) copyFileSync(join(ROOT, DROP_INS, name), join(dropInFolder, name))
    t.same(await machine.run('systemctl', 'daemon-reload'), { code: 0, text: '' })
  }
  return { machine, port, admin, etc, use }
}

const systemctl = async (t: Test, { machine }: Installed, ...args: readonly string[]): Promise<void> => {
  const { code, text } = await machine.run('systemctl', ...args, 'mmsb')
  if (code !== 0) t.comment((await machine.run('journalctl', '--no-pager', '--unit=mmsb', '--lines=60')).text)
  t.equal(code, 0, `systemctl ${args.join(' ')}: ${text}`)
}

async function readiness(t: Test, { machine, admin }: Installed): Promise<void> {
  const url = `http://127.0.0.1:${admin}/readyz`
  try {
    await until(async () => (await fetch(url).catch(() => undefined))?.status === 200, 'readiness')
  } catch (error) {
    t.comment((await machine.run('journalctl', '--no-pager', '--unit=mmsb', '--lines=60')).text)
    throw error
  }
}

async function onThisMachine(t: Test, installed: Installed): Promise<void> {
  const { machine, port } = installed
  await systemctl(t, installed, 'start')
  await readiness(t, installed)
  const url = `http://127.0.0.1:${port}`
  t.match(await call(url, 'PUT', '/v1/pages/a', { dtype: 'f64', shape: [3] }), { name: 'a' })
  t.match(await call(url, 'PATCH', '/v1/pages/a/data', { offset: 1, values: [42] }), { page: 'a' })

  const status = await machine.statusOf('mmsb')
  const user = (await machine.run('id', '--user', 'mmsb')).text.trim()
  t.equal(status.get('Uid')?.split('\t')[0], user)
  t.not(user, '0')
  t.equal(status.get('CapBnd'), '0000000000000000', 'no powers, ever')
  t.equal(status.get('NoNewPrivs'), '1')
  t.equal(status.get('Seccomp'), '2', 'system calls are filtered')
  const owner = await machine.run('stat', '--format=%a %U', '/var/lib/mmsb')
  t.equal(owner.text.trim(), '700 mmsb')

  const before = await machine.property('mmsb', 'MainPID')
  await machine.run('kill', '-KILL', before)
  await until(
    async () => !['0', before].includes(await machine.property('mmsb', 'MainPID')),
    'another process',
  )
  await readiness(t, installed)
  t.match(
    await call(url, 'GET', '/v1/read?pages=a'),
    { pages: { a: { values: [0, 42, 0] } } },
    'nothing is lost',
  )

  const startMs = Date.now()
  await systemctl(t, installed, 'stop')
  const ms = Date.now() - startMs
  t.ok(ms < 15_000, `an orderly end, ${ms} ms`)
  t.equal(await machine.property('mmsb', 'Result'), 'success')
  t.equal(await machine.property('mmsb', 'ExecMainStatus'), '0')
}

async function onTheNetwork(t: Test, installed: Installed): Promise<void> {
  const { machine, port, etc, use } = installed
  const dir = t.testdir()
  const tokens = join(etc, 'tokens.json')
  const useCertificate = (name: string): string => {
    const made = certificate(dir, name)
    copyFileSync(made.cert, join(etc, 'server.pem'))
    copyFileSync(made.key, join(etc, 'server.key'))
    return made.cert
  }
  const first = useCertificate('first')
  const old = addToken(tokens, { id: 'desk', scopes: ['read:*'] }).token

  await use('network.conf')
  await systemctl(t, installed, 'start')
  await readiness(t, installed)
  t.equal(await askTls(port, first, old), 200)
  t.equal(await askTls(port, first, 'mmsb_none'), 401)
  const main = await machine.property('mmsb', 'MainPID')
  const renewed = addToken(tokens, { id: 'desk', scopes: ['read:*'] }).token
  revokeToken(tokens, 'desk', 'older')
  const second = useCertificate('second')
  t.equal(await askTls(port, first, renewed), 401, 'not before the reload')
  await systemctl(t, installed, 'reload')
  await until(async () => (await askTls(port, second, renewed)) === 200, 'the new token and certificate')
  t.equal(await askTls(port, second, old), 401)
  t.equal(await machine.property('mmsb', 'MainPID'), main, 'without a restart')
  await systemctl(t, installed, 'stop')
  t.not((await machine.run('ls', '/run/mmsb')).code, 0, 'no copies are left')

  await use('credentials.conf')
  await systemctl(t, installed, 'start')
  await readiness(t, installed)
  t.equal(await askTls(port, second, renewed), 200)
  const { text } = await machine.run('stat', '--format=%a', '/run/credentials/mmsb.service/server.key')
  t.match(text, /^4[04]0$/m)
  await systemctl(t, installed, 'stop')

  rmSync(join(etc, 'server.key'))
  t.not((await machine.run('systemctl', 'start', 'mmsb')).code, 0, 'it does not start in the open')
  t.equal(await askTls(port, second, renewed), 'ECONNREFUSED')
}

t.test('a server under systemd starts, reloads, restarts and stops', { skip: skipMachine }, async (t) => {
  const installed = await install(t)
  await t.test('on this machine alone', (t) => onThisMachine(t, installed))
  await t.test('on the network', (t) => onTheNetwork(t, installed))
})
