/** `mmsb set` against a real server: values from the command line, and what is refused. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { set } from '../../../../src/cli/commands/remote/set.js'
import { encodeNpyHeader } from '../../../../src/state/npy.js'
import { ended, jsonOf, served } from './server.js'

// Many processes, one after the other.
t.setTimeout(120_000)

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
  const { url, client } = await served(t)
  const { epoch } = await client.status()
  const file = join(t.testdir({ 'words.txt': 'one two', 'cut.npy': '\x93NUMPY' }), 'words.txt')
  const short = file.replace('words.txt', 'short.npy')
  writeFileSync(short, Buffer.concat([encodeNpyHeader('f32', [6]), Buffer.alloc(24)]))
  for (const [args, code, message] of [
    [['a', '1,2'], 1, /^page "a" is f64\[2,3\], 6 elements, and you gave 2; --at writes a part$/],
    [['a', '1,2', '--at', '5'], 1, /^--at: page "a" has room for 1 from there on, and you gave 2$/],
    [['b', '1', '--at', '0'], 1, /^page "b" is derived; set the pages/],
    [['nope', '1'], 1, /^PAGE_NOT_FOUND/],
    [['a', '1', '--create', 'f32,6'], 1, /^PAGE_EXISTS/],
    [['a', `@${short}`], 1, /^page "a" is f64\[2,3\], and the file holds f32\[6\]/],
    [['a', '@/nope.npy'], 1, /^\/nope\.npy: no such file/],
    [['a', '@/nope'], 1, /ENOENT.*\/nope/],
    [['a', `@${file}`], 2, /^values\[0\]: "one" is not a value of f64/],
    [['a', 'x', '--at', '0'], 2, /^values\[0\]: "x" is not a value of f64/],
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
    const done = await ended(set, ['--url', url, ...args])
    t.equal(done.code, code, args.join(' '))
    t.match(done.line, message)
  }
  t.equal((await client.status()).epoch, epoch)
})
