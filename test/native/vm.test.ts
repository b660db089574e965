/**
 * The expression VM: random programs against a plain evaluator, whole and in pieces, with the same bits on
 * both builds; integers and casts against wider arithmetic; damaged blobs.
 */
import t from 'tap'
import { buildDriver, ISAS, runDriver } from './driver.js'

const programs = await Promise.all(ISAS.map((isa) => buildDriver('vm', isa)))

t.test('machine code, VM and evaluator agree on random programs, and both builds do', async (t) => {
  const outputs = await Promise.all(programs.map((program) => runDriver(program, ['random', '0', '3000'])))
  const hashes = outputs.map((output) => /^hash ([0-9a-f]{16})$/m.exec(output)?.[1])
  for (const output of outputs) t.match(output, /^failures 0$/m)
  for (const hash of hashes) t.equal(hash, hashes[0])
  t.type(hashes[0], 'string')
  if (ISAS.includes('x86-64-v3')) {
    const [, compiled] = /^compiled (\d+) of 3000$/m.exec(outputs.at(-1) ?? '') ?? []
    t.ok(Number(compiled) > 300, 'many became machine code')
  }
})

t.test('integers wrap, floor and shift as documented', async (t) => {
  for (const program of programs) t.match(await runDriver(program, ['integers']), /^failures 0$/m)
})

t.test('// and % of floats are those of Python', async (t) => {
  for (const program of programs) t.match(await runDriver(program, ['divisions']), /^failures 0$/m)
})

t.test('casts saturate and round as documented', async (t) => {
  for (const program of programs) t.match(await runDriver(program, ['casts']), /^failures 0$/m)
})

t.test('damaged blobs are refused or run without harm', async (t) => {
  for (const program of programs) {
    const output = await runDriver(program, ['fuzz', '0', '20000'])
    const [, accepted] = /^accepted (\d+) of 20000$/m.exec(output) ?? []
    t.ok(Number(accepted) > 100, 'some are still programs')
    t.ok(Number(accepted) < 10_000, 'most are refused')
    t.match(output, /^failures 0$/m)
  }
})
