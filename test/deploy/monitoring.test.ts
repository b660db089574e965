/**
 * The dashboard and the alerts: a real Prometheus scrapes a server under a short load, and every query of the
 * dashboard has an answer. promtool tries when alerts fire.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { connect } from '../../src/client/node.js'
import { type Process, serve } from '../cli/process.js'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'
import { sleep, until } from '../lib/wait.js'
import { freePort } from '../support/free-port.js'
import { programOf, readText, runProgram, skipWithout } from './tools.js'

t.setTimeout(110_000)
const RULES = 'deploy/monitoring/mmsb-alerts.yml'
const LOAD_MS = 4000
/** Of the server, before its bus is there. */
const WHILE_STARTING = 'mmsb_recovery_ratio'

interface Target {
  readonly expr: string
}

interface Panel {
  readonly id: number
  readonly title: string
  readonly type: string
  readonly gridPos: { readonly h: number; readonly w: number; readonly x: number; readonly y: number }
  readonly targets?: readonly Target[]
}

interface Dashboard {
  readonly panels: readonly Panel[]
  readonly templating: { readonly list: readonly { readonly type: string; readonly query: string }[] }
  readonly annotations: { readonly list: readonly Target[] }
}

const dashboard = JSON.parse(readText('deploy/monitoring/mmsb-dashboard.json')) as Dashboard
/** As Grafana fills in what it knows. */
const filledIn = (query: string): string =>
  query.replaceAll(/\$(job|instance)\b/g, '.*').replaceAll('$__rate_interval', '10s')

t.test('promtool: the rules, and when each alert fires', { skip: skipWithout('promtool') }, async (t) => {
  for (const args of [
    ['check', 'rules', RULES],
    ['check', 'config', 'deploy/monitoring/prometheus.yml'],
    ['test', 'rules', 'test/deploy/alerts.yml'],
  ]) {
    const { code, stdout, stderr } = runProgram('promtool', ...args)
    t.equal(code, 0, `promtool ${args.join(' ')}: ${stdout}${stderr}`)
  }
  const fired = readText('test/deploy/alerts.yml').matchAll(/alertname: (\w+)\n +exp_alerts/g)
  const alerts = [...readText(RULES).matchAll(/- alert: (\w+)/g)].map(([, name]) => name!)
  t.ok(alerts.length > 10)
  t.same([...fired].map(([, name]) => name!).sort(), alerts.sort(), 'each fires in one test')
})

t.test('panels lie beside each other', async (t) => {
  const cells = new Set<string>()
  for (const { title, gridPos } of dashboard.panels) {
    t.ok(gridPos.x + gridPos.w <= 24, title)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        if (cells.has(`${x} ${y}`)) t.fail(`${title} lies over another panel`)
        cells.add(`${x} ${y}`)
      }
  }
  t.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length)
})

// ---- with a Prometheus ------------------------------------------------------------------------------------

interface Answer {
  readonly result: readonly {
    readonly metric: Readonly<Record<string, string>>
    readonly value: [number, string]
  }[]
}

class Prometheus {
  readonly #url: string
  readonly #child: ChildProcess
  #log = ''

  private constructor(url: string, args: readonly string[]) {
    this.#url = url
    this.#child = spawn(programOf('prometheus'), args, { env: plainEnvironment() })
    this.#child.stderr!.on('data', (chunk: Buffer) => (this.#log += chunk))
  }

