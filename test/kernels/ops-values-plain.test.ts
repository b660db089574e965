/**
 * The same property tests on the plain x86-64 build of the kernels, which must compute the bits of the
 * vectorised one.
 */
import t from 'tap'
import { buildInfo } from '../../src/ffi/library.js'

process.env.MMSB_ISA = 'x86-64'
t.match(buildInfo(), { isa: 'x86-64' })
await import('./ops-values.test.js')
