/** Runs one definition on the native library, for tests that compare it with the reference. */
import { fullStep, NativeContext } from '../../src/ffi/context.js'
import { type CompiledDerivation, compileDerivation } from '../../src/kernels/op-catalogue.js'
import { elementCount } from '../../src/state/shape.js'
import type { UncheckedDerivation } from '../../src/state/types.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../../src/wire/dtype.js'
import type { TestPage } from '../reference/ops/record.js'

const NO_FRAMES = new Uint8Array(0)

export class NativeRunner {
  readonly #context = new NativeContext({ backend: 'cpu', threads: 1, quotaBytes: 0 })
  #nextId = 1

  /**
   * The derived page of `derive` over pages by name; in an earlier version of the op, if one is given. Throws
   * what the compiler throws.
   */
  run(
    derive: UncheckedDerivation,
    pages: Readonly<Record<string, TestPage>>,
    dtype?: Dtype,
    version?: number,
  ): { compiled: CompiledDerivation; values: TypedArray } {
    const names = Object.keys(pages)
    const firstId = this.#nextId
    const compiled = compileDerivation(
      derive,
      (name) => ({ id: firstId + names.indexOf(name), ...pages[name]! }),
      { dtype },
    )
    this.#nextId += names.length + 1
    const outId = firstId + names.length
    const described = [...names.map((name) => pages[name]!), compiled]
    this.#context.createPages(
      described.map((page, i) => ({
        id: firstId + i,
        dtypeCode: DTYPE_INFO[page.dtype].code,
        shape: page.shape,
        location: 1,
        fill: 0n,
      })),
    )
    for (const [i, name] of names.entries()) {
      const { values } = pages[name]!
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      if (bytes.length > 0) this.#context.loadPage(firstId + i, 0, bytes)
    }
    const step = this.#context.createStep({
      opCode: compiled.opCode,
      opVersion: version ?? compiled.opVersion,
      outPage: outId,
      inputPages: compiled.inputs.map(({ id }) => id),
      params: compiled.params,
    })
    this.#context.execute(Uint32Array.of(fullStep(step)), NO_FRAMES)
    const count = elementCount(compiled.shape)
    const info = DTYPE_INFO[compiled.dtype]
    const values = info.view(new ArrayBuffer(count * info.sizeBytes), 0, count)
    if (count > 0) this.#context.readPage(outId, 0, values)
    this.#context.destroyStep(step)
    this.#context.destroyPages(Uint32Array.from(described, (_, i) => firstId + i))
    return { compiled, values }
  }

  close(): void {
    this.#context.close()
  }
}
