/** Worker threads that the test plays: what was sent to them, and the answers that it gives. */
import { EventEmitter } from 'node:events'
import { syncBuiltinESMExports } from 'node:module'
import type { Test } from 'tap'

export class PlayedWorker<Message extends { readonly id: number }, Data> extends EventEmitter {
  readonly data: Data
  /** Everything that was sent. */
  readonly sent: Message[] = []
  isEnding = false
  /** Resolves `terminate`. */
  #exited: (() => void) | undefined

  constructor(_url: URL, options: { readonly workerData: Data }) {
    super()
    this.data = options.workerData
  }

  postMessage(message: Message): void {
    this.sent.push(message)
  }

  get last(): Message {
    return this.sent.at(-1) as Message
  }

  /** Answers the newest message. */
  answer(value: unknown): void {
    this.emit('message', { id: this.last.id, value })
  }

  /** The thread ends, by itself or because it was asked to. */
  exit(): void {
    this.emit('exit', 1)
    this.#exited?.()
  }

  terminate(): Promise<void> {
    this.isEnding = true
    return new Promise((resolve) => {
      this.#exited = resolve
    })
  }

  ref(): void {}
  unref(): void {}
}

/** From now on until the end of the test, threads are played. The list gets each one that starts. */
export function playThreads<Message extends { readonly id: number }, Data>(
  t: Test,
): PlayedWorker<Message, Data>[] {
  const threads = process.getBuiltinModule('node:worker_threads') as { Worker: unknown }
  const { Worker } = threads
  const started: PlayedWorker<Message, Data>[] = []
  threads.Worker = class extends PlayedWorker<Message, Data> {
    constructor(url: URL, options: { readonly workerData: Data }) {
      super(url, options)
      started.push(this)
    }
  }
  syncBuiltinESMExports()
  t.teardown(() => {
    threads.Worker = Worker
    syncBuiltinESMExports()
  })
  return started
}