  /** A Prometheus with the configuration of deploy/, which scrapes the target every second. */
  static async start(t: Test, dir: string, target: string): Promise<Prometheus> {
    const config = readText('deploy/monitoring/prometheus.yml')
    const quick = config.replaceAll('15s', '1s').replace('127.0.0.1:7412', target)
    t.not(quick, config)
    writeFileSync(join(dir, 'prometheus.yml'), quick)
    copyFileSync(join(ROOT, RULES), join(dir, 'mmsb-alerts.yml'))
    const address = `127.0.0.1:${await freePort()}`
    const prometheus = new Prometheus(`http://${address}`, [
      `--config.file=${join(dir, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(dir, 'tsdb')}`,
      `--web.listen-address=${address}`,
    ])
    t.teardown(async () => {
      const ended = once(prometheus.#child, 'close')
      if (prometheus.#child.kill()) await ended
    })
    await until(() => {
      if (prometheus.#child.exitCode !== null) throw new Error(prometheus.#log)
      return prometheus.#is('/-/ready')
    }, 'Prometheus')
    return prometheus
  }

  async #is(path: string): Promise<boolean> {
    return (await fetch(`${this.#url}${path}`).catch(() => undefined))?.status === 200
  }

  /** The data of an answer of its API; throws what it says if it refuses. */
  async ask<T>(path: string, query: Readonly<Record<string, string>> = {}): Promise<T> {
    const response = await fetch(`${this.#url}/api/v1/${path}?${new URLSearchParams(query)}`)
    const answer = (await response.json()) as { status: string; error?: string; data: T }
    if (answer.status !== 'success') throw new Error(`${JSON.stringify(query)}: ${answer.error}`)
    return answer.data
  }

  /** The numbers that a query gives now. */
  async numbers(query: string): Promise<number[]> {
    const { result } = await this.ask<Answer>('query', { query })
    return result.map(({ value }) => Number(value[1]))
  }
}

/** Writers and readers for some seconds; the readers go on. */
async function load(t: Test, url: string): Promise<void> {
  const bus = connect(url)
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'f64', shape: [100] })
  await bus.derive('b', { op: 'map', inputs: { x: 'a' }, expr: 'x*2' })
  const reading = (async () => {
    for await (const change of bus.subscribe({ pages: ['*'], durable: 'reader' })) void change
  })()
  reading.catch(() => {})
  const endMs = Date.now() + LOAD_MS
  for (let i = 0; Date.now() < endMs; i++) {
    await bus.patch('a', { offset: i % 100, values: [i] })
    await sleep(20)
  }
}

async function adminOf(server: Process): Promise<string> {
  await server.ready()
  return /^mmsb admin listening on http:\/\/(\S+)$/m.exec(server.stdout)![1]!
}

t.test('every query has an answer', { skip: skipWithout('prometheus') }, async (t) => {
  const dir = t.testdir()
  const server = serve(t, ['--data-dir', join(dir, 'data'), '--admin-listen', '127.0.0.1:0'])
  const admin = await adminOf(server)
  const prometheus = await Prometheus.start(t, dir, admin)
  // It begins to scrape some seconds after it is ready.
  await until(async () => (await prometheus.numbers('up')).length > 0, 'the first scrape')
  await load(t, await server.ready())

  const numbers = async (query: string): Promise<number[]> => prometheus.numbers(filledIn(query))
  let count = 0
  for (const { title, type, targets = [] } of dashboard.panels) {
    if (type !== 'row') t.ok(targets.length > 0, title)
    for (const { expr } of targets) {
      count++
      const found = await numbers(expr)
      t.ok(found.length > 0 && found.every(Number.isFinite), `${title}: ${expr} is ${found}`)
    }
  }
  t.ok(count > 30)
  const exprOf = (title: string): string =>
    dashboard.panels.find((panel) => panel.title === title)!.targets![0]!.expr
  t.same(await numbers(exprOf('State')), [1])
  t.same(await numbers(exprOf('Pages')), [2])
  const [commits] = await numbers(exprOf('Commits'))
  t.ok(commits! > 1, `${commits} commits a second`)

  for (const { type, query } of dashboard.templating.list) {
    if (type !== 'query') continue
    const [, series, label] = /^label_values\((.*), (\w+)\)$/.exec(filledIn(query))!
    const found = await prometheus.ask<Record<string, string>[]>('series', { 'match[]': series! })
    t.ok(
      found.some((labels) => labels[label!] !== undefined),
      query,
    )
  }
  for (const { expr } of dashboard.annotations.list) t.same(await numbers(expr), [], expr)

  const { groups } = await prometheus.ask<{
    groups: { rules: { name: string; health: string; state: string }[] }[]
  }>('rules')
  for (const { name, health, state } of groups.flatMap(({ rules }) => rules)) {
    t.equal(health, 'ok', name)
    t.equal(state, 'inactive', `${name}: nothing is wrong with the server`)
  }

  const shown = await (await fetch(`http://${admin}/metrics`)).text()
  for (const [name] of readText(RULES).matchAll(/\bmmsb_\w+/g))
    if (name !== WHILE_STARTING)
      t.match(shown, new RegExp(`^# TYPE ${name.replace(/_bucket$/, '')} `, 'm'), name)

  await server.end('SIGKILL')
  await until(async () => (await numbers('up{job="mmsb"}'))[0] === 0, 'a server that is gone')
})
