/**
 * What authentication and TLS cost: durable PATCHes with a token beside the same without, by processor time;
 * and over TLS, beside a bare Fastify with TLS.
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pairsOf } from '../lib/pairs.js'
import { createPage, DENSE, patchLoad } from '../lib/patch-load.js'
import { startBaseline } from '../lib/process.js'
import { startServer, TREE } from '../lib/tree.js'
import type { Context, Result } from '../lib/types.js'

const TOKEN_BUDGET = 1.03
const TLS_BUDGET = 0.85
const CONNECTIONS = 100
/** The clock ticks of Linux in /proc, as programs see them. */
const TICKS_PER_S = 100

export async function access(context: Context): Promise<Result[]> {
  return [await tokens(context), await tls(context)]
}

async function tokens(context: Context): Promise<Result> {
  const name = `REST PATCH with a token, ${DENSE.name}, ${CONNECTIONS} connections`
  context.say(name)
  const file = join(context.dir, 'tokens.json')
  const scopes = ['read:*', 'write:*', 'define:*']
  const flags = ['--auth-file', file, '--scope', scopes.join()]
  const token = execFileSync(
    process.execPath,
    [join(TREE, 'bin/mmsb.js'), 'token', 'create', 'bench', ...flags],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  ).trim()
  const headers = { authorization: `Bearer ${token}` }
  const guarded = await startServer({
    dataDir: join(context.dir, 'guarded'),
    args: ['--auth', 'token', '--auth-file', file],
  })
  const open = await startServer({ dataDir: join(context.dir, 'open') })
  await createPage(guarded.url, headers)
  await createPage(open.url)
  const durationS = context.quick ? 2 : 5
  const measure = (server: typeof open, given: Readonly<Record<string, string>>) => async () => {
    const before = processorSeconds(server.pid)
    const load = { connections: CONNECTIONS, durationS, headers: given }
    const { requests } = await patchLoad(server.url, DENSE, load)
    return ((processorSeconds(server.pid) - before) / requests) * 1e6
  }
  const [ours, theirs] = [measure(guarded, headers), measure(open, {})]
  await ours()
  await theirs()
  const pairs = await pairsOf(context, { name, better: 'lower' }, 11, ours, theirs)
  await guarded.stop()
  await open.stop()
  return {
    name,
    unit: 'us of processor time each',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'without authentication',
    ratio: pairs.ratio,
    budget: { text: `<= ${TOKEN_BUDGET}`, met: pairs.ratio <= TOKEN_BUDGET },
  }
}

async function tls(context: Context): Promise<Result> {
  const name = `REST PATCH over TLS, ${DENSE.name}, ${CONNECTIONS} connections`
  context.say(name)
  const [cert, key] = certificate(context.dir)
  // A page is created before TLS begins: fetch would refuse the certificate.
  const dataDir = join(context.dir, 'tls')
  const plain = await startServer({ dataDir })
  await createPage(plain.url)
  await plain.stop()
  const server = await startServer({ dataDir, args: ['--tls-cert', cert, '--tls-key', key] })
  const baseline = await startBaseline('fastify', cert, key)
  const durationS = context.quick ? 2 : 5
  const measure = (url: string) => async () =>
    (await patchLoad(url, DENSE, { connections: CONNECTIONS, durationS })).perSecond
  const [ours, theirs] = [measure(server.url), measure(`https://127.0.0.1:${baseline.port}`)]
  await ours()
  await theirs()
  const pairs = await pairsOf(context, { name, better: 'higher' }, 5, ours, theirs)
  await server.stop()
  await baseline.stop()
  return {
    name,
    unit: 'requests/s',
    mmsb: pairs.a,
    baseline: pairs.b,
    against: 'bare Fastify with TLS, nothing done',
    ratio: pairs.ratio,
    budget: { text: `>= ${TLS_BUDGET * 100} %`, met: pairs.ratio >= TLS_BUDGET },
  }
}

/** What a process has used, in user and system mode together. */
function processorSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S
}

/** A certificate for 127.0.0.1, and its key. */
function certificate(dir: string): readonly [cert: string, key: string] {
  const [cert, key] = [join(dir, 'tls.pem'), join(dir, 'tls.key')] as const
  const name = ['-subj', '/CN=bench', '-addext', 'subjectAltName=IP:127.0.0.1']
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  execFileSync('openssl', ['req', '-x509', '-days', '1', '-out', cert, '-keyout', key, ...curve, ...name], {
    stdio: 'pipe',
  })
  chmodSync(key, 0o600)
  return [cert, key]
}
