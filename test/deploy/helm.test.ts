/**
 * The chart for Kubernetes: what it renders is valid by the schemas of Kubernetes, a server starts with what
 * it says, and values that make no sense are refused.
 */
import { copyFileSync, mkdirSync } from 'node:fs'
import { request as requestPlain } from 'node:http'
import { request as requestTls } from 'node:https'
import { join } from 'node:path'
import { StatefulSet } from 'kubernetes-models/apps/v1/StatefulSet'
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1/NetworkPolicy'
import { Service } from 'kubernetes-models/v1/Service'
import t, { type Test } from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { addToken } from '../../src/auth/token-file.js'
import { Process } from '../cli/process.js'
import { until } from '../lib/wait.js'
import { certificate } from '../support/certificate.js'
import { readText, runProgram, skipWithout } from './tools.js'

t.setTimeout(110_000)
const CHART = 'deploy/helm/mmsb'
const VALUES = ['secured', 'open', 'issuer']
const skip = skipWithout('helm')

interface Manifest {
  readonly kind: string
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> }
}

const SCHEMAS = { StatefulSet, Service, NetworkPolicy } as const

function render(values: string): Manifest[] {
  const { code, stdout, stderr } = runProgram(
    'helm',
    'template',
    'bus',
    CHART,
    '-f',
    `test/deploy/helm/${values}.yaml`,
  )
  if (code !== 0) throw new Error(stderr)
  return parseAllDocuments(stdout).map((document) => document.toJS() as Manifest)
}

const setOf = (manifests: readonly Manifest[]): StatefulSet =>
  new StatefulSet(manifests.find(({ kind }) => kind === 'StatefulSet') as object)

t.test('manifests are valid', { skip }, async (t) => {
  for (const values of VALUES) {
    const lint = runProgram('helm', 'lint', '--strict', CHART, '-f', `test/deploy/helm/${values}.yaml`)
    t.equal(lint.code, 0, `${lint.stdout}${lint.stderr}`)
    const manifests = render(values)
    for (const manifest of manifests) {
      const Schema = SCHEMAS[manifest.kind as keyof typeof SCHEMAS]
      if (Schema !== undefined) t.doesNotThrow(() => new Schema(manifest as object).validate(), manifest.kind)
    }
    const kinds = manifests.map(({ kind }) => kind).sort()
    const all = ['NetworkPolicy', 'Service', 'Service', 'ServiceMonitor', 'StatefulSet']
    const left = { secured: [], open: ['NetworkPolicy', 'ServiceMonitor'], issuer: ['ServiceMonitor'] }[
      values
    ]!
    t.same(
      kinds,
      all.filter((kind) => !left.includes(kind as never)),
      values,
    )
  }
  const broken = setOf(render('open'))
  broken.spec!.template.spec!.containers[0]!.ports![0]!.containerPort = 'x' as never
  t.throws(() => broken.validate(), 'the schema finds a mistake')
})

t.test('the parts find each other', { skip }, async (t) => {
  const manifests = render('secured')
  const { spec } = setOf(manifests)
  const labels = spec!.template.metadata!.labels!
  const ports = spec!.template.spec!.containers[0]!.ports!.map(({ name }) => name)
  const services = manifests.filter(({ kind }) => kind === 'Service').map((one) => new Service(one as object))
  for (const { metadata, spec: service } of services) {
    t.match(labels, service!.selector!, `${metadata!.name} selects the pod`)
    for (const { targetPort } of service!.ports!)
      t.ok(ports.includes(targetPort as string), `port ${targetPort}`)
  }
  t.ok(
    services.some(
      ({ metadata, spec: service }) => metadata!.name === spec!.serviceName && service!.clusterIP === 'None',
    ),
  )
  const policy = new NetworkPolicy(manifests.find(({ kind }) => kind === 'NetworkPolicy') as object)
  t.match(labels, policy.spec!.podSelector!.matchLabels!)
  t.same(
    policy.spec!.ingress!.map(({ ports, from }) => [ports![0]!.port, from!.length]),
    [
      [7411, 1],
      [7412, 1],
    ],
  )
  const closed = new NetworkPolicy(render('issuer').find(({ kind }) => kind === 'NetworkPolicy') as object)
  t.same(
    closed.spec!.ingress!.map(({ ports }) => ports![0]!.port),
    [7411],
    'nobody but the node reaches metrics',
  )
  t.same(closed.spec!.egress, [])

  const monitor = manifests.find(({ kind }) => kind === 'ServiceMonitor') as unknown as {
    spec: { selector: { matchLabels: object }; endpoints: { port: string; relabelings: object[] }[] }
  }
  const watched = services.filter(({ metadata }) =>
    matches(metadata!.labels!, monitor.spec.selector.matchLabels),
  )
  t.same(
    watched.map(({ metadata }) => metadata!.name),
    [spec!.serviceName],
    'the monitor finds one service',
  )
  t.same(monitor.spec.endpoints[0], {
    port: 'admin',
    path: '/metrics',
    interval: '5s',
    relabelings: [{ targetLabel: 'job', replacement: 'mmsb' }],
  })
})

const matches = (labels: object, wanted: object): boolean =>
  Object.entries(wanted).every(([name, value]) => (labels as Record<string, unknown>)[name] === value)

