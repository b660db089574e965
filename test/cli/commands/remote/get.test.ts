/** `mmsb get` against a real server: the whole, a part, the past, as text and as JSON. */
import t from 'tap'
import { get } from '../../../../src/cli/commands/remote/get.js'
import { ended, jsonOf, served } from './server.js'

// Many processes, one after the other.
t.setTimeout(120_000)

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
  const { url } = await served(t)
  for (const [args, code, message] of [
    [['nope'], 1, /^PAGE_NOT_FOUND: There is no page "nope"\.$/],
    [['a', '--epoch', '99'], 1, /^EPOCH_NOT_FOUND: [^\n]+ `mmsb status` shows the newest epoch\.$/],
    [['a', '--at', '2,0'], 1, /^--at: axis 0 has 2 elements/],
    [['a', '--at', '5', '--count', '2'], 1, /^--count: page "a" has 1 elements from there on, not 2/],
    [['a b'], 2, /^"a b" is not a page name$/],
    [[], 2, /^PAGE is missing/],
    [['a', 'b'], 2, /^unexpected argument "b"/],
    [['a', '--npy', '-', '--json'], 2, /both write to standard output/],
  ] as const) {
    const done = await ended(get, ['--url', url, ...args])
    t.equal(done.code, code, args.join(' '))
    t.match(done.line, message)
  }
})
