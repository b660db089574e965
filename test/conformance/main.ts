/**
 * The conformance suite without a test framework: `node main.js [cpu|cuda] [graphs] [length,length...]`
 * compares that backend with one CPU thread and prints TAP. For machines that have only the offline bundle
 * (`make gpu-bundle`), and for another library than the built one (MMSB_LIBRARY): the emulated one.
 */
import { buildInfo, deviceCount } from '../../src/ffi/library.js'
import { chunksCase, graphCase, LARGE_LENGTH, LENGTHS, type Outcome, opCases } from './suite.js'

const backend = process.argv[2] === 'cpu' ? 'cpu' : 'cuda'
const seeds = Number(process.argv[3] ?? 100)
const lengths = process.argv[4]?.split(',').map(Number) ?? [...LENGTHS, LARGE_LENGTH]
const left = { backend: 'cpu', threads: 1 } as const
const right = backend === 'cuda' ? ({ backend } as const) : ({ backend, threads: 3 } as const)

let count = 0
let failed = 0

function report({ name, problems }: Outcome): void {
  count++
  if (problems.length > 0) failed++
  console.log(`${problems.length === 0 ? 'ok' : 'not ok'} ${count} - ${name}`)
  for (const problem of problems.slice(0, 5)) console.log(`# ${problem.replaceAll('\n', '\n# ')}`)
}

console.log(`TAP version 14\n# ${JSON.stringify(buildInfo())}`)
if (backend === 'cuda' && deviceCount() === 0) {
  console.log('1..0 # skipped: no CUDA device')
} else {
  for await (const outcome of opCases(left, right, lengths)) report(outcome)
  report(await chunksCase(left, right))
  for (let seed = 1; seed <= seeds; seed++) report(await graphCase(left, right, seed))
  console.log(`1..${count}\n# ${count - failed} passed, ${failed} failed`)
}
process.exitCode = failed === 0 ? 0 : 1
