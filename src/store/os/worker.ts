/**
 * Starts worker threads and talks to them: numbered requests, each with one answer.
 *
 * Invariants: every request is answered, or rejected when the thread ends; `terminate` waits until the thread
 * has ended.
 */
import { Worker } from 'node:worker_threads'
import { textOf } from './errors.js'

/**
 * The built code runs as .js. The source runs as .ts, under a loader that a worker does not always inherit.
 */
const FROM_SOURCE = import.meta.url.endsWith('.ts')
/**
 * The program was given as text (`node --input-type=module -e`): a worker would inherit the option and be
 * refused, because it is a file.
 */
const IS_FROM_TEXT = process.execArgv.some((option) => option.startsWith('--input-type'))

/** Starts the worker `name` that lies beside the file with the URL `base`. */
export function startWorker(name: string, workerData: unknown, base: string): Worker {
  const url = new URL(`./${name}${FROM_SOURCE ? '.ts' : '.js'}`, base)
  // What these threads make is short-lived and little; Node's own choice costs three times as much memory.
  const resourceLimits = { maxYoungGenerationSizeMb: 16 }
  const options = { name: `mmsb-${name}`, workerData, resourceLimits }
  if (!FROM_SOURCE) return new Worker(url, IS_FROM_TEXT ? { ...options, execArgv: [] } : options)
  // The process may have changed its folder, from which code without a file would look for packages.
  const loader = JSON.stringify(import.meta.resolve('tsx/esm/api'))
  const begin = `import(${loader}).then((tsx) => { tsx.register(); return import(${JSON.stringify(url.href)}) })`
  return new Worker(begin, { ...options, eval: true, execArgv: [] })
}

export interface Answer {
  readonly id: number
  readonly value?: unknown
  readonly error?: string
  /** The system's or SQLite's code of the error. */
  readonly code?: string
}

interface Waiting {
  resolve(value: unknown): void
  reject(error: Error): void
}

/** Requests and answers over a worker's port, in order. */
export class WorkerClient {
  readonly #worker: Worker
  readonly #waiting = new Map<number, Waiting>()
  #nextId = 1
  #ended: string | undefined
  #isEnding = false

  constructor(worker: Worker) {
    this.#worker = worker
    worker.on('message', (answer: Answer) => {
      const waiting = this.#waiting.get(answer.id)
      this.#waiting.delete(answer.id)
      this.#refWhileBusy()
      if (answer.error === undefined) waiting?.resolve(answer.value)
      else waiting?.reject(Object.assign(new Error(answer.error), { code: answer.code ?? '' }))
    })
    worker.on('error', (error) => this.#end(textOf(error)))
    worker.on('exit', (code) => this.#end(`the thread ended with code ${code}`))
    this.#refWhileBusy()
  }

  /** A busy worker keeps the process alive, an idle one does not. */
  #refWhileBusy(): void {
    if (this.#waiting.size > 0 || this.#isEnding) this.#worker.ref()
    else this.#worker.unref()
  }

  #end(why: string): void {
    this.#ended ??= why
    for (const { reject } of this.#waiting.values()) reject(new Error(why))
    this.#waiting.clear()
  }

  request(body: object, transfer: readonly ArrayBuffer[] = []): Promise<unknown> {
    if (this.#ended !== undefined) return Promise.reject(new Error(this.#ended))
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      this.#waiting.set(id, { resolve, reject })
      this.#refWhileBusy()
      this.#worker.postMessage({ ...body, id }, transfer as ArrayBuffer[])
    })
  }

  async terminate(): Promise<void> {
    // The process must live until the thread has ended, or the promise would never settle.
    this.#isEnding = true
    this.#refWhileBusy()
    await this.#worker.terminate()
  }
}
