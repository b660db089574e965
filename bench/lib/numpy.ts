/**
 * NumPy on one thread in its own process, as a baseline: prepares cases, runs one on request and
 * reports its time.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export interface NumpyCase {
  /** Python that fills the arrays; it can use `np`, `rng` and `windows` (sliding_window_view). */
  readonly make: string
  /** The Python that is timed. */
  readonly run: string
  /** Python that runs before each timing and touches the inputs. */
  readonly flip: string
}

export class Numpy {
  readonly #child: ChildProcess
  readonly #lines: AsyncIterator<string>

  private constructor(child: ChildProcess, lines: Interface) {
    this.#child = child
    this.#lines = lines[Symbol.asyncIterator]()
  }

  /** Null when no python3 has NumPy. */
  static start(): Numpy | null {
    const hasNumpy = (python: string) => spawnSync(python, ['-c', 'import numpy']).status === 0
    const python = ['python3', '/usr/bin/python3'].find(hasNumpy)
    if (python === undefined) return null
    const script = fileURLToPath(new URL('../baselines/numpy_worker.py', import.meta.url))
    const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'inherit'] })
    process.once('exit', () => child.kill('SIGKILL'))
    return new Numpy(child, createInterface({ input: child.stdout! }))
  }

  async info(): Promise<{ version: string; blas: string }> {
    return (await this.#ask({ info: true })) as { version: string; blas: string }
  }

  async prepare(name: string, { make, run, flip }: NumpyCase): Promise<void> {
    await this.#ask({ case: name, make, run, flip })
  }

  /** CPU milliseconds of one run. */
  async time(name: string): Promise<number> {
    return ((await this.#ask({ time: name })) as { ns: number }).ns / 1e6
  }

  stop(): void {
    this.#child.kill('SIGKILL')
  }

  async #ask(command: object): Promise<object> {
    this.#child.stdin!.write(`${JSON.stringify(command)}\n`)
    const { value, done } = await this.#lines.next()
    if (done === true) throw new Error('NumPy ended')
    const answer = JSON.parse(value) as { error?: string }
    if (answer.error !== undefined) throw new Error(`NumPy: ${answer.error}`)
    return answer
  }
}
