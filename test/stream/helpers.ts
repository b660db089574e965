/** A client of the stream that records its messages, and a mirror that applies them. */
import { once } from 'node:events'
import { type ClientOptions, WebSocket } from 'ws'

// Messages are JSON of many shapes; tests match them.
export interface Message {
  readonly type: string
  readonly history?: string
  readonly id?: string
  readonly epoch?: number
  readonly first?: number
  readonly code?: string
  readonly detail?: string
  readonly minEpoch?: number
  readonly resumeFrom?: number
  readonly changes?: readonly Changed[]
  readonly pages?: Readonly<
    Record<string, { dtype: string; shape: number[]; version: number; values: unknown[] }>
  >
}

export interface Changed {
  readonly page: string
  readonly kind: string
  readonly dtype?: string
  readonly shape?: number[]
  readonly ranges?: [number, number][]
  readonly values?: unknown[]
}

const WAIT_MS = 60_000

export class Client {
  readonly socket: WebSocket
  readonly messages: Message[] = []
  readonly binary: Buffer[] = []
  #waiting: { readonly isMet: () => boolean; readonly resolve: () => void }[] = []

  constructor(port: number, protocols: string[] = ['mmsb.v1.json'], options: ClientOptions = {}) {
    this.socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`, protocols, options)
    this.socket.on('error', () => {})
    this.socket.on('message', (data: Buffer, isBinary) => {
      if (isBinary) this.binary.push(data)
      else this.messages.push(JSON.parse(data.toString()) as Message)
      this.#waiting = this.#waiting.filter(({ isMet, resolve }) => {
        if (!isMet()) return true
        resolve()
        return false
      })
    })
  }

  static async open(port: number, protocols?: string[], options?: ClientOptions): Promise<Client> {
    const client = new Client(port, protocols, options)
    await once(client.socket, 'open')
    return client
  }

  send(message: unknown): void {
    this.socket.send(
      typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message),
    )
  }

  /** Resolves when `isMet` holds after a message. */
  until(isMet: () => boolean, what = 'condition'): Promise<void> {
    if (isMet()) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(
          new Error(`no ${what} after ${WAIT_MS} ms; got ${JSON.stringify(this.messages).slice(0, 2000)}`),
        )
      }, WAIT_MS)
      this.#waiting.push({
        isMet,
        resolve: () => {
          clearTimeout(timer)
          resolve()
        },
      })
    })
  }

  /** The first message that fits, waiting for it. */
  async next(fits: (message: Message) => boolean, what?: string): Promise<Message> {
    await this.until(() => this.messages.some(fits), what)
    return this.messages.find(fits)!
  }

  /** Sends a message and waits for the answer that carries its id. */
  async ask(message: { readonly id: string } & Record<string, unknown>): Promise<Message> {
    const from = this.messages.length
    this.send(message)
    await this.until(
      () => this.messages.slice(from).some(({ id }) => id === message.id),
      `answer to ${message.id}`,
    )
    return this.messages.slice(from).find(({ id }) => id === message.id)!
  }

  changes(id: string): Message[] {
    return this.messages.filter((m) => m.type === 'change' && m.id === id)
  }

  async close(): Promise<number> {
    if (this.socket.readyState === WebSocket.CLOSED) return 0
    const closed = once(this.socket, 'close')
    this.socket.close()
    const [code] = await closed
    return code as number
  }
}

/** The pages of a subscriber: snapshot and changes, applied in order. */
export class Mirror {
  readonly pages = new Map<string, unknown[]>()
  epoch = 0
  /** Violations of the guarantees. */
  readonly faults: string[] = []

  apply(message: Message): void {
    if (message.type === 'snapshot') {
      this.epoch = message.epoch!
      for (const [name, { values }] of Object.entries(message.pages!)) this.pages.set(name, [...values])
      return
    }
    if (message.type !== 'change') return
    if (message.first! <= this.epoch) this.faults.push(`change ${message.first} after ${this.epoch}`)
    if (message.epoch! < message.first!) this.faults.push(`change from ${message.first} to ${message.epoch}`)
    this.epoch = message.epoch!
    for (const change of message.changes!) this.#change(change)
  }

  #change({ page, kind, shape, ranges, values }: Changed): void {
    if (kind === 'deleted') {
      if (!this.pages.delete(page)) this.faults.push(`deleted ${page}, which was not there`)
      return
    }
    if (kind === 'created') {
      if (this.pages.has(page)) this.faults.push(`created ${page}, which was there`)
      this.pages.set(page, Array(shape!.reduce((product, size) => product * size, 1)))
    }
    const elements = this.pages.get(page)
    if (elements === undefined) {
      this.faults.push(`changed ${page}, which is not known`)
      return
    }
    let at = 0
    for (const [offset, count] of ranges!) {
      for (let i = 0; i < count; i++) elements[offset + i] = values![at++]
    }
    if (at !== values!.length) this.faults.push(`${page}: ${values!.length} values for ranges of ${at}`)
  }
}