t.test('a pod can do little', { skip }, async (t) => {
  for (const values of VALUES) {
    const { spec } = setOf(render(values)).spec!.template
    t.match(spec, { automountServiceAccountToken: false, enableServiceLinks: false })
    t.match(spec!.securityContext, {
      runAsNonRoot: true,
      runAsUser: 7411,
      fsGroup: 7411,
      seccompProfile: { type: 'RuntimeDefault' },
    })
    t.match(spec!.containers[0]!.securityContext, {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    })
    for (const { secret } of spec!.volumes!) if (secret !== undefined) t.equal(secret.defaultMode, 0o440)
  }
})

/** Sends GET over TLS or without; the status. */
function statusOf(url: string, token: string, host?: string): Promise<number> {
  const request = url.startsWith('https:') ? requestTls : requestPlain
  const headers = { authorization: `Bearer ${token}`, ...(host === undefined ? {} : { host }) }
  return new Promise((resolve, reject) => {
    request(url, { headers, agent: false, rejectUnauthorized: false } as object, (response) => {
      response.resume().on('end', () => resolve(response.statusCode!))
    })
      .on('error', reject)
      .end()
  })
}

/** Starts a server with what the pod says, with its folders and ports in other places. */
async function startAsPod(t: Test, values: string): Promise<void> {
  const { spec } = setOf(render(values)).spec!.template
  const { args, env = [], startupProbe, readinessProbe, livenessProbe } = spec!.containers[0]!
  const dir = t.testdir()
  for (const folder of ['tokens', 'tls', 'data']) mkdirSync(join(dir, folder))
  const { token } = addToken(join(dir, 'tokens', 'tokens.json'), { id: 'desk', scopes: ['read:*'] })
  const pair = certificate(dir, 'pod')
  copyFileSync(pair.cert, join(dir, 'tls', 'tls.crt'))
  copyFileSync(pair.key, join(dir, 'tls', 'tls.key'))
  const places: readonly (readonly [string, string])[] = [
    ['/etc/mmsb', dir],
    ['/var/lib/mmsb', dir],
    ['--port=7411', '--port=0'],
    [':7412', ':0'],
  ]
  const here = args!.map((arg) => places.reduce((text, [from, to]) => text.replace(from, to), arg))
  const environment = Object.fromEntries(env.map(({ name, value }) => [name, value!]))
  const server = new Process(here, { env: environment })
  t.teardown(() => server.end('SIGKILL'))
  const said = (pattern: RegExp): string => {
    if (server.child.exitCode !== null) throw new Error(server.stderr)
    return pattern.exec(server.stdout)?.[1] ?? ''
  }
  await until(() => said(/^mmsb listening on (\S+)$/m) !== '', 'readiness')
  const port = (pattern: RegExp): string => /\d+$/.exec(said(pattern))![0]
  const scheme = here.some((arg) => arg.startsWith('--tls-cert')) ? 'https' : 'http'
  const url = `${scheme}://127.0.0.1:${port(/^mmsb listening on (\S+)$/m)}/v1/status`
  t.equal(await statusOf(url, token), { secured: 200, open: 200, issuer: 401 }[values], 'with a token')
  t.equal(await statusOf(url, 'x'), { secured: 401, open: 200, issuer: 401 }[values], 'with none that counts')
  const admin = `http://127.0.0.1:${port(/^mmsb admin listening on (\S+)$/m)}`
  for (const { httpGet } of [startupProbe!, readinessProbe!, livenessProbe!]) {
    t.equal(httpGet!.port, 'admin')
    t.equal(await statusOf(`${admin}${httpGet!.path}`, ''), 200, httpGet!.path!)
  }
  t.equal(
    await statusOf(`${admin}/metrics`, '', '10.0.0.7:7412'),
    200,
    'Prometheus asks by the address of the pod',
  )
  t.equal(await server.end(), 0)
}

for (const values of VALUES)
  t.test(`a server starts as the chart says: ${values}`, { skip }, (t) => startAsPod(t, values))

t.test('values that make no sense are refused', { skip }, async (t) => {
  const secure = ['auth.tokensSecret=t', 'tls.secret=c']
  for (const [values, message] of [
    [[], /auth\.tokensSecret: name the Secret/],
    [['auth.mode=token\\,jwt', 'tls.secret=c'], /auth\.tokensSecret: name the Secret/],
    [['auth.tokensSecret=t'], /tls\.secret: name a Secret/],
    [[...secure, 'tls.disabled=true'], /exclude each other/],
    [[...secure, 'storage.size=much'], /storage/],
    [[...secure, 'storage.sise=1Gi'], /sise/],
    [[...secure, 'service.port=70000'], /port/],
    [[...secure, 'replicas=2'], /replicas/],
    [[...secure, 'extraArgs=--cut'], /extraArgs/],
    [[...secure, 'auth.mode='], /mode/],
  ] as const) {
    const { code, stderr } = runProgram(
      'helm',
      'template',
      'bus',
      CHART,
      ...values.flatMap((value) => ['--set', value]),
    )
    t.not(code, 0, values.join(' '))
    t.match(stderr, message)
  }
})

t.test('the chart is of this version', async (t) => {
  const { version } = JSON.parse(readText('package.json')) as { version: string }
  const chart = parse(readText(`${CHART}/Chart.yaml`)) as { version: string; appVersion: string }
  t.same([chart.version, chart.appVersion], [version, version])
})
