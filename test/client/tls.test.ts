/**
 * Options about TLS: what is refused at once, what the client trusts, and that nothing keeps the
 * process alive.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { connect as browserConnect } from '../../src/client/index.js'
import { connect } from '../../src/client/node.js'
import { Authority, pemOf } from '../auth/certificates.js'
import { serve } from '../cli/process.js'
import { plainEnvironment } from '../lib/environment.js'
import { moduleUrl } from '../lib/place.js'
import { until } from '../lib/wait.js'

const URL_ = 'https://127.0.0.1:1'

t.test('options that cannot work are refused, and no key is shown', async (t) => {
  const dir = t.testdir()
  const authority = new Authority(dir, 'ca')
  const one = pemOf(authority.certify('one'))
  const { key: otherKey } = pemOf(authority.certify('other'))
  const half = authority.pem.slice(0, 200)
  for (const [url, options, message] of [
    ['http://127.0.0.1:1', { ca: authority.pem }, /options\.ca: needs a URL with https/],
    ['http://127.0.0.1:1', one, /options\.cert: needs a URL with https/],
    [URL_, { ca: 'none' }, /options\.ca: is not a certificate in PEM/],
    [URL_, { ca: half }, /options\.ca: is not a certificate in PEM/],
    [URL_, { ca: authority.pem.replace(/\n[^\n]+\n[^\n]+\n/, '\n') }, /options\.ca: is not a certificate/],
    [URL_, { ca: 7 }, /options\.ca: is neither a text nor bytes/],
    [URL_, { cert: one.cert }, /options\.cert: needs `key`/],
    [URL_, { key: one.key }, /options\.key: needs `cert`/],
    [URL_, { cert: one.cert, key: otherKey }, /options\.cert: is not a certificate that fits `key`/],
    [URL_, { cert: one.key, key: one.key }, /options\.cert: is not a certificate that fits `key`/],
    [URL_, { ca: authority.pem, nothing: 1 }, /nothing/],
  ] as [string, object, RegExp][]) {
    const error = caught(() => connect(url, options))
    t.match(error, { code: 'INVALID_REQUEST', message }, String(message))
    t.notMatch(error.message, one.key.slice(30, 60))
  }
  t.throws(() => browserConnect(URL_, { ca: authority.pem }), {
    code: 'INVALID_REQUEST',
    message: /options\.ca: .* can be given in Node only/,
  })
  const bytes = connect(URL_, {
    ca: readFileSync(authority.cert),
    cert: Buffer.from(one.cert),
    key: Buffer.from(one.key),
  })
  await bytes.close()
})

function caught(run: () => unknown): Error {
  try {
    run()
  } catch (error) {
    return error as Error
  }
  throw new Error('nothing was thrown')
}

t.test('a server is trusted by the authorities that are given', async (t) => {
  const dir = t.testdir()
  const [mine, foreign] = [new Authority(dir, 'mine'), new Authority(dir, 'foreign')]
  const { cert, key } = mine.certify('server', { san: 'IP:127.0.0.1' })
  const server = serve(t, ['--data-dir', join(dir, 'data'), '--tls-cert', cert, '--tls-key', key])
  await until(() => server.stdout.includes('mmsb listening on https:'), 'readiness')
  const url = /https:\/\/\S+/.exec(server.stdout)![0]
  const tries = { retries: 0, timeoutMs: 20_000 }
  for (const options of [{}, { ca: foreign.pem }]) {
    const wary = connect(url, { ...tries, ...options })
    await t.rejects(wary.status(), { code: 'NETWORK', message: /certificate/ })
    await wary.close()
  }
  const client = connect(url, { ...tries, ca: `${foreign.pem}${mine.pem}` })
  t.equal((await client.create('a', { dtype: 'f64', shape: [1] })).name, 'a')
  const changes = client.subscribe({ pages: ['a'], from: 'snapshot' })[Symbol.asyncIterator]()
  t.match(await changes.next(), { value: { type: 'snapshot' } })
  await client.close()
  const program = `import { connect } from ${JSON.stringify(moduleUrl('src/client/node.ts'))}
    import { readFileSync } from 'node:fs'
    const client = connect(${JSON.stringify(url)}, { ca: readFileSync(${JSON.stringify(mine.cert)}) })
    await client.status()
    const startMs = performance.now()
    process.on('exit', () => console.log(performance.now() - startMs))
    await client.close()`
  const args = ['--import=tsx', '--input-type=module', '-e', program]
  const ms = Number(execFileSync(process.execPath, args, { encoding: 'utf8', env: plainEnvironment() }))
  t.ok(ms < 1_000, `the process ends ${ms} ms after its client`)
  t.equal(await server.end(), 0)
})
