/** The metrics follow the conventions of Prometheus, as `promtool check metrics` knows them. */
import { execFile, spawnSync } from 'node:child_process'
import t from 'tap'
import { createStartingMetrics } from '../../src/http/metrics.js'
import { serve } from './helpers.js'

interface Family {
  readonly name: string
  readonly help: string
  readonly type: string
  readonly samples: Sample[]
}

interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(\{.*\})? ([-+\d.eE]+|N[aA][nN]|[+-]Inf)$/

/** The text format, read strictly: HELP, then TYPE, then the samples of a family, once each. */
function parse(text: string): Family[] {
  const families: Family[] = []
  const lines = text.split('\n').filter((line) => line !== '')
  for (let at = 0; at < lines.length; ) {
    const [, name = '', help = ''] = /^# HELP (\S+) (.*)$/.exec(lines[at++]!) ?? []
    const [, typed, type = ''] = /^# TYPE (\S+) (\w+)$/.exec(lines[at++] ?? '') ?? []
    if (name === '' || typed !== name) throw new Error(`${lines[at - 2]}: no HELP and TYPE`)
    if (families.some((family) => family.name === name)) throw new Error(`${name} comes twice`)
    const samples: Sample[] = []
    while (at < lines.length && !lines[at]!.startsWith('#')) {
      const [, sample, labels = '', value] = SAMPLE.exec(lines[at]!) ?? []
      if (sample === undefined) throw new Error(`${lines[at]}: is no sample`)
      const pairs = [...labels.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)]
      samples.push({
        name: sample,
        labels: Object.fromEntries(pairs.map(([, key, text]) => [key, text])),
        value: Number(value!.replace('Inf', 'Infinity')),
      })
      at++
    }
    families.push({ name, help, type, samples })
  }
  return families
}

const UNITS =
  /_(milliseconds|ms|microseconds|us|nanoseconds|ns|minutes|hours|days|s|sec|secs|kilobytes|kb|kib|megabytes|mb|mib|gb|gib|b|bits|percent|pct)(_|$)/

/** What is wrong with a family. */
function faultsOf({ name, help, type, samples }: Family): string[] {
  const faults: string[] = []
  const wrong = (is: boolean, fault: string): void => {
    if (is) faults.push(`${name}: ${fault}`)
  }
  wrong(help.trim() === '', 'has no help')
  wrong(!/^[a-z][a-z0-9_]*$/.test(name), 'is not snake case')
  wrong(UNITS.test(name), 'has another unit than seconds and bytes')
  wrong(!['counter', 'gauge', 'histogram', 'summary'].includes(type), `has type ${type}`)
  wrong((type === 'counter') !== name.endsWith('_total'), `is a ${type} with this name`)
  wrong(/_(bucket|count|sum)$/.test(name), 'has a suffix of histograms')
  wrong(/_?(counter|gauge|histogram|summary)(_|$)/.test(name), 'has its type in its name')
  const series = new Set<string>()
  for (const sample of samples) {
    const { labels } = sample
    const suffix = sample.name.slice(name.length)
    const expected = type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']
    wrong(!sample.name.startsWith(name) || !expected.includes(suffix), `has a sample ${sample.name}`)
    wrong('le' in labels !== (suffix === '_bucket'), 'has a label le')
    wrong('quantile' in labels, 'has a label quantile')
    wrong(!Object.keys(labels).every((label) => /^[a-z][a-z0-9_]*$/.test(label)), 'has a label in camel case')
    wrong(type === 'counter' && !(sample.value >= 0), `counts ${sample.value}`)
    const key = sample.name + JSON.stringify(Object.entries(labels).sort())
    wrong(series.has(key), `has ${key} twice`)
    series.add(key)
  }
  return faults
}

async function busyServer(t: Parameters<typeof serve>[0]): Promise<() => Promise<string>> {
  const { call } = await serve(t, { dataDir: t.testdir() })
  await call('PUT', '/v1/pages/a', { dtype: 'f32', shape: [4] })
  await call('PUT', '/v1/pages/b', { derive: { op: 'map', expr: 'x + 1', inputs: { x: 'a' } } })
  for (let i = 0; i < 5; i++) await call('PATCH', '/v1/pages/a/data', { values: [i] })
  return async () => String((await call('GET', '/metrics')).raw)
}

