/**
 * One definition on the native library of dist/, on one thread, without a bus: the cost of an op and
 * nothing else. Each run is a full one: the op, the comparison with the old values, the writing and the
 * page's digest.
 */

import type { Derivation } from '../../src/state/types.js'
import type { Dtype, TypedArray } from '../../src/wire/dtype.js'

export interface BenchPage {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Two contents that differ everywhere: loaded in turn, so that all of the result changes. */
  readonly contents: readonly [TypedArray, TypedArray]
}

export type BenchPages = Readonly<Record<string, BenchPage>>

const importDist = (path: string): Promise<unknown> =>
  import(new URL(`../../dist/${path}`, import.meta.url).href)

const bytesOf = (values: TypedArray): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/**
 * CPU time of this process. For one thread against one thread it equals the time taken, without what else
 * runs on the machine.
 */
export function processorMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

export interface NativeCase {
  /**
   * Loads the other contents, or (`again`) the present ones, then does one full run; returns its CPU
   * milliseconds.
   */
  time(again?: boolean): number
  close(): void
}

/**
 * A chain: each definition reads the page before it as `x`. `fused` runs all in one native call, else
 * one call each.
 */
export async function prepareNative(
  derivations: readonly Derivation[],
  pages: BenchPages,
  fused = true,
): Promise<NativeCase> {
  const { fullStep, NativeContext } = (await importDist(
    'ffi/context.js',
  )) as typeof import('../../src/ffi/context.js')
  const { compileDerivation } = (await importDist(
    'kernels/op-catalogue.js',
  )) as typeof import('../../src/kernels/op-catalogue.js')
  const { DTYPE_INFO } = (await importDist('wire/dtype.js')) as typeof import('../../src/wire/dtype.js')
  const context = new NativeContext({ backend: 'cpu', threads: 1, quotaBytes: 0 })
  const known = new Map<string, { id: number; dtype: Dtype; shape: readonly number[] }>()
  const create = (name: string, { dtype, shape }: { dtype: Dtype; shape: readonly number[] }) => {
    const id = known.size + 1
    known.set(name, { id, dtype, shape })
    context.createPages([{ id, dtypeCode: DTYPE_INFO[dtype].code, shape, location: 1, fill: 0n }])
    return id
  }
  for (const [name, page] of Object.entries(pages)) create(name, page)
  const steps = derivations.map((derive, i) => {
    const compiled = compileDerivation(derive, (name) => known.get(name)!, { dtype: undefined })
    const { opCode, opVersion, inputs, params } = compiled
    const outPage = create(`y${i}`, compiled)
    const inputPages = inputs.map(({ id }) => id)
    return fullStep(context.createStep({ opCode, opVersion, outPage, inputPages, params }))
  })
  const calls = fused ? [Uint32Array.from(steps)] : steps.map((step) => Uint32Array.of(step))
  let turn = 0
  return {
    time(again = false) {
      if (!again) turn++
      for (const [name, { contents }] of Object.entries(pages)) {
        context.loadPage(known.get(name)!.id, 0, bytesOf(contents[(turn % 2) as 0 | 1]))
      }
      const started = processorMs()
      for (const call of calls) context.execute(call, new Uint8Array(0))
      return processorMs() - started
    },
    close: () => context.close(),
  }
}
