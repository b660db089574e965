/** Requests to a worker: each is answered or rejected, and only a busy worker keeps the process alive. */
import { EventEmitter } from 'node:events'
import type { Worker } from 'node:worker_threads'
import t from 'tap'
import { WorkerClient } from '../../../src/store/os/worker.js'

/** A worker that notes what it is asked and whether it keeps the process alive. */
class FakeWorker extends EventEmitter {
  readonly asked: unknown[] = []
  isKept = true
  ref(): void {
    this.isKept = true
  }
  unref(): void {
    this.isKept = false
  }
  postMessage(body: unknown): void {
    this.asked.push(body)
  }
  async terminate(): Promise<void> {
    this.asked.push(this.isKept ? 'end, kept' : 'end')
  }
}

function started() {
  const worker = new FakeWorker()
  return { worker, client: new WorkerClient(worker as unknown as Worker) }
}

t.test('a worker keeps the process alive while a request waits, and not when it is idle', async (t) => {
  const { worker, client } = started()
  t.notOk(worker.isKept, 'before the first request')
  const answers = [client.request({ type: 'a' }), client.request({ type: 'b' })]
  t.ok(worker.isKept)
  t.same(worker.asked, [
    { type: 'a', id: 1 },
    { type: 'b', id: 2 },
  ])
  worker.emit('message', { id: 2, value: 'two' })
  t.ok(worker.isKept, 'one still waits')
  worker.emit('message', { id: 1, error: 'no', code: 'EIO' })
  t.notOk(worker.isKept, 'idle again')
  t.equal(await answers[1], 'two')
  await t.rejects(answers[0]!, { message: 'no', code: 'EIO' })
  await client.terminate()
  t.equal(worker.asked.at(-1), 'end, kept', 'the process lives until the thread has ended')
})

t.test('a thread that ends rejects what waits and what comes later, with the first reason', async (t) => {
  const { worker, client } = started()
  const waiting = client.request({ type: 'a' })
  worker.emit('error', new Error('out of memory'))
  worker.emit('exit', 1)
  await t.rejects(waiting, { message: /out of memory/ })
  await t.rejects(client.request({ type: 'b' }), { message: /out of memory/ })
  t.equal(worker.asked.length, 1)
})