t.test('every metric follows the conventions', async (t) => {
  const scrape = await busyServer(t)
  const starting = createStartingMetrics(() => ({ state: 'recovering', percent: 40 }))
  for (const text of [await scrape(), await scrape(), await starting.metrics()]) {
    const families = parse(text)
    t.ok(families.length > 10)
    t.same(families.flatMap(faultsOf), [])
  }
})

t.test('one answer shows one state of the bus, the next answer that of its own time', async (t) => {
  const { bus, call } = await serve(t)
  const reads = t.capture(bus, 'stats', bus.stats)
  const epoch = async (): Promise<number> => {
    const text = String((await call('GET', '/metrics')).raw)
    return parse(text).find(({ name }) => name === 'mmsb_epoch')!.samples[0]!.value
  }
  t.equal(await epoch(), 0)
  t.equal(reads().length, 1)
  await bus.create('a', { dtype: 'f32', shape: [4] })
  t.equal(await epoch(), 1)
})

t.test('the rules find what is wrong', (t) => {
  const faults = (text: string): string[] => parse(text).flatMap(faultsOf)
  const family = (name: string, type: string, samples: string): string =>
    `# HELP ${name} Help\n# TYPE ${name} ${type}\n${samples}\n`
  t.same(faults(family('x_seconds', 'gauge', 'x_seconds 1')), [])
  t.match(faults(family('x_ms', 'gauge', 'x_ms 1')), [/unit/])
  t.match(faults(family('x', 'counter', 'x 1')), [/counter/])
  t.match(faults(family('x_total', 'gauge', 'x_total 1')), [/gauge/])
  t.match(faults(family('xY', 'gauge', 'xY 1')), [/snake/])
  t.match(faults(family('x', 'gauge', 'x{quantile="0.5"} 1')), [/quantile/])
  t.match(faults(family('x', 'gauge', 'x{a="1",b="2"} 1\nx{b="2",a="1"} 1')), [/twice/])
  t.throws(() => parse('x 1\n'), /HELP/)
  t.throws(() => parse(family('x', 'gauge', 'x 1').repeat(2)), /twice/)
  t.end()
})

t.test('stages of a commit are a histogram that can be added up over servers', async (t) => {
  const scrape = await busyServer(t)
  const stagesOf = async (): Promise<Family> =>
    parse(await scrape()).find(({ name }) => name === 'mmsb_stage_seconds')!
  const { type, samples } = await stagesOf()
  t.equal(type, 'histogram')
  const of = (stage: string, suffix: string) =>
    samples.filter(({ name, labels }) => labels.stage === stage && name.endsWith(suffix))
  for (const stage of ['commit', 'append', 'execute', 'publish']) {
    const buckets = of(stage, '_bucket')
    const values = buckets.map(({ value }) => value)
    t.same(
      values,
      [...values].sort((a, b) => a - b),
      `${stage}: cumulative`,
    )
    const [count] = of(stage, '_count')
    const [sum] = of(stage, '_sum')
    t.match(buckets.at(-1), { labels: { le: '+Inf' }, value: count!.value })
    t.ok(count!.value >= 5 && sum!.value > 0, `${stage}: ${count!.value} in ${sum!.value} s`)
    t.ok(sum!.value < 60, 'in seconds')
  }
  t.equal(of('commit', '_count')[0]!.value, 7, 'one for each transaction')
  const other = await (await busyServer(t))()
  const bounds = (family: Family) =>
    family.samples.filter(({ name }) => name.endsWith('_bucket')).map(({ labels }) => labels)
  const theirs = parse(other).find(({ name }) => name === 'mmsb_stage_seconds')!
  t.same(bounds(theirs), bounds(await stagesOf()), 'another server has the same buckets')
})

const promtool = (text: string): Promise<string> =>
  new Promise((done) => {
    const child = execFile('promtool', ['check', 'metrics'], (_error, out, err) => done(`${out}${err}`))
    child.stdin!.end(text)
  })
const hasPromtool = spawnSync('promtool', ['--version']).status === 0

t.test('promtool finds nothing', { skip: hasPromtool ? false : 'promtool is not installed' }, async (t) => {
  const scrape = await busyServer(t)
  t.equal(await promtool(await scrape()), '')
  t.match(await promtool('# HELP x_ms Help\n# TYPE x_ms gauge\nx_ms 1\n'), /x_ms/, 'it does look')
})
