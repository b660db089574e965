/**
 * Starts this room's worker threads and speaks with them: numbered requests, each with one answer.
 *
 * Invariants: a request is answered, or rejected when the thread ends; a worker that is asked to end is waited for.
 */
import { Worker } from 'node:worker_threads'
import { textOf } from './errors.js'

/** The built code runs as .js; the source, under a loader that a worker does not always inherit, as .ts. */
const FROM_SOURCE = import.meta.url.endsWith('.ts')

/** Starts the worker `name` that lies beside the file with the URL `base`. */
export function startWorker(name: string, workerData: unknown, base: string): Worker {
  const url = new URL(`./${name}${FROM_SOURCE ? '.ts' : '.js'}`, base)
  const options = { name: `mmsb-${name}`, workerData }
  if (!FROM_SOURCE) return new Worker(url, options)
  const begin = `import('tsx/esm/api').then((tsx) => { tsx.register(); return import(${JSON.stringify(url.href)}) })`
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
  private readonly waiting = new Map<number, Waiting>()
  private nextId = 1
  private ended: string | null = null
  private ending = false

  constructor(private readonly worker: Worker) {
    worker.on('message', (answer: Answer) => {
      const waiting = this.waiting.get(answer.id)
      this.waiting.delete(answer.id)
      this.refWhileWaiting()
      if (answer.error === undefined) waiting?.resolve(answer.value)
      else waiting?.reject(Object.assign(new Error(answer.error), { code: answer.code ?? '' }))
    })
    worker.on('error', (error) => this.end(textOf(error)))
    worker.on('exit', (code) => this.end(`the thread ended with code ${code}`))
    this.refWhileWaiting()
  }

  /** An idle worker does not keep the process alive; one at work does. */
  private refWhileWaiting(): void {
    if (this.waiting.size > 0 || this.ending) this.worker.ref()
    else this.worker.unref()
  }

  private end(why: string): void {
    this.ended ??= why
    for (const { reject } of this.waiting.values()) reject(new Error(why))
    this.waiting.clear()
  }

  request(body: object, transfer: readonly ArrayBuffer[] = []): Promise<unknown> {
    if (this.ended !== null) return Promise.reject(new Error(this.ended))
    return new Promise((resolve, reject) => {
      const id = this.nextId++
      this.waiting.set(id, { resolve, reject })
      this.refWhileWaiting()
      this.worker.postMessage({ ...body, id }, transfer as ArrayBuffer[])
    })
  }

  async terminate(): Promise<void> {
    // Whoever waits for the end must live to see it.
    this.ending = true
    this.refWhileWaiting()
    await this.worker.terminate()
  }
}
