/**
 * The portable functions of math.cuh: error against 113-bit references, edge cases of C99 Annex F, and the
 * same bits from both builds. The sweep over all 2^32 f32 values is described in
 * docs/internals/DETERMINISM.md.
 */
import t from 'tap'
import { buildDriver, ISAS, runDriver } from './driver.js'

const FUNCTIONS = ['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh', 'pow']
const F32_STRIDE = '65521'
const F64_COUNT = '20000'

interface Measurement {
  readonly function: string
  readonly dtype: string
  readonly checked: number
  readonly maxUlp: number
  readonly x: string
}

const programs = await Promise.all(ISAS.map((isa) => buildDriver('math', isa, ['-lquadmath'])))
const fastest = programs.at(-1) ?? ''

for (const name of FUNCTIONS) {
  t.test(`${name} stays within its error`, async (t) => {
    const single: Measurement = JSON.parse(await runDriver(fastest, ['error', name, 'f32', F32_STRIDE]))
    const double: Measurement = JSON.parse(await runDriver(fastest, ['error', name, 'f64', F64_COUNT]))
    t.ok(single.checked >= 65_000)
    t.ok(single.maxUlp <= 0.501, `f32: ${single.maxUlp} ulp at ${single.x}`)
    t.ok(double.checked >= 180_000)
    t.ok(double.maxUlp <= 1.5, `f64: ${double.maxUlp} ulp at ${double.x}`)
  })
}

t.test('edge cases are those of C99 Annex F', async (t) => {
  for (const program of programs) {
    const lines = (await runDriver(program, ['edges'])).trim().split('\n')
    t.match(JSON.parse(lines.at(-1) ?? ''), { edges: true, failures: 0 })
  }
})

t.test('both builds give the same bits', { skip: programs.length < 2 && 'no AVX2' }, async (t) => {
  const [base, v3] = await Promise.all(programs.map((program) => runDriver(program, ['hash', '300000'])))
  t.equal(v3, base)
  t.equal(base?.trim().split('\n').length, 2 * FUNCTIONS.length)
})
