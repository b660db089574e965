/** `mmsb get` and `mmsb set` against a real server: text, JSON, .npy files, pipes, parts, refusals. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { decodeNpyHeader, encodeNpyHeader } from '../../../../src/state/npy.js'
import { plainEnvironment } from '../../../lib/environment.js'
import { ENTRY } from '../../process.js'
import { jsonOf, served } from './server.js'

t.test('get: whole, a part, the past, JSON', async (t) => {
  const { mmsb, client } = await served(t)
  await client.patch('a', { offset: 4, values: [Number.NaN] })
  t.match(await mmsb('get', 'a'), { code: 0, stdout: '1 2 3\n4 NaN 6\n', stderr: '' })
  t.equal((await mmsb('get', 'b')).stdout, '2 4 6\n8 NaN 12\n')
  t.equal((await mmsb('get', 'a', '--epoch', '5')).stdout, '1 2 3\n4 5 6\n')
  t.equal((await mmsb('get', 'a', '--at', '0,2', '--count', '2')).stdout, '3\n4\n')
  t.equal((await mmsb('get', 'a', '--at', '5')).stdout, '6\n')
  t.equal((await mmsb('get', 'a', '--count', '0')).stdout, '')
  t.equal((await mmsb('get', 'n')).stdout, '-1 9007199254740993\n')
  t.same(jsonOf(await mmsb('get', 'a', '--json')), {
    name: 'a',
    dtype: 'f64',
    shape: [2, 3],
    epoch: 6,
    version: 6,
    values: [1, 2, 3, 4, 'NaN', 6],
  })
  t.same(jsonOf(await mmsb('get', 'n', '--at', '1', '--json', '--epoch', '5')), {
    name: 'n',
    dtype: 'i64',
    shape: [2],
    epoch: 5,
    version: 5,
    offset: 1,
    values: ['9007199254740993'],
  })
  await client.delete('n')
  t.equal((await mmsb('get', 'n', '--epoch', '5')).stdout, '-1 9007199254740993\n', 'a page that is gone')
})

t.test('get: refusals', async (t) => {
  const { mmsb } = await served(t)
  for (const [args, code, message] of [
    [['nope'], 1, /^mmsb: PAGE_NOT_FOUND: There is no page "nope"\.\n$/],
    [['a', '--epoch', '99'], 1, /^mmsb: EPOCH_NOT_FOUND: [^\n]+ `mmsb status` shows the newest epoch\.\n$/],
    [['a', '--at', '2,0'], 1, /^mmsb: --at: axis 0 has 2 elements/],
    [['a', '--at', '5', '--count', '2'], 1, /^mmsb: --count: page "a" has 1 elements from there on, not 2/],
    [['a b'], 2, /^mmsb: "a b" is not a page name\n/],
    [[], 2, /^mmsb: PAGE is missing/],
    [['a', 'b'], 2, /^mmsb: unexpected argument "b"/],
    [['a', '--npy', '-', '--json'], 2, /both write to standard output/],
  ] as const) {
    const done = await mmsb('get', ...args)
    t.same([done.code, done.stdout], [code, ''], args.join(' '))
    t.match(done.stderr, message)
  }
})

t.test('set: the whole, parts, merges, versions, new pages', async (t) => {
  const { mmsb, client } = await served(t)
  const page = async (name: string): Promise<unknown[]> => [...(await client.read(name)).values]
  t.match(await mmsb('set', 'a', '6,5,4,3,2,1'), {
    code: 0,
    stdout: 'a: 6 elements in epoch 6\n',
    stderr: '',
  })
  t.same(await page('a'), [6, 5, 4, 3, 2, 1])
  t.match(await mmsb('set', 'a', '-1,nan', '--at', '1,1'), { code: 0, stderr: '' })
  t.same(await page('a'), [6, 5, 4, 3, -1, NaN])
  t.match(await mmsb('set', 'a', '7', '8', '-9', '--at', '0'), { code: 0, stderr: '' })
  t.same((await page('a')).slice(0, 3), [7, 8, -9])
  t.match(await mmsb('set', 'a', '--at', '0', '--merge', 'add', '--', '-inf'), { code: 0, stderr: '' })
  t.equal((await page('a'))[0], Number.NEGATIVE_INFINITY)
  t.match(await mmsb('set', 'n', '9007199254740995', '--at', '0'), { code: 0, stderr: '' })
  t.equal((await page('n'))[0], 9007199254740995n)
  const { version } = await client.page('n')
  t.match(await mmsb('set', 'n', '1', '--at', '0', '--if-version', String(version)), { code: 0 })
  const moved = await mmsb('set', 'n', '2', '--at', '0', '--if-version', String(version))
  t.equal(moved.code, 1)
  t.match(moved.stderr, /^mmsb: PRECONDITION_FAILED: [^\n]+\n$/)
  t.equal((await page('n'))[0], 1n)
  const made = await mmsb('set', 'flags', 'true,false', '--create', 'bool,2x1', '--json')
  t.match(jsonOf(made), { page: 'flags', elements: 2, epoch: 13, version: 13 })
  t.match(await client.page('flags'), { dtype: 'bool', shape: [2, 1] })
  t.match(await mmsb('set', 'flags', '1,1', '--create', 'bool,2,1'), { code: 0 }, 'it is there already')
  t.match(await mmsb('set', 'one', '3', '--create', 'u8'), { code: 0 })
  t.match(await client.page('one'), { dtype: 'u8', shape: [] })
})

t.test('set: what is refused changes nothing', async (t) => {
  const { mmsb, client } = await served(t)
  const { epoch } = await client.status()
  const file = join(t.testdir({ 'words.txt': 'one two', 'cut.npy': '\x93NUMPY' }), 'words.txt')
  const short = file.replace('words.txt', 'short.npy')
  writeFileSync(short, Buffer.concat([encodeNpyHeader('f32', [6]), Buffer.alloc(24)]))
  for (const [args, code, message] of [
    [['a', '1,2'], 1, /^mmsb: page "a" is f64\[2,3\], 6 elements, and you gave 2; --at writes a part\n/],
    [['a', '1,2', '--at', '5'], 1, /^mmsb: --at: page "a" has room for 1 from there on, and you gave 2\n/],
    [['b', '1', '--at', '0'], 1, /^mmsb: page "b" is derived; set the pages/],
    [['nope', '1'], 1, /^mmsb: PAGE_NOT_FOUND/],
    [['a', '1', '--create', 'f32,6'], 1, /^mmsb: PAGE_EXISTS/],
    [['a', `@${short}`], 1, /^mmsb: page "a" is f64\[2,3\], and the file holds f32\[6\]/],
    [['a', '@/nope.npy'], 1, /^mmsb: \/nope\.npy: no such file/],
    [['a', '@/nope'], 1, /^mmsb: \/nope: no such file/],
    [['a', `@${file}`], 2, /^mmsb: values\[0\]: "one" is not a value of f64/],
    [['a', 'x', '--at', '0'], 2, /^mmsb: values\[0\]: "x" is not a value of f64/],
    [['n', '1.5', '--at', '0'], 2, /must be an integer/],
    [['c', '1', '--create', 'f16,1'], 2, /"f16" is not one of bool, u8/],
    [['c', '1', '--create', 'f64,-1'], 2, /--create: "-1" is not a whole number/],
    [['c', '1', '--create', 'auto'], 2, /auto is for \.npy files/],
    [['a', '1', '--at', '0', '--merge', 'mul'], 2, /--merge: "mul" is not one of set, add/],
    [['a', '1', '--at', '0', '--if-version', 'new'], 2, /--if-version: "new"/],
    [['a'], 2, /VALUES are missing/],
    [[], 2, /PAGE is missing/],
    [['a', '-', 'b'], 2, /unexpected argument "b"/],
  ] as const) {
    const done = await mmsb('set', ...args)
    t.same([done.code, done.stdout], [code, ''], args.join(' '))
    t.match(done.stderr, message)
  }
  t.equal((await client.status()).epoch, epoch)
})

t.test('.npy files and pipes', async (t) => {
  const { mmsb, url, client } = await served(t)
  const dir = t.testdir()
  const file = join(dir, 'a.npy')
  const written = await mmsb('get', 'a', '--npy', file)
  t.match(written, { code: 0, stdout: `${file}: f64[2,3] as of epoch 5\n`, stderr: '' })
  t.match(decodeNpyHeader(readFileSync(file)), { dtype: 'f64', shape: [2, 3] })
  t.match(await mmsb('set', 'copy', `@${file}`, '--create', 'auto'), { code: 0, stderr: '' })
  t.same([...(await client.read('copy')).values], [1, 2, 3, 4, 5, 6])
  t.match(jsonOf(await mmsb('get', 'n', '--at', '1', '--npy', file, '--json')), {
    name: 'n',
    shape: [1],
    file,
  })
  t.match(decodeNpyHeader(readFileSync(file)), { dtype: 'i64', shape: [1] })

  const shell = (command: string): string =>
    execFileSync(
      'bash',
      ['--norc', '-ec', `set -o pipefail; mmsb() { ${process.execPath} ${ENTRY} "$@"; }; ${command}`],
      {
        encoding: 'utf8',
        env: { ...plainEnvironment(), MMSB_URL: url },
      },
    )
  shell('mmsb get n --npy - | mmsb set piped - --create auto')
  t.same([...(await client.read('piped')).values], [-1n, 9007199254740993n])
  shell('mmsb get a --json | mmsb get a | mmsb set copy -')
  shell('printf "7 8\\n9,10;11\\t12" | mmsb set copy -')
  t.same([...(await client.read('copy')).values], [7, 8, 9, 10, 11, 12])
  t.equal(shell('mmsb get a | head -1'), '1 2 3\n')
})

t.test('a page of more than one piece', async (t) => {
  const { mmsb, client } = await served(t)
  const elements = 5_000_000
  const file = join(t.testdir(), 'large.npy')
  const values = Float64Array.from({ length: elements }, (_, i) => i)
  const bytes = Buffer.concat([encodeNpyHeader('f64', [elements / 10, 10]), Buffer.from(values.buffer)])
  writeFileSync(file, bytes)
  const late = ['--if-version', '1']
  const refused = await mmsb('set', 'large', `@${file}`, '--create', 'auto', ...late)
  t.equal(refused.code, 2)
  t.match(refused.stderr, /need more than one epoch/)
  const set = await mmsb('set', 'large', `@${file}`, '--create', 'auto')
  t.match(
    set,
    { code: 0, stdout: 'large: 5000000 elements in epoch 9\n' },
    'one epoch to create it, and three pieces',
  )
  const back = file.replace('large', 'back')
  t.match(await mmsb('get', 'large', '--npy', back), { code: 0 })
  t.ok(readFileSync(back).equals(bytes))
  const { stdout } = await mmsb('get', 'large')
  t.equal(stdout.length, Array.from(values).join(' ').length + 1)
  t.ok(stdout.endsWith('\n4999990 4999991 4999992 4999993 4999994 4999995 4999996 4999997 4999998 4999999\n'))
  const json = jsonOf<{ values: number[] }>(await mmsb('get', 'large', '--json', '--at', '1'))
  t.same([json.values.length, json.values[0], json.values.at(-1)], [elements - 1, 1, elements - 1])
  t.equal((await client.status()).epoch, 9)
})
