/**
 * A small client of the public API: JSON over HTTP, and a WebSocket subscription that keeps a mirror
 * of the pages.
 *
 * Invariant: only a snapshot or one whole change message changes the mirror, so it always holds the state of
 * one epoch. Knows nothing of risk and imports nothing from src.
 */
import { WebSocket } from 'ws'

const ANSWER_TIMEOUT_MS = 20_000

/** Sends a JSON request; throws with the answer's text if the status is not 2xx. */
export async function request<T>(url: string, method: string, path: string, body?: unknown): Promise<T> {
  const response = await fetch(`${url}${path}`, {
    method,
    ...(body === undefined
      ? {}
      : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
  return JSON.parse(text) as T
}

export interface Change {
  readonly type: 'change'
  readonly epoch: number
  readonly changes: readonly {
    readonly page: string
    readonly kind: string
    readonly ranges: readonly (readonly [offset: number, count: number])[]
    readonly values?: readonly unknown[]
  }[]
}

export interface Subscription {
  /** Flat values of each page, as of `epoch()`. */
  readonly mirror: ReadonlyMap<string, readonly number[]>
  epoch(): number
  /** Resolves to the change message of that epoch; drops those of earlier epochs. */
  change(epoch: number): Promise<Change>
  close(): void
}

interface Snapshot {
  readonly type: 'snapshot'
  readonly epoch: number
  readonly pages: Readonly<Record<string, { readonly values: readonly unknown[] }>>
}

type Message = Snapshot | Change | { readonly type: 'subscribed' | 'progress' | 'error' }

/** Subscribes to a page pattern, with a snapshot first, and keeps the mirror. */
export async function subscribe(url: string, pattern: string): Promise<Subscription> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, 'mmsb.v1.json')
  const mirror = new Map<string, number[]>()
  const arrived = new Map<number, Change>()
  const waiting = new Map<number, (change: Change) => void>()
  let epoch = -1

  function receive(message: Message): void {
    if (message.type === 'snapshot') {
      for (const [page, { values }] of Object.entries(message.pages)) mirror.set(page, values.map(Number))
      epoch = message.epoch
    } else if (message.type === 'change') {
      apply(mirror, message)
      epoch = message.epoch
      const resolve = waiting.get(epoch)
      if (resolve === undefined) arrived.set(epoch, message)
      else resolve(message)
    }
  }

  function change(wanted: number): Promise<Change> {
    const early = arrived.get(wanted)
    arrived.clear()
    if (early !== undefined) return Promise.resolve(early)
    return new Promise((resolve, reject) => {
      const late = () => reject(new Error(`no change message for epoch ${wanted}`))
      const timer = setTimeout(late, ANSWER_TIMEOUT_MS)
      waiting.set(wanted, (message) => {
        clearTimeout(timer)
        waiting.delete(wanted)
        resolve(message)
      })
    })
  }

  await new Promise<void>((resolve, reject) => {
    const hello = { type: 'subscribe', id: 'demo', pages: [pattern], from: 'snapshot', data: 'values' }
    socket.on('open', () => socket.send(JSON.stringify(hello)))
    socket.on('error', reject)
    socket.on('message', (data) => {
      const message = JSON.parse(String(data)) as Message
      receive(message)
      if (message.type === 'snapshot') resolve()
      if (message.type === 'error') reject(new Error(`stream: ${String(data)}`))
    })
  })
  return { mirror, epoch: () => epoch, change, close: () => socket.terminate() }
}

function apply(mirror: Map<string, number[]>, change: Change): void {
  for (const { page, ranges, values } of change.changes) {
    const target = mirror.get(page) ?? []
    let next = 0
    for (const [offset, count] of ranges) {
      for (let i = 0; i < count; i++) target[offset + i] = Number(values![next++])
    }
    mirror.set(page, target)
  }
}
