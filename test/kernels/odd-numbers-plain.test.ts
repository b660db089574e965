/** Odd numbers on the plain x86-64 build of the kernels, whose loops are others. */
import t from 'tap'
import { buildInfo } from '../../src/ffi/library.js'

process.env.MMSB_ISA = 'x86-64'
t.match(buildInfo(), { isa: 'x86-64' })
await import('./odd-numbers.test.js')
