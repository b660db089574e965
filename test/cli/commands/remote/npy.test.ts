/** `mmsb get` and `mmsb set` with .npy files, pipes, and pages of more than one piece. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { decodeNpyHeader, encodeNpyHeader } from '../../../../src/state/npy.js'
import { plainEnvironment } from '../../../lib/environment.js'
import { ENTRY } from '../../process.js'
import { jsonOf, served } from './server.js'

// Many processes, one after the other.
t.setTimeout(120_000)

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
  const elements = 2_500_000
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
    { code: 0, stdout: 'large: 2500000 elements in epoch 8\n' },
    'one epoch to create it, and two pieces',
  )
  const back = file.replace('large', 'back')
  t.match(await mmsb('get', 'large', '--npy', back), { code: 0 })
  t.ok(readFileSync(back).equals(bytes))
  const { stdout } = await mmsb('get', 'large')
  t.equal(stdout.length, Array.from(values).join(' ').length + 1)
  t.ok(stdout.endsWith('\n2499990 2499991 2499992 2499993 2499994 2499995 2499996 2499997 2499998 2499999\n'))
  const json = jsonOf<{ values: number[] }>(await mmsb('get', 'large', '--json', '--at', '1'))
  t.same([json.values.length, json.values[0], json.values.at(-1)], [elements - 1, 1, elements - 1])
  t.equal((await client.status()).epoch, 8)
})
